//! [`Snapshot`]: what a mailbox held when a session looked at it, and what has to be asked to know
//! what it holds now.
//!
//! UIDVALIDITY, UIDNEXT, EXISTS and, where there is one, HIGHESTMODSEQ come with SELECT. If none of
//! them has changed, nothing has. Otherwise little has to be asked: what came, whose flags changed, and
//! only if the numbers do not add up, what left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Listing, Octets};
use crate::imap::capability::{Capabilities, Capability};
use crate::imap::command::{ListingIdentity, ListingRange, MESSAGES_MAX};
use crate::imap::ids::{ModSeq, Uid, UidSet, UidValidity};

/// Octets of the UIDs that one answer to a SEARCH may spell, so that it fits into one line of those
/// that we accept, whichever messages it names.
const ANSWER_OCTETS_MAX: usize = 60_000;

/// Runs of UIDs up to which the upstream is asked who has vanished: one that does not remember names all
/// that is not there, in one line.
const RUNS_MAX: usize = 1000;

/// What a mailbox held.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// How many messages it had, as SELECT said.
    pub exists: u32,
    /// Under which its UIDs mean anything.
    pub validity: UidValidity,
    /// What was asked of the messages besides UID, size and flags.
    pub identity: ListingIdentity,
    /// From which UID on nothing was there, if SELECT said.
    pub uid_next: Option<Uid>,
    /// As of which modification, if SELECT said.
    pub mod_seq: Option<ModSeq>,
    /// The messages; of more than [`MESSAGES_MAX`] only the newest.
    pub listing: Arc<Listing>,
    /// Those whose flags conceal them from POP3: `\Deleted`, or the keyword of `keep`.
    pub concealed: UidSet,
    /// Whether any may bear that keyword. To search for one that a mailbox does not have makes some
    /// servers create it.
    pub may_hide: bool,
}

/// What SELECT says of a mailbox now.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// How many messages there are.
    pub exists: u32,
    /// UIDNEXT
    pub uid_next: Option<Uid>,
    /// HIGHESTMODSEQ
    pub mod_seq: Option<ModSeq>,
    /// Whether the keyword of `keep` is among FLAGS.
    pub may_hide: bool,
}

/// How an upstream tells what is different from an earlier snapshot (RFC 7162).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differences {
    /// Not at all.
    Untold,
    /// CONDSTORE: who came, and whose flags changed.
    Changed,
    /// QRESYNC: who has left, too.
    ChangedAndVanished,
}

/// Something to be asked of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Sizes and flags of messages.
    List(ListingRange),
    /// Which messages between these UIDs bear `\Deleted`.
    Deleted(Uid, Uid),
    /// Which messages between these UIDs bear `\Deleted` or the keyword of `keep`.
    DeletedOrHidden(Uid, Uid),
    /// Which messages between these UIDs are there at all.
    Present(Uid, Uid),
}

impl Snapshot {
    /// The newest messages that POP3 shows, at most `newest`. What is remembered counts more than what the
    /// upstream told.
    pub fn shown(&self, remembered: &Remembered, newest: u32) -> Arc<Listing> {
        let is_hidden = |uid: Uid| {
            (self.concealed.contains(uid) && !remembered.shown.contains(&uid))
                || remembered.hidden.contains(&uid)
        };
        let may_hide = !(self.concealed.is_empty() && remembered.hidden.is_empty());
        let is_shown = |place: &usize| {
            let message = self.listing.message(*place);
            message.is_some_and(|(uid, _)| !is_hidden(uid))
        };
        let messages = self.listing.len();
        let newest = newest as usize;
        // The place of the oldest that is shown.
        let first = match messages.saturating_sub(newest) {
            0 => 0,
            _ if may_hide => {
                let shown = (0..messages).rev().filter(is_shown);
                shown.take(newest).last().unwrap_or(0)
            }
            older => older,
        };
        let mut shown = match first {
            0 => self.listing.clone(),
            _ => Arc::new(self.listing.from(first)),
        };
        if may_hide && shown.uids().any(is_hidden) {
            shown = Arc::new(shown.without(is_hidden));
        }
        for (uid, octets) in &remembered.octets {
            if let Some(place) = shown.place(*uid)
                && shown.message(place) != Some((*uid, *octets))
            {
                Arc::make_mut(&mut shown).set_octets(place, *octets);
            }
        }
        shown
    }

    /// How many messages are not shown because at most the `newest` are.
    pub fn older(&self, shown: &Listing, newest: u32) -> u32 {
        let unlisted = match self.is_whole() {
            true => 0,
            false => self.exists.saturating_sub(self.listing.len() as u32),
        };
        let first = shown.message(0).filter(|_| shown.len() >= newest as usize);
        let first = first.and_then(|(uid, _)| self.listing.place(uid));
        unlisted + first.unwrap_or(0) as u32
    }

    /// These messages are gone.
    pub fn remove(&mut self, uids: &UidSet) {
        self.listing = Arc::new(self.listing.without(|uid| uids.contains(uid)));
    }

    /// These messages bear the keyword that hides them, whether FLAGS will tell of it or not.
    pub fn conceal(&mut self, uids: &UidSet) {
        self.may_hide = true;
        for uid in uids.iter() {
            self.concealed.insert_range(uid, uid);
        }
    }

    /// The memory that it takes, in octets.
    pub fn memory(&self) -> usize {
        self.listing.memory() + self.concealed.memory()
    }

    /// Whether all messages were listed.
    pub fn is_whole(&self) -> bool {
        self.exists <= MESSAGES_MAX
    }

    /// The same of a mailbox of which no more is known than that it has so many messages.
    pub fn emptied(self) -> Self {
        Self {
            uid_next: None,
            mod_seq: None,
            listing: Arc::default(),
            concealed: UidSet::default(),
            ..self
        }
    }

    /// Whether what SELECT says now can have become of it. Counters only ever grow (RFC 3501 §2.3.1.1, RFC
    /// 7162 §3.1), but an index that was rebuilt, or a mailbox from a backup, may begin to count anew under
    /// the same UIDVALIDITY; then what changed since then cannot be asked for.
    pub fn can_precede(&self, now: Now) -> bool {
        // Modifications that are counted no more are none, which is less than any.
        let counts_on = self.mod_seq <= now.mod_seq;
        let numbers_on = now.uid_next.is_none() || self.uid_next <= now.uid_next;
        counts_on && numbers_on
    }

    /// Whether the mailbox is certain to be as it was.
    pub fn still_holds(&self, now: Now) -> bool {
        self.exists == now.exists
            && (self.uid_next.is_some() && self.uid_next == now.uid_next)
            && (self.mod_seq.is_some() && self.mod_seq == now.mod_seq)
    }

    /// How an upstream with these capabilities can tell what is different now.
    pub fn differences(&self, capabilities: Capabilities) -> Differences {
        let has = |capability| self.mod_seq.is_some() && capabilities.has(capability);
        if !self.is_whole() {
            // What is asked depends on what SELECT will say.
            Differences::Untold
        } else if has(Capability::QResync) && self.listing.runs() <= RUNS_MAX {
            Differences::ChangedAndVanished
        } else if has(Capability::CondStore) {
            Differences::Changed
        } else {
            Differences::Untold
        }
    }

    /// All that may have to be asked, whatever SELECT will say.
    pub fn questions(&self, differences: Differences) -> Vec<Question> {
        match self.mod_seq {
            _ if !self.is_whole() => Vec::new(),
            Some(mod_seq) if differences != Differences::Untold => {
                vec![Question::List(ListingRange {
                    changed_since: Some(mod_seq),
                    vanished: differences == Differences::ChangedAndVanished,
                    ..ListingRange::ALL
                })]
            }
            _ => {
                let concealed = match self.may_hide || !self.concealed.is_empty() {
                    true => Question::DeletedOrHidden,
                    false => Question::Deleted,
                };
                let parts = parts(&self.listing).into_iter();
                let concealed = parts.map(|(first, last)| concealed(first, last));
                concealed.chain([newer(&self.listing)]).collect()
            }
        }
    }

    /// Those of them that are still open after SELECT.
    pub fn open_questions(&mut self, now: Now, differences: Differences) -> Vec<Question> {
        self.may_hide |= now.may_hide;
        let nothing_came = self.uid_next.is_some() && self.uid_next == now.uid_next;
        let nothing_changed = differences != Differences::Untold && self.mod_seq == now.mod_seq;
        let all_are_there = self.listing.len() == now.exists as usize;
        let is_open = |question: &Question| match question {
            Question::List(range) if range.changed_since.is_some() => {
                !(nothing_came && nothing_changed && all_are_there)
            }
            Question::List(_) => !nothing_came,
            Question::Deleted(..) | Question::DeletedOrHidden(..) | Question::Present(..) => true,
        };
        match now.exists {
            // What `1:*` means in an empty mailbox is up to the server.
            0 => Vec::new(),
            _ => self
                .questions(differences)
                .into_iter()
                .filter(is_open)
                .collect(),
        }
    }
}

/// What popgate itself knows of the messages of a mailbox.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Sizes that the upstream has wrong, as RETR found them.
    pub octets: BTreeMap<Uid, Octets>,
    /// Messages that POP3 shows no more.
    pub hidden: BTreeSet<Uid>,
    /// Messages that POP3 shows although they bear `\Deleted`: a removal got no further.
    pub shown: BTreeSet<Uid>,
}

/// To be asked of a mailbox of which nothing is known.
pub fn everything() -> Vec<Question> {
    vec![Question::List(ListingRange::ALL)]
}

/// To be asked when the messages known do not add up to those that exist: who left, and who came.
pub fn reconciliation(listing: &Listing) -> Vec<Question> {
    let present = parts(listing).into_iter();
    let present = present.map(|(first, last)| Question::Present(first, last));
    present.chain([newer(listing)]).collect()
}

/// The first and the last UID of the ranges about which one SEARCH each may ask.
pub fn parts(listing: &Listing) -> Vec<(Uid, Uid)> {
    listing.parts(ANSWER_OCTETS_MAX)
}

/// What came after the last message that is known. Where there is none, `n:*` names the last.
fn newer(listing: &Listing) -> Question {
    Question::List(ListingRange {
        first: listing.last().map_or(Uid::FIRST, Uid::next),
        ..ListingRange::ALL
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maildrop::{ListingBuilder, Told};
    use proptest::prelude::*;

    fn uids(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<Uid> {
        numbers.into_iter().filter_map(Uid::new).collect()
    }

    proptest! {
        #[test]
        fn the_newest_of_what_is_shown_are_shown(
            there in prop::collection::btree_set(1u32..30, 0..20),
            concealed in prop::collection::btree_set(1u32..30, 0..10),
            hidden in prop::collection::btree_set(1u32..30, 0..5),
            shown in prop::collection::btree_set(1u32..30, 0..5),
            unlisted in prop::option::of(1u32..1000),
            newest in prop_oneof![1u32..20, Just(MESSAGES_MAX)],
        ) {
            let mut builder = ListingBuilder::default();
            for uid in uids(there.iter().copied()) {
                let octets = Some(uid.number().into());
                builder.add(uid, Told { octets, ..Told::default() });
            }
            let messages = there.len() as u32;
            let snapshot = Snapshot {
                exists: unlisted.map_or(messages, |unlisted| MESSAGES_MAX + messages + unlisted),
                validity: UidValidity::new(1).expect("not 0"),
                identity: ListingIdentity::Uid,
                uid_next: None,
                mod_seq: None,
                listing: builder.build().0,
                concealed: uids(concealed.iter().copied()).into_iter().collect(),
                may_hide: true,
            };
            let remembered = Remembered {
                octets: BTreeMap::new(),
                hidden: uids(hidden.iter().copied()),
                shown: uids(shown.iter().copied()),
            };
            let is_shown = |number: &u32| {
                (!concealed.contains(number) || shown.contains(number)) && !hidden.contains(number)
            };
            let all: Vec<u32> = there.iter().copied().filter(is_shown).collect();
            let expected = &all[all.len().saturating_sub(newest as usize)..];
            let listing = snapshot.shown(&remembered, newest);
            prop_assert!(listing.uids().map(Uid::number).eq(expected.iter().copied()));
            let octets = (0..listing.len()).filter_map(|place| listing.message(place));
            prop_assert!(octets.map(|(_, octets)| octets).eq(expected.iter().copied()));
            let older = match expected.first() {
                Some(first) if expected.len() == newest as usize => there.range(..first).count(),
                _ => 0,
            };
            let unlisted = unlisted.map_or(0, |unlisted| MESSAGES_MAX + unlisted);
            prop_assert_eq!(snapshot.older(&listing, newest), older as u32 + unlisted);
        }
    }
}
