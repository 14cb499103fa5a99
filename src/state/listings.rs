//! [`Listings`]: what mailboxes held when somebody last looked, so that the next session asks only what
//! has changed. To forget any of it costs time, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::{DashMap, Entry as Slot};

use crate::account::MailboxKey;
use crate::imap::ids::{UidSet, UidValidity};
use crate::maildrop::Snapshot;

/// Octets that an entry takes besides its listing and its key.
const ENTRY_OCTETS: usize = 256;

/// Snapshots of mailboxes within a budget of octets; the least recently used go first.
pub struct Listings {
    octets_max: usize,
    octets: AtomicUsize,
    /// Counts the uses, which puts them in an order.
    uses: AtomicU64,
    entries: DashMap<Arc<MailboxKey>, Entry>,
}

struct Entry {
    snapshot: Snapshot,
    octets: usize,
    used: u64,
}

impl Listings {
    /// With a budget; none at all turns it off.
    pub fn new(octets_max: u64) -> Self {
        Self {
            octets_max: usize::try_from(octets_max).unwrap_or(usize::MAX),
            octets: AtomicUsize::new(0),
            uses: AtomicU64::new(0),
            entries: DashMap::new(),
        }
    }

    /// What this mailbox held.
    pub fn known(&self, key: &MailboxKey) -> Option<Snapshot> {
        let mut entry = self.entries.get_mut(key)?;
        entry.used = self.uses.fetch_add(1, Ordering::Relaxed);
        Some(entry.snapshot.clone())
    }

    /// What this mailbox holds now. The key is kept, together with whoever has it.
    pub fn note(&self, key: &Arc<MailboxKey>, snapshot: Snapshot) {
        let octets = octets(key, &snapshot);
        if octets > self.octets_max {
            return self.forget(key);
        }
        let used = self.uses.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            snapshot,
            octets,
            used,
        };
        let before = match self.entries.entry(key.clone()) {
            // With the key of whoever is here now: that of the session before goes with it.
            Slot::Occupied(slot) => slot.replace_entry(entry).1.octets,
            Slot::Vacant(slot) => {
                slot.insert(entry);
                0
            }
        };
        self.octets.fetch_add(octets, Ordering::Relaxed);
        self.give_back(before);
        if self.octets.load(Ordering::Relaxed) > self.octets_max {
            self.make_room();
        }
    }

    /// These messages are not in the mailbox any more.
    pub fn remove(&self, key: &MailboxKey, validity: UidValidity, uids: &UidSet) {
        if let Some(mut entry) = self.entries.get_mut(key)
            && entry.snapshot.validity == validity
        {
            entry.snapshot.remove(uids);
            self.account_for(&mut entry, key);
        }
    }

    /// These messages bear the keyword that hides them now.
    pub fn conceal(&self, key: &MailboxKey, validity: UidValidity, uids: &UidSet) {
        if let Some(mut entry) = self.entries.get_mut(key)
            && entry.snapshot.validity == validity
        {
            entry.snapshot.conceal(uids);
            self.account_for(&mut entry, key);
        }
    }

    /// Its snapshot has changed.
    fn account_for(&self, entry: &mut Entry, key: &MailboxKey) {
        let octets = octets(key, &entry.snapshot);
        self.octets.fetch_add(octets, Ordering::Relaxed);
        self.give_back(entry.octets);
        entry.octets = octets;
    }

    /// It cannot be brought up to date.
    pub fn forget(&self, key: &MailboxKey) {
        if let Some((_, entry)) = self.entries.remove(key) {
            self.give_back(entry.octets);
        }
    }

    fn give_back(&self, octets: usize) {
        self.octets.fetch_sub(octets, Ordering::Relaxed);
    }

    /// Forgets what was not used for longest, and some more than needed, so that not every new entry
    /// has to look through all.
    fn make_room(&self) {
        let entries = self.entries.iter();
        let mut by_use: Vec<_> = entries
            .map(|entry| (entry.used, entry.key().clone()))
            .collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        let enough = self.octets_max - self.octets_max / 8;
        for (_, key) in by_use {
            if self.octets.load(Ordering::Relaxed) <= enough {
                return;
            }
            self.forget(&key);
        }
    }
}

/// The memory that an entry takes.
fn octets(key: &MailboxKey, snapshot: &Snapshot) -> usize {
    let names = key.owner.len() + key.folder.len() + key.upstream.len() + key.endpoint.len();
    ENTRY_OCTETS + names + snapshot.memory()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::command::ListingIdentity;
    use crate::imap::ids::Uid;
    use crate::maildrop::{ListingBuilder, Told};

    fn key(owner: u32) -> Arc<MailboxKey> {
        Arc::new(MailboxKey {
            upstream: "default".into(),
            endpoint: "imap.example.com:993".to_owned(),
            owner: owner.to_string().into_bytes().into(),
            folder: "INBOX".to_owned(),
        })
    }

    fn snapshot(messages: u32) -> Snapshot {
        let mut builder = ListingBuilder::default();
        for uid in (1..=messages).filter_map(Uid::new) {
            let octets = Some(1);
            builder.add(
                uid,
                Told {
                    octets,
                    ..Told::default()
                },
            );
        }
        let (listing, concealed) = builder.build();
        Snapshot {
            exists: messages,
            validity: UidValidity::new(1).expect("not 0"),
            identity: ListingIdentity::Uid,
            uid_next: None,
            mod_seq: None,
            listing,
            concealed,
            may_hide: false,
        }
    }

    #[test]
    fn the_budget_holds_and_what_is_used_stays() {
        let listings = Listings::new(100_000);
        for owner in 0..1000 {
            listings.note(&key(owner), snapshot(owner % 100));
            assert!(listings.known(&key(0)).is_some(), "used all the time");
            assert!(listings.octets.load(Ordering::Relaxed) <= 100_000);
        }
        assert!(listings.known(&key(999)).is_some());
        assert!(listings.known(&key(1)).is_none());
        let octets: usize = listings.entries.iter().map(|entry| entry.octets).sum();
        assert_eq!(octets, listings.octets.load(Ordering::Relaxed));
        listings.note(&key(999), snapshot(100_000));
        assert!(listings.known(&key(999)).is_none(), "larger than all");
        let off = Listings::new(0);
        off.note(&key(1), snapshot(1));
        assert!(off.known(&key(1)).is_none());
    }

    #[test]
    fn what_was_removed_is_not_known_any_more() {
        let listings = Listings::new(100_000);
        listings.note(&key(1), snapshot(3));
        let uids: UidSet = Uid::new(2).into_iter().collect();
        let [other, same] = [2, 1].map(|number| UidValidity::new(number).expect("not 0"));
        let messages = || listings.known(&key(1)).map(|known| known.listing.len());
        listings.remove(&key(1), other, &uids);
        assert_eq!(messages(), Some(3));
        listings.remove(&key(1), same, &uids);
        assert_eq!(messages(), Some(2));
        let octets: usize = listings.entries.iter().map(|entry| entry.octets).sum();
        assert_eq!(octets, listings.octets.load(Ordering::Relaxed));
    }
}
