//! [`StatusHeader`]: what tells Eudora which messages it has read.
//!
//! Eudora leaves mail on a server without remembering unique-ids: it looks for the `Status:` header that
//! UW's ipop3d put into every message, in which `R` means read and `O` old, which is no longer `\Recent`.
//! Here a message is always old, since only one session of all protocols is told `\Recent`, and not
//! necessarily one of ours. As with UW, a blank stands for a letter that is left out: the header always
//! has the same length, or LIST could not tell that of a message whose state changes within a session.
//! Unlike UW's it is the first of a message's headers, which need not be read for that.

use crate::imap::ids::{Uid, UidSet};

/// Octets by which the header makes every message longer.
pub(super) const STATUS_OCTETS: u64 = READ.len() as u64;

const READ: &[u8; 12] = b"Status: RO\r\n";
const UNREAD: &[u8; 12] = b"Status:  O\r\n";

/// The headers of a maildrop.
#[derive(Debug)]
pub(super) struct StatusHeader {
    /// With `\Seen`, at login.
    seen: UidSet,
}

impl StatusHeader {
    /// With the messages that bore `\Seen` at login.
    pub(super) fn new(seen: UidSet) -> Self {
        Self { seen }
    }

    /// Of a message that this session has retrieved, or has not.
    pub(super) fn of(&self, uid: Uid, retrieved: bool) -> &'static [u8] {
        match retrieved || self.seen.contains(uid) {
            true => READ,
            false => UNREAD,
        }
    }
}
