//! What must outlive a session: [`Memory`], which lives as long as the process, and what makes the
//! next session faster: [`Listings`].

mod listings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

pub use listings::Listings;

use crate::account::MailboxKey;
use crate::imap::ids::{Uid, UidSet, UidValidity};
use crate::maildrop::Octets;
use crate::maildrop::snapshot::Remembered;

/// Mailboxes of which something is remembered; beyond that, of new ones nothing is.
const MAILBOXES_MAX: usize = 100_000;

/// Messages of one mailbox of which something is remembered; beyond that the oldest are forgotten.
const MESSAGES_MAX: usize = 100_000;

/// `[state] url = "memory:"`.
#[derive(Default)]
pub struct Memory {
    mailboxes: DashMap<MailboxKey, Arc<Mutex<Notes>>>,
}

/// What is remembered of one mailbox under one UIDVALIDITY. To forget any of it loses no mail: a
/// wrong size is told once more, a hidden message shows up again, a marked one waits for another client.
#[derive(Debug, Default)]
struct Notes {
    validity: Option<UidValidity>,
    octets: BTreeMap<Uid, Octets>,
    hidden: BTreeSet<Uid>,
    shown: BTreeSet<Uid>,
}

impl Memory {
    /// What is remembered, if it was learned under this validity.
    pub fn remembered(&self, key: &MailboxKey, validity: UidValidity) -> Remembered {
        let Some(notes) = self.mailboxes.get(key).map(|notes| notes.clone()) else {
            return Remembered::default();
        };
        let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        match notes.validity == Some(validity) {
            true => Remembered {
                octets: notes.octets.clone(),
                hidden: notes.hidden.clone(),
                shown: notes.shown.clone(),
            },
            false => Remembered::default(),
        }
    }

    /// RETR found the true size of a message.
    pub fn learn_octets(&self, key: &MailboxKey, validity: UidValidity, uid: Uid, octets: Octets) {
        self.note(key, validity, |notes| {
            notes.octets.insert(uid, octets);
            while notes.octets.len() > MESSAGES_MAX {
                notes.octets.pop_first();
            }
        });
    }

    /// POP3 is not to show these any more; `false`: there is no room to remember that.
    #[must_use]
    pub fn hide(&self, key: &MailboxKey, validity: UidValidity, uids: &UidSet) -> bool {
        let mut remembered = false;
        self.note(key, validity, |notes| {
            remembered = notes.hidden.len() + uids.len() <= MESSAGES_MAX;
            if remembered {
                notes.hidden.extend(uids.iter());
            }
        });
        remembered
    }

    /// POP3 is to show these although they bear `\Deleted`.
    pub fn keep_showing(&self, key: &MailboxKey, validity: UidValidity, uids: &UidSet) {
        self.note(key, validity, |notes| {
            notes.shown.extend(uids.iter());
            while notes.shown.len() > MESSAGES_MAX {
                notes.shown.pop_first();
            }
        });
    }

    /// These were deleted after all: `\Deleted` hides them, like any other.
    pub fn stop_showing(&self, key: &MailboxKey, validity: UidValidity, uids: &UidSet) {
        if self.mailboxes.contains_key(key) {
            self.note(key, validity, |notes| {
                notes.shown.retain(|uid| !uids.contains(*uid));
            });
        }
    }

    fn note(&self, key: &MailboxKey, validity: UidValidity, change: impl FnOnce(&mut Notes)) {
        if self.mailboxes.len() >= MAILBOXES_MAX && !self.mailboxes.contains_key(key) {
            return;
        }
        let notes = self.mailboxes.entry(key.clone()).or_default().clone();
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.validity != Some(validity) {
            *notes = Notes {
                validity: Some(validity),
                ..Notes::default()
            };
        }
        change(&mut notes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_carried_over_a_change_of_uidvalidity() {
        let memory = Memory::default();
        let key = MailboxKey {
            upstream: "default".into(),
            endpoint: "imap.example.com:993".to_owned(),
            owner: b"joe".as_slice().into(),
            folder: "INBOX".to_owned(),
        };
        let [old, new] = [1, 2].map(|number| UidValidity::new(number).expect("not 0"));
        let uid = Uid::new(7).expect("not 0");
        memory.learn_octets(&key, old, uid, 12);
        let uids = UidSet::from_iter([uid]);
        assert!(memory.hide(&key, old, &uids));
        memory.keep_showing(&key, old, &uids);
        assert!(memory.remembered(&key, old).shown.contains(&uid));
        memory.stop_showing(&key, old, &uids);
        assert!(memory.remembered(&key, old).shown.is_empty());
        memory.keep_showing(&key, old, &uids);
        assert_eq!(memory.remembered(&key, old).octets.get(&uid), Some(&12));
        assert!(memory.remembered(&key, old).hidden.contains(&uid));
        assert!(memory.remembered(&key, new).octets.is_empty());
        assert!(memory.remembered(&key, new).shown.is_empty());
        memory.learn_octets(&key, new, uid, 13);
        assert!(memory.remembered(&key, old).hidden.is_empty());
    }
}
