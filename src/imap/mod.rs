//! IMAP4rev1 and rev2 (RFC 3501, RFC 9051) as far as a POP3 gateway speaks it, client side.
//!
//! Pure: octets in, values out. [`framing`] finds where a response ends, [`response`] and [`fetch`]
//! understand it, [`command`] writes what we say. What we do not know is skipped, never fatal;
//! what contradicts the grammar where it matters is [`Garbled`].

pub mod capability;
pub mod command;
pub mod fetch;
pub mod framing;
mod grammar;
pub mod ids;
pub mod mailbox_name;
pub mod response;

/// The upstream broke the grammar where guessing could lose mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled(
    /// What was wrong, for the log; never text from the wire.
    pub &'static str,
);
