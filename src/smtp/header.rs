//! The Message-ID of a message that streams by (RFC 5322 §3.6.4): [`MessageIdFinder`].

/// Octets of a Message-ID that is searched for; RFC 5322 §2.1.1 lets a line have 998.
const MESSAGE_ID_OCTETS_MAX: usize = 998;

/// Looks for the Message-ID while the header goes by, in chunks cut anywhere.
#[derive(Debug, Default)]
pub struct MessageIdFinder {
    /// What is known of the field that the header is in.
    field: Vec<u8>,
    /// What the current line begins with, as far as it matters.
    is_within_line: bool,
    is_complete: bool,
    found: Option<Vec<u8>>,
}

impl MessageIdFinder {
    /// Looks at a chunk of a message whose lines end with CRLF.
    pub fn push(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !self.is_complete && !rest.is_empty() {
            // A field ends where the next line does not begin with a blank (RFC 5322 §2.2.3).
            if !self.is_within_line && !matches!(rest[0], b' ' | b'\t') {
                self.end_field();
                if rest[0] == b'\r' {
                    self.is_complete = true;
                }
            }
            let newline = memchr::memchr(b'\n', rest);
            let line = &rest[..newline.unwrap_or(rest.len())];
            let room = (MESSAGE_ID_OCTETS_MAX + 64).saturating_sub(self.field.len());
            self.field.extend_from_slice(&line[..line.len().min(room)]);
            self.is_within_line = newline.is_none();
            rest = &rest[newline.map_or(rest.len(), |newline| newline + 1)..];
        }
    }

    fn end_field(&mut self) {
        let field = std::mem::take(&mut self.field);
        let Some(colon) = memchr::memchr(b':', &field) else {
            return;
        };
        if self.found.is_none()
            && field[..colon]
                .trim_ascii()
                .eq_ignore_ascii_case(b"Message-ID")
        {
            let id = field[colon + 1..].trim_ascii();
            let is_plain = id.iter().all(u8::is_ascii_graphic) && !id.contains(&b'"');
            let is_whole = id.starts_with(b"<") && id.ends_with(b">") && id.len() > 2;
            self.found =
                (is_plain && is_whole && id.len() <= MESSAGE_ID_OCTETS_MAX).then(|| id.to_vec());
        }
    }

    /// The Message-ID with its brackets, if it is one that can be searched for.
    pub fn found(&self) -> Option<&[u8]> {
        self.found.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(message: &str, cut: usize) -> Option<String> {
        let mut finder = MessageIdFinder::default();
        let (first, second) = message.as_bytes().split_at(cut.min(message.len()));
        finder.push(first);
        finder.push(second);
        finder
            .found()
            .map(|id| String::from_utf8_lossy(id).into_owned())
    }

    #[test]
    fn it_is_found_wherever_the_header_is_cut() {
        for (message, expected) in [
            ("Message-ID: <a@b>\r\n\r\n", Some("<a@b>")),
            (
                "Subject: x\r\nmessage-id:\r\n <a@b>\r\nTo: y\r\n\r\n",
                Some("<a@b>"),
            ),
            (
                "Message-Id: <a@b>\r\nMessage-ID: <c@d>\r\n\r\n",
                Some("<a@b>"),
            ),
            ("X: y\r\n Message-ID: <a@b>\r\n\r\n", None),
            ("X: y\r\n\r\nMessage-ID: <a@b>\r\n\r\n", None),
            ("\r\nMessage-ID: <a@b>\r\n\r\n", None),
            ("Message-ID: <a\"b>\r\n\r\n", None),
            ("Message-ID: a@b\r\n\r\n", None),
            ("Message-ID: <a b>\r\n\r\n", None),
            ("", None),
        ] {
            for cut in 0..=message.len() {
                assert_eq!(find(message, cut).as_deref(), expected, "{message:?} {cut}");
            }
        }
        let long = format!("Message-ID: <{}>\r\n\r\n", "x".repeat(5000));
        assert_eq!(find(&long, 0), None);
    }
}
