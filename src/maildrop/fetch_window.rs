//! [`FetchWindow`]: which messages to ask the upstream for before the client does.
//!
//! A client that fetches one message after the other pays a round trip to the upstream for each. So
//! the FETCHes for what it will ask for next go out before the body at hand is relayed. Their answers
//! wait in the kernel's receive buffer: there is no queue here, only a decision.

use super::{Maildrop, Message};
use crate::imap::ids::Uid;
use crate::pop3::command::MessageNumber;

/// FETCHes under way at once, so that a maildrop of tiny messages does not become a flood of commands.
const MESSAGES_AHEAD_MAX: usize = 64;

/// Decides by what the client retrieved last, within an octet budget.
#[derive(Debug)]
pub struct FetchWindow {
    octets_max: u64,
    previous: Option<MessageNumber>,
}

impl FetchWindow {
    /// With a budget for the messages that are under way, as far as LIST knows their sizes; 0 turns
    /// it off.
    pub fn new(octets_max: u64) -> Self {
        Self {
            octets_max,
            previous: None,
        }
    }

    /// What to ask for together with the message that the client retrieves now, given what is under
    /// way already. Nothing, when the client jumps: then it is not known what comes next.
    pub fn slide(
        &mut self,
        retrieved: Message,
        under_way: &[Uid],
        maildrop: &Maildrop,
    ) -> Vec<Uid> {
        let successor = |number: MessageNumber| {
            let next = MessageNumber::new(number.number().checked_add(1)?)?;
            Some(maildrop.messages_from(next))
        };
        let jumped = self.previous.is_some_and(|previous| {
            let expected = successor(previous).and_then(|mut messages| messages.next());
            expected.is_none_or(|expected| expected.number != retrieved.number)
        });
        self.previous = Some(retrieved.number);
        let Some(next) = successor(retrieved.number).filter(|_| !jumped) else {
            return Vec::new();
        };
        let mut octets_left = self.octets_max;
        next.take(MESSAGES_AHEAD_MAX)
            .map_while(|message| {
                octets_left = octets_left.checked_sub(u64::from(message.octets.max(1)))?;
                Some(message.uid)
            })
            .filter(|uid| !under_way.contains(uid))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::ids::UidValidity;
    use crate::maildrop::tests::listing;
    use crate::maildrop::{Octets, UniqueIdFormat, UniqueIds};
    use proptest::prelude::*;

    fn n(number: u32) -> MessageNumber {
        MessageNumber::new(number).expect("not 0")
    }

    fn maildrop(sizes: &[Octets]) -> Maildrop {
        let uids = (1..).filter_map(Uid::new);
        let validity = UidValidity::new(5).expect("not 0");
        Maildrop::new(
            listing(uids.zip(sizes.iter().copied())),
            UniqueIds::from_uids(UniqueIdFormat::Dovecot, validity),
        )
    }

    #[test]
    fn it_opens_ahead_of_a_client_that_goes_forward_and_closes_when_it_jumps() {
        let mut maildrop = maildrop(&[10, 10, 10, 10, 99, 10]);
        let mut window = FetchWindow::new(25);
        let mut ahead = |number, under_way: &[u32], maildrop: &Maildrop| -> Vec<u32> {
            let message = maildrop.message(n(number)).expect("there");
            let under_way: Vec<Uid> = under_way.iter().copied().filter_map(Uid::new).collect();
            let uids = window.slide(message, &under_way, maildrop);
            uids.into_iter().map(Uid::number).collect()
        };
        assert_eq!(ahead(1, &[], &maildrop), [2, 3]);
        assert_eq!(ahead(2, &[3], &maildrop), [4]);
        maildrop.delete(n(3)).expect("there");
        assert_eq!(
            ahead(4, &[], &maildrop),
            [] as [u32; 0],
            "5 is beyond the budget"
        );
        assert_eq!(ahead(1, &[], &maildrop), [] as [u32; 0], "a jump");
        assert_eq!(ahead(2, &[], &maildrop), [4]);
        assert_eq!(ahead(6, &[4], &maildrop), [] as [u32; 0]);
        let first = maildrop.message(n(1)).expect("there");
        assert_eq!(FetchWindow::new(0).slide(first, &[], &maildrop), []);
    }

    proptest! {
        #[test]
        fn it_never_exceeds_its_budget_nor_asks_twice(
            sizes in prop::collection::vec(0u32..100, 1..40),
            octets_max in 0u64..500,
            retrieved in prop::collection::vec(1u32..40, 0..40),
        ) {
            let maildrop = maildrop(&sizes);
            let mut window = FetchWindow::new(octets_max);
            let mut under_way: Vec<Uid> = Vec::new();
            for number in retrieved {
                let Ok(message) = maildrop.message(n(number)) else { continue };
                // As the IMAP client does: what is before the message, or all, is drained.
                let place = under_way.iter().position(|uid| *uid == message.uid);
                under_way.drain(..place.map_or(under_way.len(), |place| place + 1));
                let asked = window.slide(message, &under_way, &maildrop);
                prop_assert!(asked.iter().all(|uid| !under_way.contains(uid) && *uid != message.uid));
                under_way.extend(asked);
                let octets: u64 = under_way.iter().map(|uid| u64::from(sizes[uid.number() as usize - 1])).sum();
                prop_assert!(octets <= octets_max && under_way.len() <= MESSAGES_AHEAD_MAX);
                prop_assert!(under_way.is_sorted());
            }
        }
    }
}
