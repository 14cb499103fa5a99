//! What a copy of a sent message takes: APPEND (RFC 3501 §6.3.11, RFC 9755 §4), and to look for one.

use super::{Command, CommandName, Literals, MailboxName, Writer};

/// Whether a message has UTF-8 in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendedHeader {
    /// It is ASCII, as RFC 5322 has it.
    Ascii,
    /// It may be UTF-8 (RFC 6532); the upstream has UTF8=ACCEPT enabled.
    Utf8,
}

impl AppendedHeader {
    /// What follows the message.
    pub fn end(self) -> &'static [u8] {
        match self {
            Self::Ascii => b"\r\n",
            Self::Utf8 => b")\r\n",
        }
    }
}

impl Command {
    /// `APPEND mailbox (\Seen) {octets}` up to the message, which must follow it, and behind that
    /// [`AppendedHeader::end`].
    pub fn append(
        mailbox: &MailboxName,
        octets: u64,
        header: AppendedHeader,
        literals: Literals,
    ) -> Self {
        let mut writer = Writer::new(CommandName::Append, "APPEND ");
        writer.astring(mailbox.as_bytes(), literals);
        writer.text(" (\\Seen) ");
        match header {
            AppendedHeader::Ascii => writer.announce(octets, literals),
            // RFC 7888 §6 lets no literal8 go without waiting, unless there is BINARY.
            AppendedHeader::Utf8 => {
                writer
                    .text("UTF8 (~")
                    .announce(octets, Literals::Synchronizing);
            }
        }
        writer.unfinished()
    }

    /// `UID SEARCH HEADER Message-ID "id"`; `id` is printable ASCII.
    pub fn search_message_id(id: &[u8]) -> Self {
        let mut writer = Writer::new(CommandName::Search, "UID SEARCH HEADER Message-ID ");
        writer.quoted(id);
        writer.end()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::response::Tag;
    use super::*;

    fn parts(command: &Command) -> Vec<String> {
        let parts = command.parts(Tag(7));
        parts
            .map(|part| String::from_utf8_lossy(&part).into_owned())
            .collect()
    }

    #[test]
    fn an_append_waits_where_it_must() {
        use AppendedHeader::{Ascii, Utf8};
        let sent = MailboxName::from_wire(b"Sent Items".to_vec());
        for (octets, header, literals, expected) in [
            (
                9,
                Ascii,
                Literals::Plus,
                &["g7 APPEND \"Sent Items\" (\\Seen) {9+}\r\n"][..],
            ),
            (
                5000,
                Ascii,
                Literals::Minus,
                &["g7 APPEND \"Sent Items\" (\\Seen) {5000}\r\n", ""],
            ),
            (
                9,
                Utf8,
                Literals::Plus,
                &["g7 APPEND \"Sent Items\" (\\Seen) UTF8 (~{9}\r\n", ""],
            ),
        ] {
            let command = Command::append(&sent, octets, header, literals);
            assert_eq!(parts(&command), expected);
        }
        assert_eq!(
            parts(&Command::search_message_id(b"<a\\b@c>")),
            ["g7 UID SEARCH HEADER Message-ID \"<a\\\\b@c>\"\r\n"]
        );
    }
}
