//! [`Listing`]: what a mailbox holds, as UIDs and sizes; and [`ListingBuilder`], which makes one out of
//! what the upstream says, or brings an earlier one up to date.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::imap::ids::{Uid, UidSet};

/// Octets of a message as RETR sends them, line ends counted as two (RFC 1939 §11). IMAP counts in 32
/// bits, and we refuse longer literals, so that no message can be longer.
pub type Octets = u32;

/// UIDs, ascending and unique, each with its size. It never changes once it is built, so that all
/// sessions of a mailbox can share it: 4 octets a message, and 8 for each gap between UIDs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    runs: Vec<Run>,
    octets: Vec<Octets>,
    /// What the upstream calls each message (X-GM-MSGID, EMAILID), "" for nothing; empty unless it was
    /// asked.
    names: Vec<Box<str>>,
}

/// Messages whose UIDs follow each other without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// The UID of its first message.
    first: Uid,
    /// The place of its first message.
    place: u32,
}

impl Run {
    fn place(&self) -> usize {
        self.place as usize
    }
}

/// What one response said of a message; a server may leave out what it said before.
#[derive(Debug, Default)]
pub struct Told {
    /// Its size.
    pub octets: Option<u64>,
    /// Whether its flags conceal it from POP3.
    pub concealed: Option<bool>,
    /// What the upstream calls it.
    pub name: Option<Box<str>>,
}

impl Listing {
    /// How many messages.
    pub fn len(&self) -> usize {
        self.octets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// The UIDs, ascending.
    pub fn uids(&self) -> impl Iterator<Item = Uid> + '_ {
        (0..self.runs.len()).flat_map(|run| {
            let length = self.end(run) - self.runs[run].place();
            std::iter::successors(Some(self.runs[run].first), |uid| Some(uid.next())).take(length)
        })
    }

    /// The message at this place, from 0.
    pub fn message(&self, place: usize) -> Option<(Uid, Octets)> {
        let octets = *self.octets.get(place)?;
        let run = self.runs.partition_point(|run| run.place() <= place) - 1;
        let beyond = u32::try_from(place - self.runs[run].place()).ok()?;
        Some((Uid::new(self.runs[run].first.number() + beyond)?, octets))
    }

    /// What the upstream calls the message at this place, if it was asked and has a name for it.
    pub fn name(&self, place: usize) -> Option<&str> {
        let name = self.names.get(place)?;
        (!name.is_empty()).then_some(name)
    }

    /// How many runs of UIDs without a gap there are.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The highest UID.
    pub fn last(&self) -> Option<Uid> {
        Some(self.message(self.len().checked_sub(1)?)?.0)
    }

    /// The place of this message, if it is listed.
    pub fn place(&self, uid: Uid) -> Option<usize> {
        let run = self.runs.partition_point(|run| run.first <= uid);
        let run = run.checked_sub(1)?;
        let beyond = (uid.number() - self.runs[run].first.number()) as usize;
        let place = self.runs[run].place() + beyond;
        (place < self.end(run)).then_some(place)
    }

    /// The range of UIDs in parts, each from its first UID to its last, such that a list of all the
    /// messages of a part takes at most `octets_max` octets to spell.
    pub fn parts(&self, octets_max: usize) -> Vec<(Uid, Uid)> {
        let Some(last) = self.last() else {
            return Vec::new();
        };
        let spelt = last.to_string().len() + " ".len();
        let length = (octets_max / spelt).max(1);
        (0..self.len())
            .step_by(length)
            .filter_map(|start| {
                let end = (start + length).min(self.len()) - 1;
                Some((self.message(start)?.0, self.message(end)?.0))
            })
            .collect()
    }

    /// Those from this place on.
    pub fn from(&self, place: usize) -> Self {
        let Some((first, _)) = self.message(place) else {
            return Self::default();
        };
        let run = self.runs.partition_point(|run| run.first <= first);
        let later = self.runs[run..].iter().map(|run| Run {
            first: run.first,
            // Later ones begin behind this place.
            place: run.place - place as u32,
        });
        Self {
            runs: std::iter::once(Run { first, place: 0 })
                .chain(later)
                .collect(),
            octets: self.octets[place..].to_vec(),
            names: self.names.get(place..).unwrap_or_default().to_vec(),
        }
    }

    /// The same without those that `is_left_out` names.
    pub fn without(&self, is_left_out: impl Fn(Uid) -> bool) -> Self {
        let mut rest = Self::default();
        for (place, uid) in self.uids().enumerate() {
            if !is_left_out(uid) {
                rest.push(uid, self.octets[place], self.names.get(place).cloned());
            }
        }
        rest
    }

    /// Corrects the size of a message.
    pub fn set_octets(&mut self, place: usize, octets: Octets) {
        if let Some(told) = self.octets.get_mut(place) {
            *told = octets;
        }
    }

    /// The memory that it takes, in octets.
    pub fn memory(&self) -> usize {
        let names: usize = self.names.iter().map(|name| name.len()).sum();
        size_of::<Self>()
            + size_of_val(self.runs.as_slice())
            + size_of_val(self.octets.as_slice())
            + size_of_val(self.names.as_slice())
            + names
    }

    /// The place behind the last message of a run.
    fn end(&self, run: usize) -> usize {
        self.runs.get(run + 1).map_or(self.len(), Run::place)
    }

    /// Adds a message behind the last.
    fn push(&mut self, uid: Uid, octets: Octets, name: Option<Box<str>>) {
        let follows = |last: Uid| last.number().checked_add(1) == Some(uid.number());
        if !self.last().is_some_and(follows) {
            self.runs.push(Run {
                first: uid,
                // There are no more messages than UIDs, which have 32 bits.
                place: self.len() as u32,
            });
        }
        if name.is_some() || !self.names.is_empty() {
            self.names.resize(self.len(), Box::default());
            self.names.push(name.unwrap_or_default());
        }
        self.octets.push(octets);
    }
}

/// A listing in the making, out of responses in any order. A server may repeat a message, and may
/// tell of changed flags without the size. It begins empty, or with what was there before.
#[derive(Debug, Default)]
pub struct ListingBuilder {
    listing: Arc<Listing>,
    concealed: UidSet,
    /// Messages that came behind one with a higher UID.
    late: BTreeMap<Uid, (Octets, Option<Box<str>>)>,
}

impl ListingBuilder {
    /// What was there before, and which of it the flags concealed.
    pub fn from_earlier(listing: Arc<Listing>, concealed: UidSet) -> Self {
        Self {
            listing,
            concealed,
            late: BTreeMap::new(),
        }
    }

    /// What one response said; of what is said twice, the later counts. A message is listed as soon as its
    /// size has been told.
    pub fn add(&mut self, uid: Uid, told: Told) {
        // A message beyond 32 bits cannot be transferred; it is listed as the largest there is.
        let octets = told
            .octets
            .map(|octets| Octets::try_from(octets).unwrap_or(Octets::MAX));
        match told.concealed {
            Some(true) => self.concealed.insert_range(uid, uid),
            Some(false) => self.concealed.remove_range(uid, uid),
            None => {}
        }
        if let Some(place) = self.listing.place(uid) {
            return self.amend(place, octets, told.name);
        }
        // Flags of a message that came behind the question are no answer to it.
        let Some(octets) = octets else {
            return;
        };
        if self.listing.last().is_none_or(|last| last < uid) {
            Arc::make_mut(&mut self.listing).push(uid, octets, told.name);
        } else {
            let late = self.late.entry(uid).or_default();
            late.0 = octets;
            late.1 = told.name.or(late.1.take());
        }
    }

    fn amend(&mut self, place: usize, octets: Option<Octets>, name: Option<Box<str>>) {
        let before = &*self.listing;
        if let Some(octets) = octets.filter(|octets| before.octets[place] != *octets) {
            Arc::make_mut(&mut self.listing).octets[place] = octets;
        }
        if let Some(name) = name.filter(|name| self.listing.name(place) != Some(name)) {
            let listing = Arc::make_mut(&mut self.listing);
            listing.names.resize(listing.len(), Box::default());
            listing.names[place] = name;
        }
    }

    /// The flags conceal these messages between the first and the last UID, and no others there.
    pub fn conceal(&mut self, first: Uid, last: Uid, concealed: &UidSet) {
        self.concealed.remove_range(first, last);
        self.concealed.insert_within(concealed, first, last);
    }

    /// Leaves out what is not there any more between the first and the last UID.
    pub fn retain(&mut self, first: Uid, last: Uid, present: &UidSet) {
        self.merge_late();
        let is_gone = |uid: Uid| (first..=last).contains(&uid) && !present.contains(uid);
        if self.listing.uids().any(is_gone) {
            self.listing = Arc::new(self.listing.without(is_gone));
        }
    }

    /// Leaves out what has vanished.
    pub fn remove(&mut self, vanished: &UidSet) {
        self.merge_late();
        if self.listing.uids().any(|uid| vanished.contains(uid)) {
            self.listing = Arc::new(self.listing.without(|uid| vanished.contains(uid)));
        }
    }

    /// How many messages there are so far.
    pub fn len(&self) -> usize {
        self.listing.len() + self.late.len()
    }

    /// Whether there is none so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The listing so far, and which of its messages the flags conceal.
    pub fn build(mut self) -> (Arc<Listing>, UidSet) {
        self.merge_late();
        if let Some(listing) = Arc::get_mut(&mut self.listing) {
            listing.runs.shrink_to_fit();
            listing.octets.shrink_to_fit();
            listing.names.shrink_to_fit();
        }
        (self.listing, self.concealed)
    }

    /// The messages so far.
    pub fn listing(&mut self) -> &Listing {
        self.merge_late();
        &self.listing
    }

    fn merge_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let mut late = std::mem::take(&mut self.late).into_iter().peekable();
        let mut merged = Listing::default();
        for (place, uid) in self.listing.uids().enumerate() {
            while let Some((earlier, (octets, name))) = late.next_if(|(late, _)| *late < uid) {
                merged.push(earlier, octets, name);
            }
            let name = self.listing.names.get(place).cloned();
            merged.push(uid, self.listing.octets[place], name);
        }
        // None is left: what has a higher UID than the last was no late one.
        self.listing = Arc::new(merged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uid(number: u32) -> Uid {
        Uid::new(number).expect("not 0")
    }

    fn told(octets: Option<u64>, concealed: Option<bool>) -> Told {
        Told {
            octets,
            concealed,
            name: None,
        }
    }

    fn messages(listing: &Listing) -> Vec<(u32, Octets)> {
        (0..listing.len())
            .filter_map(|place| listing.message(place))
            .map(|(uid, octets)| (uid.number(), octets))
            .collect()
    }

    #[test]
    fn responses_in_any_order_make_one_listing() {
        let mut builder = ListingBuilder::default();
        builder.add(uid(9), told(Some(1), Some(false)));
        builder.add(uid(2), told(Some(2), Some(false)));
        // Somebody marks 9 and unmarks it while the listing is sent, then marks 4.
        builder.add(uid(9), told(None, Some(true)));
        builder.add(uid(4), told(Some(4), Some(false)));
        builder.add(uid(9), told(None, Some(false)));
        builder.add(uid(4), told(None, Some(true)));
        builder.add(uid(5), told(None, None));
        builder.add(uid(7), told(Some(u64::MAX), None));
        builder.add(uid(12), told(None, Some(true)));
        builder.add(uid(12), told(Some(12), None));
        let (listing, concealed) = builder.build();
        assert_eq!(
            messages(&listing),
            [(2, 2), (4, 4), (7, u32::MAX), (9, 1), (12, 12)],
            "of 5 no size was told"
        );
        assert_eq!(concealed.to_string(), "4,12");
    }

    #[test]
    fn what_nobody_changed_is_not_copied() {
        let mut builder = ListingBuilder::default();
        for number in 1..=3 {
            builder.add(uid(number), told(Some(10), Some(false)));
        }
        let (before, concealed) = builder.build();
        let mut builder = ListingBuilder::from_earlier(before.clone(), concealed);
        builder.add(uid(3), told(Some(10), Some(false)));
        builder.retain(uid(1), uid(9), &UidSet::range(uid(1), uid(3)));
        let (after, _) = builder.build();
        assert!(Arc::ptr_eq(&before, &after));
    }

    #[test]
    fn a_part_can_be_spelt_within_its_octets() {
        let mut builder = ListingBuilder::default();
        for number in (10..1000).step_by(3) {
            builder.add(uid(number), told(Some(1), None));
        }
        let (listing, _) = builder.build();
        let parts = listing.parts(400);
        assert_eq!(parts.len(), 4);
        assert_eq!((parts[0].0, parts[3].1), (uid(10), uid(997)));
        for (first, last) in parts {
            let within = listing.uids().filter(|uid| (first..=last).contains(uid));
            let spelt: usize = within.map(|uid| uid.to_string().len() + 1).sum();
            assert!(spelt <= 400);
        }
        assert_eq!(Listing::default().parts(10), []);
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_map(
            responses in prop::collection::vec((1u32..40, prop::option::of(0u64..9), prop::option::of(any::<bool>())), 0..60),
            present in prop::collection::btree_set(1u32..40, 0..40),
            first in 1u32..40,
            length in 0u32..40,
        ) {
            let mut builder = ListingBuilder::default();
            let mut naive: BTreeMap<u32, Octets> = BTreeMap::new();
            let mut naively_concealed: BTreeMap<u32, bool> = BTreeMap::new();
            for (number, octets, is_concealed) in responses {
                builder.add(uid(number), told(octets, is_concealed));
                naive.extend(octets.map(|octets| (number, octets as Octets)));
                naively_concealed.extend(is_concealed.map(|is_concealed| (number, is_concealed)));
            }
            prop_assert_eq!(builder.len(), naive.len());
            let there: UidSet = present.iter().copied().filter_map(Uid::new).collect();
            builder.retain(uid(first), uid(first + length), &there);
            naive.retain(|number, _| present.contains(number) || !(first..=first + length).contains(number));
            let (listing, concealed) = builder.build();
            let expected: Vec<_> = naive.iter().map(|(number, octets)| (*number, *octets)).collect();
            prop_assert_eq!(messages(&listing), expected);
            for number in 1..40 {
                let place = listing.place(uid(number));
                prop_assert_eq!(place.and_then(|place| listing.message(place)).map(|(uid, _)| uid.number()),
                    naive.contains_key(&number).then_some(number));
                prop_assert_eq!(concealed.contains(uid(number)), naively_concealed.get(&number) == Some(&true));
            }
            prop_assert!(listing.uids().map(Uid::number).eq(naive.keys().copied()));
            for place in 0..=listing.len() {
                let expected: Vec<_> = naive.iter().skip(place).map(|(number, octets)| (*number, *octets)).collect();
                prop_assert_eq!(messages(&listing.from(place)), expected);
                prop_assert!(listing.from(place).uids().eq(listing.uids().skip(place)));
            }
        }
    }
}
