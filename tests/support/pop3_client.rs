//! As much of a POP3 client as it takes to tell one reply from the next.

use super::spelling::complete_lines;

/// What came back for one command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// In upper case; empty for the greeting, and for an answer within AUTH.
    pub(crate) verb: String,
    /// The message-number, if the command has one.
    pub(crate) number: Option<usize>,
    pub(crate) octets: Vec<u8>,
    /// Whether its last line has come, and the terminator if it is one with many.
    pub(crate) is_complete: bool,
    has_many_lines: bool,
}

impl Reply {
    pub(crate) fn is_ok(&self) -> bool {
        self.is_complete && self.octets.starts_with(b"+OK")
    }

    pub(crate) fn is_multi_line(&self) -> bool {
        self.has_many_lines && self.octets.starts_with(b"+OK")
    }

    /// Whether a message was asked for, or its beginning.
    pub(crate) fn is_message(&self) -> bool {
        matches!(self.verb.as_str(), "RETR" | "TOP")
    }

    /// Whether it tells of mail, and not of what popgate knows of its upstream.
    pub(crate) fn is_mail(&self) -> bool {
        !matches!(self.verb.as_str(), "CAPA" | "AUTH")
    }
}

/// The replies to the greeting and to every complete line that a client said, as far as they came.
pub(crate) fn replies(said: &[u8], heard: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    let mut unheard = heard;
    let mut within_auth = false;
    for command in std::iter::once(&b""[..]).chain(complete_lines(said)) {
        if unheard.is_empty() {
            break;
        }
        let (verb, argument) = match within_auth {
            true => (String::new(), None),
            false => understand(command),
        };
        let has_many_lines = has_many_lines(&verb, argument) && unheard.starts_with(b"+OK");
        let (octets, is_complete) = one(unheard, has_many_lines);
        within_auth = octets.starts_with(b"+ ");
        unheard = &unheard[octets.len()..];
        replies.push(Reply {
            verb,
            number: argument.and_then(|argument| str::from_utf8(argument).ok()?.parse().ok()),
            octets: octets.to_vec(),
            is_complete,
            has_many_lines,
        });
    }
    replies
}

/// Whether everything that was asked has been answered.
pub(crate) fn all_are_answered(said: &[u8], heard: &[u8]) -> bool {
    let replies = replies(said, heard);
    replies.len() == complete_lines(said).count() + 1
        && replies.iter().all(|reply| reply.is_complete)
}

/// The verb, and what follows it up to the next blank.
fn understand(command: &[u8]) -> (String, Option<&[u8]>) {
    let (verb, rest) = word(command.trim_ascii());
    let (argument, _) = word(rest.trim_ascii_start());
    let verb = String::from_utf8_lossy(verb).to_uppercase();
    (verb, (!argument.is_empty()).then_some(argument))
}

fn word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(memchr::memchr2(b' ', b'\t', text).unwrap_or(text.len()))
}

/// Whether `+OK` to this is followed by lines.
fn has_many_lines(verb: &str, argument: Option<&[u8]>) -> bool {
    match verb {
        "CAPA" | "RETR" | "TOP" => true,
        "LIST" | "UIDL" | "AUTH" => argument.is_none(),
        _ => false,
    }
}

/// One reply off the front, and whether it is complete.
fn one(heard: &[u8], has_many_lines: bool) -> (&[u8], bool) {
    let terminator = match has_many_lines {
        true => &b"\r\n.\r\n"[..],
        false => b"\n",
    };
    match memchr::memmem::find(heard, terminator) {
        Some(place) => (&heard[..place + terminator.len()], true),
        None => (heard, false),
    }
}
