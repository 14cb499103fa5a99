//! [`Listing`]: what a mailbox held at login, as UIDs and sizes.

use std::collections::{BTreeMap, BTreeSet};

use crate::imap::ids::Uid;

/// Octets of a message as RETR sends them, line ends counted as two (RFC 1939 §11). IMAP counts in 32
/// bits, and we refuse longer literals, so that no message can be longer.
pub type Octets = u32;

/// UIDs, ascending and unique, each with its size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    uids: Vec<Uid>,
    octets: Vec<Octets>,
}

/// A listing in the making, out of responses in any order. A server may repeat a message, and may
/// tell of changed flags without the size.
#[derive(Debug, Default)]
pub struct ListingBuilder {
    seen: Vec<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    uid: Uid,
    octets: Option<Octets>,
    hidden: Option<bool>,
}

impl ListingBuilder {
    /// One response: its size if it told one, and whether its flags hide it if it told any.
    pub fn add(&mut self, uid: Uid, octets: Option<u64>, hidden: Option<bool>) {
        self.seen.push(Seen {
            uid,
            // A message beyond 32 bits cannot be transferred; it is listed as the largest there is.
            octets: octets.map(|octets| Octets::try_from(octets).unwrap_or(Octets::MAX)),
            hidden,
        });
    }

    /// The messages that are not hidden; of what was told twice, the later counts, and what is
    /// remembered counts more than what was told.
    pub fn build(
        mut self,
        learned: &BTreeMap<Uid, Octets>,
        hidden: &BTreeSet<Uid>,
        shown: &BTreeSet<Uid>,
    ) -> Listing {
        self.seen.sort_by_key(|seen| seen.uid);
        let mut listing = Listing::default();
        for repeated in self.seen.chunk_by(|one, other| one.uid == other.uid) {
            let uid = repeated[0].uid;
            let last = |told: fn(&Seen) -> Option<Octets>| repeated.iter().rev().find_map(told);
            let flagged = repeated.iter().rev().find_map(|seen| seen.hidden) == Some(true);
            if (flagged && !shown.contains(&uid)) || hidden.contains(&uid) {
                continue;
            }
            let octets = learned
                .get(&uid)
                .copied()
                .or_else(|| last(|seen| seen.octets));
            listing.uids.push(uid);
            listing.octets.push(octets.unwrap_or(0));
        }
        listing
    }
}

impl Listing {
    /// How many messages.
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// The UIDs, ascending.
    pub fn uids(&self) -> &[Uid] {
        &self.uids
    }

    /// The message at this place, from 0.
    pub fn message(&self, place: usize) -> Option<(Uid, Octets)> {
        Some((*self.uids.get(place)?, *self.octets.get(place)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_in_any_order_make_one_listing() {
        let uid = |number| Uid::new(number).expect("not 0");
        let mut builder = ListingBuilder::default();
        builder.add(uid(9), Some(1), Some(false));
        builder.add(uid(2), Some(2), Some(false));
        // Somebody marks 9 and unmarks it while the listing is sent, then marks 4.
        builder.add(uid(9), None, Some(true));
        builder.add(uid(4), Some(4), Some(false));
        builder.add(uid(9), None, Some(false));
        builder.add(uid(4), None, Some(true));
        builder.add(uid(5), None, None);
        builder.add(uid(6), Some(6), None);
        builder.add(uid(7), Some(u64::MAX), None);
        builder.add(uid(8), Some(8), Some(true));
        let learned = BTreeMap::from([(uid(2), 22)]);
        let (hidden, shown) = (BTreeSet::from([uid(6)]), BTreeSet::from([uid(8)]));
        let listing = builder.build(&learned, &hidden, &shown);
        let messages: Vec<_> = (0..listing.len())
            .filter_map(|place| listing.message(place))
            .collect();
        assert_eq!(
            messages,
            [
                (uid(2), 22),
                (uid(5), 0),
                (uid(7), u32::MAX),
                (uid(8), 8),
                (uid(9), 1)
            ]
        );
    }
}
