//! What the sample mailbox begins with: mail that is pleasant to read and hard on mail programs.

use super::date::InternalDate;
use super::mailbox::SampleStore;

/// How many messages are in the INBOX at first.
pub(super) const COUNT: usize = MESSAGES.len();

/// When it arrived, and the message.
const MESSAGES: [(&str, &[u8]); 8] = [
    (
        "02-Nov-2026 09:00:01 +0000",
        include_bytes!("messages/1-welcome.eml"),
    ),
    (
        "03-Nov-2026 17:21:09 +0000",
        include_bytes!("messages/2-dots.eml"),
    ),
    (
        "04-Nov-2026 11:05:51 +0000",
        include_bytes!("messages/3-utf8.eml"),
    ),
    (
        "05-Nov-2026 08:00:20 +0000",
        include_bytes!("messages/4-attachment.eml"),
    ),
    (
        "06-Nov-2026 16:40:04 +0000",
        include_bytes!("messages/5-long-lines.eml"),
    ),
    (
        "07-Nov-2026 06:00:03 +0000",
        include_bytes!("messages/6-digest.eml"),
    ),
    (
        "10-Nov-2026 06:30:07 +0000",
        include_bytes!("messages/7-newsletter.eml"),
    ),
    (
        "11-Nov-2026 11:11:12 +0000",
        include_bytes!("messages/8-delete-me.eml"),
    ),
];

/// Puts them into the INBOX.
pub(super) fn deliver(store: &SampleStore) {
    let mut mailboxes = store.lock();
    let Ok(inbox) = mailboxes.find("INBOX") else {
        return;
    };
    for (date, octets) in MESSAGES {
        let date = InternalDate::parse(date).unwrap_or_else(InternalDate::now);
        // A new store has room for them; a test says so.
        let _ = mailboxes.append(inbox, octets.into(), Vec::new(), date);
    }
}

#[cfg(test)]
mod tests {
    use super::super::rfc822;
    use super::*;

    #[test]
    fn all_of_them_are_delivered() {
        let store = SampleStore::new(1);
        deliver(&store);
        let mailboxes = store.lock();
        let inbox = mailboxes.get(mailboxes.find("INBOX").expect("INBOX"));
        let dates = inbox
            .messages()
            .iter()
            .map(|it| it.internal_date().to_string());
        assert_eq!(dates.collect::<Vec<_>>(), MESSAGES.map(|it| it.0));
    }

    #[test]
    fn they_are_mail_as_rfc_5322_has_it() {
        for (date, message) in MESSAGES {
            let (header, _) = rfc822::split(message);
            for wanted in ["From", "To", "Subject", "Date", "Message-ID"] {
                let mut fields = rfc822::fields(header);
                let found = fields.any(|field| rfc822::name(field) == wanted.as_bytes());
                assert!(found, "{date}: {wanted}");
            }
            assert!(header.is_ascii(), "{date}");
            assert!(message.ends_with(b"\r\n"), "{date}");
            for line in message.split_inclusive(|&octet| octet == b'\n') {
                let text = line.strip_suffix(b"\r\n").expect("a line ends with CRLF");
                assert!(text.len() <= 998 && !text.contains(&b'\r'), "{date}");
            }
        }
    }

    /// What the messages are for.
    #[test]
    fn they_have_what_mail_programs_stumble_over() {
        let all = MESSAGES.map(|it| it.1).concat();
        let longest = all.split(|&octet| octet == b'\n').map(<[u8]>::len).max();
        assert_eq!(longest, Some(999)); // 998 and CR
        assert!(memchr::memmem::find(&all, b"\r\n.\r\n").is_some());
        assert!(memchr::memmem::find(&all, b"\r\n.profile\r\n").is_some());
        assert!(memchr::memmem::find(&all, "crème".as_bytes()).is_some());
    }
}
