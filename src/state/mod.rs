//! What must outlive a session: [`Memory`], which lives as long as the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;

use crate::account::MailboxKey;
use crate::imap::ids::{Uid, UidValidity};
use crate::maildrop::Octets;

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
/// wrong size is told once more, a hidden message shows up again.
#[derive(Debug, Default)]
struct Notes {
    validity: Option<UidValidity>,
    octets: BTreeMap<Uid, Octets>,
    hidden: BTreeSet<Uid>,
}

/// A copy of what is remembered of one mailbox.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Sizes that the upstream has wrong, as RETR found them.
    pub octets: BTreeMap<Uid, Octets>,
    /// Messages that POP3 shows no more.
    pub hidden: BTreeSet<Uid>,
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

    /// POP3 is not to show these any more.
    pub fn hide(&self, key: &MailboxKey, validity: UidValidity, uids: impl Iterator<Item = Uid>) {
        self.note(key, validity, |notes| {
            notes.hidden.extend(uids);
            while notes.hidden.len() > MESSAGES_MAX {
                notes.hidden.pop_first();
            }
        });
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
            login: b"joe".to_vec(),
            folder: "INBOX".to_owned(),
        };
        let [old, new] = [1, 2].map(|number| UidValidity::new(number).expect("not 0"));
        let uid = Uid::new(7).expect("not 0");
        memory.learn_octets(&key, old, uid, 12);
        memory.hide(&key, old, [uid].into_iter());
        assert_eq!(memory.remembered(&key, old).octets.get(&uid), Some(&12));
        assert!(memory.remembered(&key, old).hidden.contains(&uid));
        assert!(memory.remembered(&key, new).octets.is_empty());
        memory.hide(&key, new, std::iter::empty());
        assert!(memory.remembered(&key, old).hidden.is_empty());
    }
}
