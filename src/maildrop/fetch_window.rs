//! [`FetchWindow`]: which messages to ask the upstream for before the client does.
//!
//! A client that fetches one message after the other pays a round trip to the upstream for each. So
//! the FETCHes for what it will ask for next go out before the body at hand is relayed. Their answers
//! wait in the kernel's receive buffer: there is no queue here, only a decision.

use super::{Maildrop, Message};
use crate::imap::ids::Uid;
use crate::pop3::command::MessageNumber;

/// FETCHes under way at once, so that a maildrop of tiny messages does not become a flood of commands.
const MESSAGES_AHEAD_MAX: usize = 256;

/// Octets of messages under way before it is known how much the way holds: as much as 40 Mbit/s carry in
/// 50 ms.
const OCTETS_AT_FIRST: u64 = 256 * 1024;

/// Wasted once, so many messages must be fetched in a row before more are asked for ahead; each further
/// time doubles it.
const PATIENCE_AT_FIRST: u32 = 4;

/// So many are enough, however often it was wasted.
const PATIENCE_MAX: u32 = 64;

/// Decides by what the client fetched last, within an octet budget.
#[derive(Debug)]
pub struct FetchWindow {
    octets_max: u64,
    previous: Option<Fetched>,
    /// Messages that must still be fetched in a row before any is asked for ahead.
    wait: u32,
    /// What `wait` becomes when messages were asked for in vain.
    patience: u32,
}

/// What the client fetched, and in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fetched {
    number: MessageNumber,
    /// As far as is known beforehand, a part takes no more; `None` for RETR.
    part_octets: Option<u32>,
}

/// What was asked for ahead and not fetched yet: how many messages, their octets as far as they are
/// known, and the last of them.
#[derive(Debug, Default, Clone, Copy)]
pub struct UnderWay {
    messages: usize,
    octets: u64,
    last: Option<Uid>,
}

impl FromIterator<(Uid, u64)> for UnderWay {
    fn from_iter<I: IntoIterator<Item = (Uid, u64)>>(asked: I) -> Self {
        let mut under_way = Self::default();
        for (uid, octets) in asked {
            under_way.messages += 1;
            under_way.octets += octets;
            under_way.last = Some(uid);
        }
        under_way
    }
}

impl FetchWindow {
    /// With a budget for the messages that are under way, as far as LIST knows their sizes; 0 turns
    /// it off.
    pub fn new(octets_max: u64) -> Self {
        Self {
            octets_max,
            previous: None,
            wait: 0,
            patience: PATIENCE_AT_FIRST,
        }
    }

    /// What to ask for together with what the client fetches now: the next messages, each with the
    /// octets that it is expected to take. `way` is how much the way from the upstream holds. Nothing,
    /// when the client jumps: then it is not known what comes next.
    pub fn slide(
        &mut self,
        message: Message,
        part_octets: Option<u32>,
        under_way: UnderWay,
        way: u64,
        maildrop: &Maildrop,
    ) -> Vec<(Uid, u64)> {
        let fetched = Fetched {
            number: message.number,
            part_octets,
        };
        let follows = self.previous.is_none_or(|previous| {
            let expected = following(previous.number, maildrop).next();
            previous.part_octets == part_octets
                && expected.is_some_and(|expected| expected.number == message.number)
        });
        self.previous = Some(fetched);
        self.wait = match (follows, under_way.messages) {
            (true, _) => self.wait.saturating_sub(1),
            (false, 0) => self.wait.max(1),
            (false, _) => {
                let patience = self.patience;
                self.patience = (2 * patience).min(PATIENCE_MAX);
                patience
            }
        };
        if self.wait > 0 {
            return Vec::new();
        }
        let budget = OCTETS_AT_FIRST.max(2 * way).min(self.octets_max);
        let (mut octets, mut messages) = (under_way.octets, under_way.messages);
        // Commands are cheaper together than one by one.
        if 4 * octets > 3 * budget || 4 * messages > 3 * MESSAGES_AHEAD_MAX {
            return Vec::new();
        }
        let last = under_way.last;
        let expected = |message: Message| {
            let octets = part_octets.map_or(message.octets, |part| part.min(message.octets));
            (message.uid, u64::from(octets.max(1)))
        };
        following(message.number, maildrop)
            .skip_while(|next| last.is_some_and(|last| next.uid <= last))
            .map(expected)
            .take_while(|(_, more)| {
                octets += more;
                messages += 1;
                octets <= budget && messages <= MESSAGES_AHEAD_MAX
            })
            .collect()
    }
}

/// The messages behind this one that are not marked as deleted.
fn following(number: MessageNumber, maildrop: &Maildrop) -> impl Iterator<Item = Message> + '_ {
    let next = number.number().checked_add(1).and_then(MessageNumber::new);
    next.into_iter()
        .flat_map(|next| maildrop.messages_from(next))
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

    /// What is asked for with each of these RETRs.
    fn asked(window: &mut FetchWindow, maildrop: &Maildrop, retrieved: &[u32]) -> Vec<Vec<u32>> {
        let mut under_way: Vec<(Uid, u64)> = Vec::new();
        let mut all = Vec::new();
        for number in retrieved {
            let message = maildrop.message(n(*number)).expect("there");
            let now = others(&under_way, message.uid);
            let asked = window.slide(message, None, now, 0, maildrop);
            all.push(asked.iter().map(|(uid, _)| uid.number()).collect());
            drain(&mut under_way, message.uid);
            under_way.extend(asked);
        }
        all
    }

    fn others(under_way: &[(Uid, u64)], uid: Uid) -> UnderWay {
        let under_way = under_way.iter().copied();
        under_way.filter(|(asked, _)| *asked != uid).collect()
    }

    /// As the IMAP client does: what is before the message, or all, is drained.
    fn drain(under_way: &mut Vec<(Uid, u64)>, uid: Uid) {
        let place = under_way.iter().position(|(asked, _)| *asked == uid);
        under_way.drain(..place.map_or(under_way.len(), |place| place + 1));
    }

    #[test]
    fn it_opens_ahead_of_a_client_that_goes_forward() {
        let mut window = FetchWindow::new(25);
        let mut maildrop = maildrop(&[10, 10, 10, 10, 99, 10]);
        assert_eq!(
            asked(&mut window, &maildrop, &[1, 2]),
            [vec![2, 3], vec![4]]
        );
        maildrop.delete(n(3)).expect("there");
        let mut window = FetchWindow::new(25);
        assert_eq!(
            asked(&mut window, &maildrop, &[1, 2, 4, 5]),
            [vec![2, 4], vec![], vec![], vec![6]],
            "5 is beyond the budget, and asked for when it is wanted"
        );
        assert_eq!(
            asked(&mut FetchWindow::new(0), &maildrop, &[1, 2]),
            [[], []] as [[u32; 0]; 2]
        );
    }

    #[test]
    fn it_closes_when_the_client_jumps_and_opens_again_when_it_does_not() {
        let maildrop = maildrop(&[10; 30]);
        let mut window = FetchWindow::new(20);
        let nothing = Vec::new();
        // Two were asked for in vain, so that a while must pass without a jump.
        assert_eq!(
            asked(&mut window, &maildrop, &[1, 11, 12, 13, 14, 15]),
            [
                vec![2, 3],
                nothing.clone(),
                nothing.clone(),
                nothing.clone(),
                nothing.clone(),
                vec![16, 17],
            ]
        );
        // Nothing was under way, so that nothing was in vain.
        let mut window = FetchWindow::new(9);
        asked(&mut window, &maildrop, &[1, 11]);
        let mut wider = FetchWindow {
            octets_max: 20,
            ..window
        };
        assert_eq!(asked(&mut wider, &maildrop, &[12]), [vec![13, 14]]);
    }

    #[test]
    fn parts_are_expected_after_parts() {
        let maildrop = maildrop(&[10, 1000, 1000, 1000]);
        let mut window = FetchWindow::new(250);
        let first = maildrop.message(n(1)).expect("there");
        let none = UnderWay::default();
        let uid = |number| Uid::new(number).expect("not 0");
        let asked = window.slide(first, Some(100), none, 0, &maildrop);
        assert_eq!(asked, [(uid(2), 100), (uid(3), 100)]);
        let second = maildrop.message(n(2)).expect("there");
        let left = [(uid(3), 100)].into_iter().collect();
        assert_eq!(window.slide(second, None, left, 0, &maildrop), [], "a RETR");
    }

    #[test]
    fn the_budget_grows_with_the_distance() {
        let maildrop = maildrop(&[100_000; 100]);
        for (octets_max, way, messages) in [
            (u64::MAX, 0, 2),
            (u64::MAX, 300_000, 6),
            (450_000, 300_000, 4),
            (150_000, 0, 1),
        ] {
            let mut window = FetchWindow::new(octets_max);
            let first = maildrop.message(n(1)).expect("there");
            let asked = window.slide(first, None, UnderWay::default(), way, &maildrop);
            assert_eq!(asked.len(), messages);
        }
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
            let mut under_way: Vec<(Uid, u64)> = Vec::new();
            for number in retrieved {
                let Ok(message) = maildrop.message(n(number)) else { continue };
                let now = others(&under_way, message.uid);
                let asked = window.slide(message, None, now, 0, &maildrop);
                drain(&mut under_way, message.uid);
                prop_assert!(asked.iter().all(|new| !under_way.contains(new) && new.0 != message.uid));
                under_way.extend(asked);
                let octets: u64 = under_way.iter().map(|(uid, _)| u64::from(sizes[uid.number() as usize - 1])).sum();
                prop_assert!(octets <= octets_max && under_way.len() <= MESSAGES_AHEAD_MAX);
                prop_assert!(under_way.is_sorted());
            }
        }
    }
}
