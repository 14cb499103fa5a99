//! The numbers that name messages and states of mailboxes: [`Uid`], [`UidValidity`], [`UidSet`],
//! [`ModSeq`].
//!
//! There is no type for message sequence numbers: they move when somebody else expunges, so we
//! neither send nor trust them (RFC 2180 §4.1).

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

/// A unique identifier (RFC 3501 §2.3.1.1); ascending in a mailbox, valid under one [`UidValidity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(NonZeroU32);

impl Uid {
    /// The lowest.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The highest.
    pub const LAST: Self = Self(NonZeroU32::MAX);

    /// `None` for 0, which is no UID.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number itself, from 1.
    pub fn number(self) -> u32 {
        self.0.get()
    }

    /// The one that follows; the highest of all is followed by none, and is its own.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Under which numbering a [`Uid`] means a message. When it changes, no UID from before means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UidValidity(NonZeroU32);

impl UidValidity {
    /// `None` for 0, which no server may send.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number itself, from 1.
    pub fn number(self) -> u32 {
        self.0.get()
    }
}

/// A mod-sequence (RFC 7162 §3.1): grows with every change of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModSeq(NonZeroU64);

impl ModSeq {
    /// `None` for 0, which no server may send as the highest.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }
}

impl fmt::Display for ModSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of UIDs as ascending, disjoint, inclusive ranges: what `uid-set` spells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UidSet {
    ranges: Vec<(u32, u32)>,
}

impl UidSet {
    /// Whether there is no UID in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many UIDs are in it.
    pub fn len(&self) -> usize {
        self.ranges
            .iter()
            .map(|(first, last)| (last - first) as usize + 1)
            .sum()
    }

    /// How many ranges spell it.
    pub fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// The memory that it takes, in octets.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + size_of_val(self.ranges.as_slice())
    }

    /// Whether this UID is in it.
    pub fn contains(&self, uid: Uid) -> bool {
        let number = uid.number();
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after > 0 && self.ranges[after - 1].1 >= number
    }

    /// The UIDs, ascending. Only for sets of our own: a set from the wire may span four billion.
    pub fn iter(&self) -> impl Iterator<Item = Uid> + '_ {
        self.ranges
            .iter()
            .flat_map(|(first, last)| *first..=*last)
            .filter_map(Uid::new)
    }

    /// The same UIDs in sets of at most `uids_max`, for commands that an upstream can answer in one
    /// breath. One UID takes at most 11 octets to spell, so that this limits the command's length too.
    pub fn split(&self, uids_max: u32) -> Vec<UidSet> {
        let mut sets: Vec<UidSet> = Vec::new();
        let mut room = 0;
        for &(mut first, last) in &self.ranges {
            while first <= last {
                if room == 0 {
                    sets.push(UidSet::default());
                    room = uids_max.max(1);
                }
                let end = last.min(first.saturating_add(room - 1));
                if let Some(set) = sets.last_mut() {
                    set.ranges.push((first, end));
                }
                room -= end - first + 1;
                match end.checked_add(1) {
                    Some(next) => first = next,
                    None => break,
                }
            }
        }
        sets
    }

    /// Takes out all from the first to the last.
    pub fn remove_range(&mut self, first: Uid, last: Uid) {
        let (first, last) = (first.number(), last.number());
        let from = self.ranges.partition_point(|(_, end)| *end < first);
        let to = self.ranges.partition_point(|(start, _)| *start <= last);
        let Some(touched) = self.ranges.get(from..to) else {
            return;
        };
        let lowest = touched.first().map_or(first, |(start, _)| *start);
        let highest = touched.last().map_or(last, |(_, end)| *end);
        let below = (lowest < first).then(|| (lowest, first - 1));
        let above = (highest > last).then(|| (last + 1, highest));
        self.ranges.splice(from..to, below.into_iter().chain(above));
    }

    /// Adds those of another set that lie within an inclusive range. The other may come from the wire.
    pub fn insert_within(&mut self, other: &Self, first: Uid, last: Uid) {
        for (start, end) in &other.ranges {
            let start = Uid::new(*start).map(|start| start.max(first));
            let end = Uid::new(*end).map(|end| end.min(last));
            if let (Some(start), Some(end)) = (start, end)
                && start <= end
            {
                self.insert_range(start, end);
            }
        }
    }

    /// The first and the last UID of each range, ascending.
    pub fn bounds(&self) -> impl Iterator<Item = (Uid, Uid)> + '_ {
        let bounds = self.ranges.iter();
        bounds.filter_map(|(first, last)| Some((Uid::new(*first)?, Uid::new(*last)?)))
    }

    /// All from the first to the last of each of these, which come in any order and overlap.
    pub fn within_bounds(mut bounds: Vec<(Uid, Uid)>) -> Self {
        // Behind the last one, a range is added without moving others.
        bounds.sort_unstable();
        let mut set = Self::default();
        for (first, last) in bounds {
            set.insert_range(first, last);
        }
        set
    }

    /// All from the one to the other, in any order.
    pub fn range(first: Uid, last: Uid) -> Self {
        let mut set = Self::default();
        set.insert_range(first, last);
        set
    }

    /// Adds an inclusive range, in any order and overlap.
    pub fn insert_range(&mut self, first: Uid, last: Uid) {
        let (first, last) = if first <= last {
            (first.number(), last.number())
        } else {
            (last.number(), first.number())
        };
        // The ranges that touch the new one lie between these two places.
        let from = self
            .ranges
            .partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self
            .ranges
            .partition_point(|(start, _)| *start <= last.saturating_add(1));
        let merged = self.ranges[from..to]
            .iter()
            .fold((first, last), |(low, high), (start, end)| {
                (low.min(*start), high.max(*end))
            });
        self.ranges.splice(from..to, [merged]);
    }
}

impl FromIterator<Uid> for UidSet {
    fn from_iter<I: IntoIterator<Item = Uid>>(uids: I) -> Self {
        let mut set = UidSet::default();
        for uid in uids {
            set.insert_range(uid, uid);
        }
        set
    }
}

impl fmt::Display for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, range) in self.ranges.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            f.write_str(&spelling(*range))?;
        }
        Ok(())
    }
}

fn spelling((first, last): (u32, u32)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}:{last}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(numbers: impl IntoIterator<Item = u32>) -> UidSet {
        numbers.into_iter().filter_map(Uid::new).collect()
    }

    #[test]
    fn neighbours_are_spelt_as_ranges() {
        for (numbers, spelt) in [
            (vec![], ""),
            (vec![7], "7"),
            (vec![1, 2, 3], "1:3"),
            (vec![9, 1, 3, 2, 9], "1:3,9"),
            (vec![u32::MAX, u32::MAX - 1], "4294967294:4294967295"),
        ] {
            assert_eq!(set(numbers).to_string(), spelt);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_set(numbers in prop::collection::vec(1u32..200, 0..100), uids_max in 1u32..60) {
            let naive: BTreeSet<u32> = numbers.iter().copied().collect();
            let ours = set(numbers);
            prop_assert_eq!(ours.len(), naive.len());
            prop_assert!(ours.iter().map(Uid::number).eq(naive.iter().copied()));
            for number in 1..200 {
                prop_assert_eq!(ours.contains(Uid::new(number).expect("from 1")), naive.contains(&number));
            }
            let parts = ours.split(uids_max);
            prop_assert!(parts.iter().all(|part| (1..=uids_max as usize).contains(&part.len())));
            prop_assert_eq!(parts.len(), naive.len().div_ceil(uids_max as usize));
            prop_assert!(parts.iter().flat_map(UidSet::iter).eq(ours.iter()));
        }

        #[test]
        fn removal_and_restriction_agree_with_a_naive_set(
            numbers in prop::collection::vec(1u32..40, 0..40),
            removed in prop::collection::vec((1u32..40, 0u32..5), 0..10),
            first in 1u32..40,
            length in 0u32..40,
        ) {
            let mut naive: BTreeSet<u32> = numbers.iter().copied().collect();
            let mut ours = set(numbers);
            for (number, more) in removed {
                naive.retain(|kept| !(number..=number + more).contains(kept));
                let [low, high] = [number, number + more].map(|number| Uid::new(number).expect("from 1"));
                ours.remove_range(low, high);
                prop_assert!(ours.iter().map(Uid::number).eq(naive.iter().copied()));
            }
            let [low, high] = [first, first + length].map(|number| Uid::new(number).expect("from 1"));
            let mut within = UidSet::default();
            within.insert_within(&ours, low, high);
            prop_assert!(within.iter().eq(ours.iter().filter(|uid| (low..=high).contains(uid))));
            let both = UidSet::within_bounds(ours.bounds().chain([(low, high)]).collect());
            prop_assert!(both.ranges() <= ours.ranges() + 1);
            prop_assert!((1..100).filter_map(Uid::new).all(|uid|
                both.contains(uid) == ((low..=high).contains(&uid) || ours.contains(uid))));
        }
    }
}
