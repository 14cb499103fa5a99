//! The POP3 view of a selected mailbox, the heart of the translation. Pure.
//!
//! A [`Maildrop`] is a snapshot: message-numbers, sizes and unique-ids are fixed at login, whatever
//! happens upstream. DELE only marks; [`Maildrop::update`] turns the marks into UID sets at QUIT.

mod fetch_window;
mod listing;
pub mod snapshot;
mod status_header;
mod unique_id;
mod update;

pub use crate::imap::command::MESSAGES_MAX;
pub use fetch_window::{FetchWindow, UnderWay};
pub use listing::{Listing, ListingBuilder, Octets, Told};
pub use snapshot::Snapshot;
pub use unique_id::{UniqueId, UniqueIdFormat, UniqueIds};
pub use update::{Abilities, DeletePolicy, Removal, Update};

use std::sync::Arc;

use crate::imap::ids::{Uid, UidSet};
use crate::pop3::command::MessageNumber;
use status_header::{STATUS_OCTETS, StatusHeader};

/// The maildrop of one session.
#[derive(Debug)]
pub struct Maildrop {
    listing: Arc<Listing>,
    unique_ids: UniqueIds,
    /// Put before every message, if the operator wants it.
    status_header: Option<StatusHeader>,
    /// One mark a message, at the place of the message in the listing.
    marks: Vec<Marks>,
    /// Of the messages without a deletion mark, by their own octets.
    drop_listing: DropListing,
    last: u32,
}

/// STAT: how many messages are not marked as deleted, and their octets together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DropListing {
    /// Messages.
    pub messages: u32,
    /// May exceed 32 bits.
    pub octets: u64,
}

/// A message that is there, as far as this session has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its number in this session.
    pub number: MessageNumber,
    /// Its name upstream.
    pub uid: Uid,
    /// Its own size; see [`Maildrop::octets`] for that in LIST.
    pub octets: Octets,
}

/// Why a message-number means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSuchMessage {
    /// It is beyond the last message.
    Absent,
    /// It is marked as deleted in this session.
    Deleted,
}

#[derive(Debug, Default, Clone, Copy)]
struct Marks {
    deleted: bool,
    retrieved: bool,
}

impl Maildrop {
    /// The maildrop at login.
    pub fn new(listing: Arc<Listing>, unique_ids: UniqueIds) -> Self {
        let octets = (0..listing.len())
            .filter_map(|place| listing.message(place))
            .map(|(_, octets)| u64::from(octets))
            .sum();
        Self {
            // A mailbox cannot hold more than 32 bits of UIDs.
            drop_listing: DropListing {
                messages: u32::try_from(listing.len()).unwrap_or(u32::MAX),
                octets,
            },
            marks: vec![Marks::default(); listing.len()],
            listing,
            unique_ids,
            status_header: None,
            last: 0,
        }
    }

    /// The same with a `Status:` header before every message; `seen` are those that bear `\Seen`.
    pub fn with_status_header(mut self, seen: UidSet) -> Self {
        self.status_header = Some(StatusHeader::new(seen));
        self
    }

    /// STAT
    pub fn drop_listing(&self) -> DropListing {
        let DropListing { messages, octets } = self.drop_listing;
        DropListing {
            messages,
            octets: octets + u64::from(messages) * self.header_octets(),
        }
    }

    /// LIST of one message: its own octets, and those of the header that is put before it.
    pub fn octets(&self, message: Message) -> u64 {
        u64::from(message.octets) + self.header_octets()
    }

    /// What RETR and TOP begin with, before the message itself.
    pub fn header(&self, message: Message) -> &'static [u8] {
        let retrieved = |marks: &Marks| marks.retrieved;
        let retrieved = self.marks.get(place(message.number)).is_some_and(retrieved);
        match &self.status_header {
            Some(header) => header.of(message.uid, retrieved),
            None => b"",
        }
    }

    fn header_octets(&self) -> u64 {
        self.status_header.as_ref().map_or(0, |_| STATUS_OCTETS)
    }

    /// LAST (RFC 1225): the highest number that was accessed since login or RSET; 0 for none.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// How many numbers were given out at login.
    pub fn numbers(&self) -> u32 {
        u32::try_from(self.listing.len()).unwrap_or(u32::MAX)
    }

    /// The message of this number.
    ///
    /// # Errors
    /// When there is none, or it is marked as deleted.
    pub fn message(&self, number: MessageNumber) -> Result<Message, NoSuchMessage> {
        let place = place(number);
        let (uid, octets) = self.listing.message(place).ok_or(NoSuchMessage::Absent)?;
        match self.marks[place].deleted {
            true => Err(NoSuchMessage::Deleted),
            false => Ok(Message {
                number,
                uid,
                octets,
            }),
        }
    }

    /// The messages that are not marked as deleted, from this number on.
    pub fn messages_from(&self, first: MessageNumber) -> impl Iterator<Item = Message> + '_ {
        (first.number()..=self.numbers())
            .filter_map(MessageNumber::new)
            .filter_map(|number| self.message(number).ok())
    }

    /// UIDL of one message.
    pub fn unique_id(&self, message: Message) -> UniqueId<'_> {
        let place = place(message.number);
        self.unique_ids.of(&self.listing, place, message.uid)
    }

    /// DELE
    ///
    /// # Errors
    /// As [`Self::message`].
    pub fn delete(&mut self, number: MessageNumber) -> Result<(), NoSuchMessage> {
        let message = self.message(number)?;
        self.marks[place(number)].deleted = true;
        self.drop_listing.messages -= 1;
        self.drop_listing.octets -= u64::from(message.octets);
        self.touch(number);
        Ok(())
    }

    /// A message was delivered in full by RETR.
    pub fn mark_retrieved(&mut self, number: MessageNumber) {
        if let Some(marks) = self.marks.get_mut(place(number)) {
            marks.retrieved = true;
            self.touch(number);
        }
    }

    /// RSET: nothing is marked as deleted any more. What was delivered stays delivered.
    pub fn reset(&mut self) {
        for place in 0..self.marks.len() {
            if std::mem::take(&mut self.marks[place].deleted) {
                let octets = self.listing.message(place).map_or(0, |(_, octets)| octets);
                self.drop_listing.messages += 1;
                self.drop_listing.octets += u64::from(octets);
            }
        }
        self.last = 0;
    }

    /// What QUIT has to do upstream.
    pub fn update(&self) -> Update {
        let marked = |wanted: fn(&Marks) -> bool| {
            let uids = self.listing.uids().zip(&self.marks);
            uids.filter(|(_, marks)| wanted(marks))
                .map(|(uid, _)| uid)
                .collect()
        };
        Update {
            deleted: marked(|marks| marks.deleted),
            retrieved: marked(|marks| marks.retrieved),
        }
    }

    fn touch(&mut self, number: MessageNumber) {
        self.last = self.last.max(number.number());
    }
}

fn place(number: MessageNumber) -> usize {
    // 32 bits always fit into a usize on the machines that tokio runs on.
    number.number() as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::ids::UidValidity;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn n(number: u32) -> MessageNumber {
        MessageNumber::new(number).expect("not 0")
    }

    pub(super) fn listing(messages: impl Iterator<Item = (Uid, Octets)>) -> Arc<Listing> {
        let mut builder = ListingBuilder::default();
        for (uid, octets) in messages {
            let octets = Some(octets.into());
            builder.add(
                uid,
                Told {
                    octets,
                    ..Told::default()
                },
            );
        }
        builder.build().0
    }

    fn maildrop(sizes: &[Octets]) -> Maildrop {
        let uids = (1..).filter_map(|number| Uid::new(number * 3));
        let validity = UidValidity::new(5).expect("not 0");
        Maildrop::new(
            listing(uids.zip(sizes.iter().copied())),
            UniqueIds::from_uids(UniqueIdFormat::Dovecot, validity),
        )
    }

    #[test]
    fn more_than_four_gigabytes_are_counted() {
        let stat = maildrop(&[u32::MAX, u32::MAX]).drop_listing();
        assert_eq!(
            stat,
            DropListing {
                messages: 2,
                octets: 2 * u64::from(u32::MAX)
            }
        );
        assert_eq!(maildrop(&[]).drop_listing(), DropListing::default());
    }

    #[test]
    fn a_status_header_counts_for_every_message_and_tells_what_was_read() {
        let plain = maildrop(&[0, u32::MAX]);
        let of = |ours: &Maildrop, number| {
            let message = ours.message(n(number)).expect("there");
            let header = str::from_utf8(ours.header(message)).expect("ours");
            (ours.octets(message), header)
        };
        assert_eq!(
            (of(&plain, 1), of(&plain, 2)),
            ((0, ""), (u32::MAX.into(), ""))
        );

        let seen: UidSet = Uid::new(6).into_iter().collect();
        let mut ours = plain.with_status_header(seen);
        assert_eq!(of(&ours, 1), (12, "Status:  O\r\n"));
        assert_eq!(of(&ours, 2), (u64::from(u32::MAX) + 12, "Status: RO\r\n"));
        assert_eq!(ours.drop_listing().octets, u64::from(u32::MAX) + 24);
        ours.mark_retrieved(n(1));
        assert_eq!(of(&ours, 1), (12, "Status: RO\r\n"));
        ours.delete(n(2)).expect("there");
        assert_eq!(
            ours.drop_listing(),
            DropListing {
                messages: 1,
                octets: 12
            }
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Dele(u32),
        Retr(u32),
        Rset,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1u32..8).prop_map(Step::Dele),
            4 => (1u32..8).prop_map(Step::Retr),
            1 => Just(Step::Rset),
        ];
        prop::collection::vec(step, 0..40)
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_model(sizes in prop::collection::vec(0u32..1000, 0..6), steps in steps()) {
            let mut ours = maildrop(&sizes);
            let exists = |number: u32| number as usize <= sizes.len();
            let (mut deleted, mut retrieved, mut last) = (BTreeSet::new(), BTreeSet::new(), 0);
            for step in steps {
                match step {
                    Step::Dele(number) => {
                        let expected = match (exists(number), deleted.contains(&number)) {
                            (false, _) => Err(NoSuchMessage::Absent),
                            (true, true) => Err(NoSuchMessage::Deleted),
                            (true, false) => Ok(()),
                        };
                        prop_assert_eq!(ours.delete(n(number)), expected);
                        if expected.is_ok() {
                            deleted.insert(number);
                            last = last.max(number);
                        }
                    }
                    Step::Retr(number) => {
                        if ours.message(n(number)).is_ok() {
                            ours.mark_retrieved(n(number));
                            retrieved.insert(number);
                            last = last.max(number);
                        }
                    }
                    Step::Rset => {
                        ours.reset();
                        deleted.clear();
                        last = 0;
                    }
                }
                let left: Vec<u32> = (1..=sizes.len() as u32).filter(|number| !deleted.contains(number)).collect();
                let octets = left.iter().map(|number| u64::from(sizes[*number as usize - 1])).sum();
                prop_assert_eq!(ours.drop_listing(), DropListing { messages: left.len() as u32, octets });
                prop_assert!(ours.messages_from(n(1)).map(|message| message.number.number()).eq(left));
                prop_assert_eq!(ours.last(), last);
            }
            let update = ours.update();
            prop_assert!(update.deleted.iter().map(|uid| uid.number() / 3).eq(deleted));
            prop_assert!(update.retrieved.iter().map(|uid| uid.number() / 3).eq(retrieved));
        }
    }
}
