//! [`Listing`]: what a mailbox held at login, as UIDs and sizes.

use crate::imap::ids::Uid;

/// Octets of a message as RETR sends them, line ends counted as two (RFC 1939 §11). IMAP counts in 32
/// bits, and we refuse longer literals, so that no message can be longer.
pub type Octets = u32;

/// UIDs, ascending and unique, each with its size: eight octets of memory a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    uids: Vec<Uid>,
    octets: Vec<Octets>,
}

impl Listing {
    /// Puts messages in any order, with repetitions, into one listing; of two sizes the later counts.
    pub fn new(mut messages: Vec<(Uid, Octets)>) -> Self {
        messages.sort_by_key(|(uid, _)| *uid);
        let mut listing = Listing::default();
        for (uid, octets) in messages {
            if listing.uids.last() == Some(&uid) {
                listing.octets.pop();
                listing.octets.push(octets);
            } else {
                listing.uids.push(uid);
                listing.octets.push(octets);
            }
        }
        listing
    }

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
    fn messages_come_in_the_order_of_their_uids() {
        let uid = |number| Uid::new(number).expect("not 0");
        let listing = Listing::new(vec![(uid(9), 1), (uid(2), 2), (uid(9), 3)]);
        assert_eq!(listing.len(), 2);
        assert_eq!(listing.message(0), Some((uid(2), 2)));
        assert_eq!(listing.message(1), Some((uid(9), 3)));
        assert_eq!(listing.message(2), None);
    }
}
