//! Where the header of a message ends and what its fields are (RFC 5322 §2.1).

/// The header including the empty line behind it, and the text.
pub(super) fn split(message: &[u8]) -> (&[u8], &[u8]) {
    if message.starts_with(b"\r\n") {
        return message.split_at(2);
    }
    let end = memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    message.split_at(end)
}

/// The fields of a header, each with the lines folded into it and the last CRLF.
pub(super) fn fields(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = header;
    std::iter::from_fn(move || {
        if rest.is_empty() || rest == b"\r\n" {
            return None;
        }
        let end = memchr::memchr_iter(b'\n', rest)
            .map(|at| at + 1)
            .find(|&at| !matches!(rest.get(at), Some(b' ' | b'\t')))
            .unwrap_or(rest.len());
        let (field, behind) = rest.split_at(end);
        rest = behind;
        Some(field)
    })
}

/// The name of a field, before its colon.
pub(super) fn name(field: &[u8]) -> &[u8] {
    let end = memchr::memchr(b':', field).unwrap_or(field.len());
    field[..end].trim_ascii_end()
}

/// What a field says, behind its colon, still folded.
pub(super) fn value(field: &[u8]) -> &[u8] {
    let start = memchr::memchr(b':', field).map_or(field.len(), |at| at + 1);
    field[start..].trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_end_at_the_first_empty_line() {
        let table: [(&[u8], usize); 6] = [
            (b"A: 1\r\n\r\ntext\r\n\r\nmore", 8),
            (b"A: 1\r\n\r\n", 8),
            (b"A: 1\r\n", 6),
            (b"A: 1", 4),
            (b"\r\ntext", 2),
            (b"", 0),
        ];
        for (message, octets) in table {
            assert_eq!(split(message).0.len(), octets, "{message:?}");
        }
    }

    #[test]
    fn folded_lines_belong_to_their_field() {
        let header = b"Subject: a\r\n long\r\n\tone\r\nTo: b\r\n\r\n";
        let found: Vec<_> = fields(header).map(|f| (name(f), value(f))).collect();
        let expected: [(&[u8], &[u8]); 2] = [(b"Subject", b"a\r\n long\r\n\tone"), (b"To", b"b")];
        assert_eq!(found, expected);
        assert_eq!(fields(b"\r\n").count(), 0);
        assert_eq!(fields(b"no colon").map(value).collect::<Vec<_>>(), [b""]);
    }
}
