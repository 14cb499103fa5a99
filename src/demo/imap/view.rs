//! What one connection has been told of its mailbox: which message has which sequence number.
//!
//! Another connection may change the mailbox at any time; the numbers change only when the
//! client hears of it (RFC 3501 §7.4.1).

use super::command::{Access, Numbering};
use super::sequence_set::SequenceSet;
use crate::demo::mailbox::{Flag, MailboxId, SampleMailbox, SampleMessage};

/// A message that the client knows.
#[derive(Debug, Clone, Copy)]
struct Known {
    uid: u32,
    flags_revision: u64,
}

/// A message that a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbered {
    /// Its message sequence number.
    pub(super) number: u32,
    pub(super) uid: u32,
}

/// Whether the client may hear now that messages are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expunges {
    Announced,
    /// While FETCH, STORE and SEARCH are under way, whose numbers would otherwise be ambiguous.
    Withheld,
}

/// The selected mailbox of one connection.
#[derive(Debug)]
pub(super) struct View {
    pub(super) mailbox: MailboxId,
    pub(super) access: Access,
    known: Vec<Known>, // by ascending UID
    uid_next: u32,
}

impl View {
    pub(super) fn new(id: MailboxId, mailbox: &SampleMailbox, access: Access) -> Self {
        Self {
            mailbox: id,
            access,
            known: mailbox.messages().iter().map(known).collect(),
            uid_next: mailbox.uid_next(),
        }
    }

    /// The messages of a set. A sequence number that there is not is the client's mistake; a UID
    /// is not (RFC 3501 §6.4.8).
    pub(super) fn messages(
        &self,
        set: &SequenceSet,
        numbering: Numbering,
    ) -> Result<Vec<Numbered>, NoSuchNumber> {
        let set = set.resolve(self.last(numbering));
        let exists = self.known.len() as u32;
        if numbering == Numbering::SequenceNumbers && set.highest() > exists {
            return Err(NoSuchNumber);
        }
        let addressed = |it: &Numbered| match numbering {
            Numbering::SequenceNumbers => set.contains(it.number),
            Numbering::Uids => set.contains(it.uid),
        };
        // In an empty mailbox "*" is 0, and nothing is addressed.
        Ok(self.all().filter(addressed).collect())
    }

    /// What `*` means.
    pub(super) fn last(&self, numbering: Numbering) -> u32 {
        match numbering {
            Numbering::SequenceNumbers => self.known.len() as u32,
            Numbering::Uids => self.known.last().map_or(0, |it| it.uid),
        }
    }

    /// Every message that the client knows.
    pub(super) fn all(&self) -> impl Iterator<Item = Numbered> {
        let numbered = (1..).zip(&self.known);
        numbered.map(|(number, known)| Numbered {
            number,
            uid: known.uid,
        })
    }

    /// Whether the client knows the flags that the message has.
    pub(super) fn knows_flags(&self, message: &SampleMessage) -> bool {
        let at = self.position(message.uid());
        at.is_some_and(|at| self.known[at].flags_revision == message.flags_revision())
    }

    /// The client was told the flags, or set them itself.
    pub(super) fn flags_told(&mut self, message: &SampleMessage) {
        if let Some(at) = self.position(message.uid()) {
            self.known[at] = known(message);
        }
    }

    /// Tells the client what has changed.
    pub(super) fn announce(
        &mut self,
        mailbox: &SampleMailbox,
        expunges: Expunges,
        output: &mut Vec<u8>,
    ) {
        if expunges == Expunges::Announced {
            self.announce_expunges(mailbox, output);
        }
        self.announce_arrivals(mailbox, output);
        self.announce_flags(mailbox, output);
    }

    fn announce_expunges(&mut self, mailbox: &SampleMailbox, output: &mut Vec<u8>) {
        let mut kept = 0;
        self.known.retain(|it| {
            let keep = mailbox.message(it.uid).is_some();
            match keep {
                true => kept += 1,
                // Each EXPUNGE renumbers what follows it.
                false => output.extend(format!("* {} EXPUNGE\r\n", kept + 1).into_bytes()),
            }
            keep
        });
    }

    fn announce_arrivals(&mut self, mailbox: &SampleMailbox, output: &mut Vec<u8>) {
        if mailbox.uid_next() == self.uid_next {
            return;
        }
        let messages = mailbox.messages();
        let old = messages.partition_point(|it| it.uid() < self.uid_next);
        self.uid_next = mailbox.uid_next();
        if old < messages.len() {
            self.known.extend(messages[old..].iter().map(known));
            output.extend(format!("* {} EXISTS\r\n", self.known.len()).into_bytes());
        }
    }

    fn announce_flags(&mut self, mailbox: &SampleMailbox, output: &mut Vec<u8>) {
        for (number, it) in (1..).zip(&mut self.known) {
            let Some(message) = mailbox.message(it.uid) else {
                continue;
            };
            if it.flags_revision != message.flags_revision() {
                *it = known(message);
                let flags = flag_list(message.flags());
                output.extend(format!("* {number} FETCH (FLAGS {flags})\r\n").into_bytes());
            }
        }
    }

    fn position(&self, uid: u32) -> Option<usize> {
        self.known.binary_search_by_key(&uid, |it| it.uid).ok()
    }
}

fn known(message: &SampleMessage) -> Known {
    Known {
        uid: message.uid(),
        flags_revision: message.flags_revision(),
    }
}

/// A message sequence number higher than what EXISTS said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoSuchNumber;

/// `flag-list = "(" [flag *(SP flag)] ")"`
pub(super) fn flag_list(flags: &[Flag]) -> String {
    let flags: Vec<_> = flags.iter().map(Flag::as_str).collect();
    format!("({})", flags.join(" "))
}
