//! SMTP as submission speaks it (RFC 5321, 6409), both sides: [`command`] is what clients ask and what
//! we ask of an upstream, [`reply`] what is answered, [`envelope`] who sends to whom, [`extension`]
//! what EHLO lists, [`data`] where a message ends. Pure: octets in, values out.

pub mod command;
pub mod data;
pub mod envelope;
pub mod extension;
pub mod header;
pub mod reply;

/// The upstream broke the grammar where guessing could lose mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garbled(
    /// What was wrong, for the log; never text from the wire.
    pub &'static str,
);
