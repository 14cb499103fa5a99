//! [`Fetches`]: the bodies that popgate asked an upstream for, and which of them it may call whole.

use std::collections::BTreeSet;

use super::actors::Run;
use super::spelling::complete_lines;

#[derive(Default)]
pub(crate) struct Fetches<'a> {
    /// In the order of the commands.
    asked: Vec<Fetch<'a>>,
    /// Of the messages that were listed.
    uids: BTreeSet<u32>,
}

struct Fetch<'a> {
    tag: &'a [u8],
    uid: u32,
    progress: Progress,
}

/// What popgate has read of the answer to a FETCH.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Nothing,
    BodyBegun,
    /// The beginning of the next body that was asked for came behind the body.
    NextBodyBegun,
    Ok,
    /// NO or BAD.
    Refused,
}

impl<'a> Fetches<'a> {
    /// What became of the commands of a client, by what popgate has read of the answers.
    pub(crate) fn of(client: usize, run: &'a Run) -> Self {
        let mut all = Self::default();
        let mut listed_before = BTreeSet::new();
        for dial in 0..run.commands.len() {
            let more = Self::on_one(&run.commands[dial], &run.answered[dial]);
            if run.dialled_by[dial] == client {
                all.asked.extend(more.asked);
                all.uids.extend(more.uids);
            } else {
                listed_before.extend(more.uids);
            }
        }
        // Where nothing had changed, nothing was listed again.
        if all.uids.is_empty() {
            all.uids = listed_before;
        }
        all
    }

    fn on_one(commands: &'a [u8], answers: &[u8]) -> Self {
        let mut fetches = Self {
            asked: complete_lines(commands).filter_map(fetch).collect(),
            uids: BTreeSet::new(),
        };
        for line in lines_outside_literals(answers) {
            let upper = line.to_ascii_uppercase();
            match is_fetch(&upper) {
                true if contains(&upper, b"BODY[") => fetches.body(uid(&upper)),
                true => fetches.uids.extend(uid(&upper)),
                false => fetches.end(line),
            }
        }
        fetches
    }

    /// The UID behind a message-number.
    pub(crate) fn uid(&self, number: usize) -> Option<u32> {
        let index = number.checked_sub(1)?;
        self.uids.iter().nth(index).copied()
    }

    /// How often the body of this message was asked for.
    pub(crate) fn count(&self, uid: u32) -> usize {
        self.by_uid(uid).count()
    }

    /// Whether the message may be terminated whose body this FETCH of it brings, counted from 0.
    pub(crate) fn is_earned(&self, uid: u32, index: usize) -> bool {
        let fetch = self.by_uid(uid).nth(index);
        fetch.is_some_and(|fetch| matches!(fetch.progress, Progress::NextBodyBegun | Progress::Ok))
    }

    fn by_uid(&self, uid: u32) -> impl Iterator<Item = &Fetch<'a>> {
        self.asked.iter().filter(move |fetch| fetch.uid == uid)
    }

    fn body(&mut self, uid: Option<u32>) {
        let is_it = |fetch: &Fetch<'_>| {
            fetch.progress == Progress::Nothing && uid.is_none_or(|uid| uid == fetch.uid)
        };
        let Some(begun) = self.asked.iter().position(is_it) else {
            return;
        };
        for fetch in &mut self.asked {
            if fetch.progress == Progress::BodyBegun {
                fetch.progress = Progress::NextBodyBegun;
            }
        }
        self.asked[begun].progress = Progress::BodyBegun;
    }

    fn end(&mut self, line: &[u8]) {
        let mut words = line.trim_ascii_end().split(|octet| *octet == b' ');
        let (tag, condition) = (words.next(), words.next());
        let mut asked = self.asked.iter_mut();
        let fetch = asked.find(|fetch| Some(fetch.tag) == tag);
        // What was terminated already cannot be taken back.
        if let Some(fetch) = fetch.filter(|fetch| fetch.progress != Progress::NextBodyBegun) {
            fetch.progress = match condition {
                Some(condition) if condition.eq_ignore_ascii_case(b"OK") => Progress::Ok,
                _ => Progress::Refused,
            };
        }
    }
}

/// `TAG UID FETCH 7 (UID BODY.PEEK[]…)`
fn fetch(line: &[u8]) -> Option<Fetch<'_>> {
    let mut words = line.split(|octet| *octet == b' ');
    let tag = words.next()?;
    let is_it = words.next()? == b"UID" && words.next()? == b"FETCH";
    let uid = number(words.next()?)?;
    (is_it && contains(line, b"BODY.PEEK[]")).then_some(Fetch {
        tag,
        uid,
        progress: Progress::Nothing,
    })
}

fn is_fetch(line: &[u8]) -> bool {
    line.starts_with(b"* ") && contains(line, b" FETCH (")
}

/// Where it stands before the body.
fn uid(line: &[u8]) -> Option<u32> {
    let start = memchr::memmem::find(line, b"UID ")? + b"UID ".len();
    let end = line[start..]
        .iter()
        .position(|octet| !octet.is_ascii_digit())?;
    number(&line[start..start + end])
}

fn number(digits: &[u8]) -> Option<u32> {
    str::from_utf8(digits).ok()?.parse().ok()
}

fn contains(line: &[u8], words: &[u8]) -> bool {
    memchr::memmem::find(line, words).is_some()
}

/// The complete lines of responses, and not those of their literals.
fn lines_outside_literals(octets: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = octets;
    while let Some(line) = complete_lines(rest).next() {
        lines.push(line);
        let literal = literal_octets(line).unwrap_or(0);
        rest = rest[line.len()..].get(literal..).unwrap_or_default();
    }
    lines
}

fn literal_octets(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"}\r\n")?;
    let brace = memchr::memrchr(b'{', line)?;
    str::from_utf8(&line[brace + 1..]).ok()?.parse().ok()
}
