//! popgate.
#![forbid(unsafe_code)]

pub mod config;
pub mod imap;
pub mod maildrop;
pub mod pop3;
pub mod sasl;
pub mod secret;
