//! What a copy of a sent message takes: APPEND (RFC 3501 §6.3.11, RFC 9755 §4), and to look for one.

use std::ops::RangeInclusive;

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

/// What is known of a copy of a message that may be in a mailbox.
#[derive(Debug, Clone)]
pub struct SoughtCopy<'a> {
    /// Printable ASCII.
    pub message_id: &'a [u8],
    /// Octets that it can have.
    pub octets: RangeInclusive<u64>,
    /// When it can have been stored.
    pub since: StoredSince,
}

/// The earliest time at which a message was stored.
#[derive(Debug, Clone)]
pub enum StoredSince {
    /// That day, like `1-Nov-2026`, wherever the upstream's midnight is.
    Day(String),
    /// So many seconds ago, which needs WITHIN (RFC 5032).
    Seconds(u64),
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

    /// `UID SEARCH SINCE day LARGER n SMALLER n HEADER Message-ID "id"`, or `YOUNGER seconds` for `SINCE day`.
    pub fn search_copy(sought: &SoughtCopy<'_>) -> Self {
        let mut writer = Writer::new(CommandName::Search, "UID SEARCH ");
        match &sought.since {
            StoredSince::Day(day) => writer.text("SINCE ").text(day),
            StoredSince::Seconds(seconds) => writer.text("YOUNGER ").text(&seconds.to_string()),
        };
        // Neither includes its own number (RFC 3501 §6.4.4), which has 32 bits.
        let larger = sought.octets.start().saturating_sub(1);
        let smaller = sought.octets.end().saturating_add(1);
        let [larger, smaller] = [larger, smaller].map(|octets| octets.min(u32::MAX.into()));
        writer.text(&format!(
            " LARGER {larger} SMALLER {smaller} HEADER Message-ID "
        ));
        writer.quoted(sought.message_id);
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
    }

    #[test]
    fn a_copy_is_looked_for_among_the_new_ones_of_its_size() {
        let sought = SoughtCopy {
            message_id: b"<a\\b@c>",
            octets: 100..=200,
            since: StoredSince::Day("1-Nov-2026".to_owned()),
        };
        assert_eq!(
            parts(&Command::search_copy(&sought)),
            [
                "g7 UID SEARCH SINCE 1-Nov-2026 LARGER 99 SMALLER 201 HEADER Message-ID \"<a\\\\b@c>\"\r\n"
            ]
        );
        let sought = SoughtCopy {
            octets: 0..=u64::MAX,
            since: StoredSince::Seconds(65),
            ..sought
        };
        assert_eq!(
            parts(&Command::search_copy(&sought)),
            [
                "g7 UID SEARCH YOUNGER 65 LARGER 0 SMALLER 4294967295 HEADER Message-ID \"<a\\\\b@c>\"\r\n"
            ]
        );
    }
}
