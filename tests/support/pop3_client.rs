//! As much of a POP3 client as it takes to tell one reply from the next.

/// What came back for one command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// In upper case; empty for the greeting, and for an answer within AUTH.
    pub(crate) verb: String,
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

    /// Whether it tells of mail, and not of what popgate knows of its upstream.
    pub(crate) fn is_mail(&self) -> bool {
        !matches!(self.verb.as_str(), "CAPA" | "AUTH")
    }
}

/// The replies to the greeting and to every complete line that a client said, as far as they came.
pub(crate) fn replies(said: &[u8], heard: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    let mut unheard = heard;
    let lines = said.split_inclusive(|octet| *octet == b'\n');
    let complete = lines.filter(|line| line.ends_with(b"\n"));
    let mut within_auth = false;
    for command in std::iter::once(&b""[..]).chain(complete) {
        if unheard.is_empty() {
            break;
        }
        let (verb, has_many_lines) = match within_auth {
            true => (String::new(), false),
            false => understand(command),
        };
        let has_many_lines = has_many_lines && unheard.starts_with(b"+OK");
        let (octets, is_complete) = one(unheard, has_many_lines);
        within_auth = octets.starts_with(b"+ ");
        unheard = &unheard[octets.len()..];
        replies.push(Reply {
            verb,
            octets: octets.to_vec(),
            is_complete,
            has_many_lines,
        });
    }
    replies
}

/// Whether everything that was asked has been answered.
pub(crate) fn all_are_answered(said: &[u8], heard: &[u8]) -> bool {
    let commands = said.iter().filter(|octet| **octet == b'\n').count();
    let replies = replies(said, heard);
    replies.len() == commands + 1 && replies.iter().all(|reply| reply.is_complete)
}

/// The verb, and whether `+OK` to it is followed by lines.
fn understand(command: &[u8]) -> (String, bool) {
    let text = String::from_utf8_lossy(command).to_uppercase();
    let mut words = text.split_whitespace();
    let verb = words.next().unwrap_or_default().to_owned();
    let has_argument = words.next().is_some();
    let has_many_lines = match verb.as_str() {
        "CAPA" | "RETR" | "TOP" => true,
        "LIST" | "UIDL" | "AUTH" => !has_argument,
        _ => false,
    };
    (verb, has_many_lines)
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
