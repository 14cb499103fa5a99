//! As much of an SMTP client as it takes to tell one reply from the next.

/// What came back for one thing that was said in full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) asked: Asked,
    /// All its lines, as far as they came.
    pub(crate) octets: Vec<u8>,
    pub(crate) is_complete: bool,
}

/// What a reply is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing: it is the greeting.
    Nothing,
    /// A command, its verb in upper case.
    Command(String),
    /// A message, which CRLF.CRLF or BDAT LAST has ended; of BDAT the last chunk.
    Message(Vec<u8>),
}

impl Reply {
    /// Whether it is complete and says yes.
    pub(crate) fn is_ok(&self) -> bool {
        self.is_complete && self.octets.starts_with(b"2")
    }

    pub(crate) fn is_to_message(&self) -> bool {
        matches!(self.asked, Asked::Message(_))
    }
}

/// The replies to the greeting and to everything that was said in full; those that have not come are
/// empty.
pub(crate) fn replies(said: &[u8], heard: &[u8]) -> Vec<Reply> {
    understand_all(said, heard).0
}

/// What was said, but for the part of a message of which it was not all.
pub(crate) fn said_in_full<'a>(said: &'a [u8], heard: &[u8]) -> &'a [u8] {
    let (_, rest) = understand_all(said, heard);
    &said[..said.len() - rest.len()]
}

/// The replies, and what was not said in full.
fn understand_all<'a>(said: &'a [u8], heard: &[u8]) -> (Vec<Reply>, &'a [u8]) {
    let mut replies: Vec<Reply> = Vec::new();
    let mut unheard = heard;
    let mut unsaid = Unsaid::new(said, false);
    let mut next = Some(Asked::Nothing);
    while let Some(asked) = next {
        let (octets, is_complete) = one_reply(unheard);
        unheard = &unheard[octets.len()..];
        unsaid.is_content =
            octets.starts_with(b"354") && asked == Asked::Command("DATA".to_owned());
        let is_content = unsaid.is_content;
        replies.push(Reply {
            asked,
            octets: octets.to_vec(),
            is_complete,
        });
        next = unsaid.next().map(|said| understand(said, is_content));
    }
    (replies, unsaid.rest())
}

/// Whether everything that was asked has been answered.
pub(crate) fn all_are_answered(said: &[u8], heard: &[u8]) -> bool {
    replies(said, heard).iter().all(|reply| reply.is_complete)
}

/// The messages that were said in full.
pub(crate) fn messages(said: &[u8], heard: &[u8]) -> Vec<Vec<u8>> {
    let asked = replies(said, heard).into_iter().map(|reply| reply.asked);
    asked
        .filter_map(|asked| match asked {
            Asked::Message(octets) => Some(octets),
            Asked::Nothing | Asked::Command(_) => None,
        })
        .collect()
}

fn understand(said: &[u8], is_content: bool) -> Asked {
    if is_content {
        return Asked::Message(said.to_vec());
    }
    let line = said
        .split(|octet| *octet == b'\n')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line).to_uppercase();
    let mut words = line.split_whitespace();
    match (words.next(), words.nth(1)) {
        (Some("BDAT"), Some("LAST")) => Asked::Message(said.to_vec()),
        (verb, _) => Asked::Command(verb.unwrap_or_default().to_owned()),
    }
}

/// What was said, unit by unit: a command, with its chunk if it is BDAT, or a message.
pub(crate) struct Unsaid<'a> {
    octets: &'a [u8],
    /// Whether a message is next.
    pub(crate) is_content: bool,
}

impl<'a> Unsaid<'a> {
    pub(crate) fn new(octets: &'a [u8], is_content: bool) -> Self {
        Self { octets, is_content }
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.octets
    }

    /// The next unit, if all of it was said.
    pub(crate) fn next(&mut self) -> Option<&'a [u8]> {
        let end = match (self.is_content, self.octets.starts_with(b".\r\n")) {
            (true, true) => 3,
            (true, false) => memchr::memmem::find(self.octets, b"\r\n.\r\n")? + 5,
            (false, _) => {
                let end = memchr::memchr(b'\n', self.octets)? + 1;
                end + chunk_octets(&self.octets[..end])
            }
        };
        let (unit, rest) = self.octets.split_at_checked(end)?;
        self.octets = rest;
        Some(unit)
    }
}

fn chunk_octets(line: &[u8]) -> usize {
    let line = String::from_utf8_lossy(line).to_uppercase();
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("BDAT"), Some(octets)) => octets.parse().unwrap_or(0),
        _ => 0,
    }
}

/// One reply off the front, and whether it is complete.
pub(crate) fn one_reply(heard: &[u8]) -> (&[u8], bool) {
    let mut end = 0;
    while let Some(newline) = memchr::memchr(b'\n', &heard[end..]) {
        let line = &heard[end..end + newline + 1];
        end += line.len();
        if line.get(3) != Some(&b'-') {
            return (&heard[..end], true);
        }
    }
    (heard, false)
}
