//! popgate.
#![forbid(unsafe_code)]

pub mod account;
pub mod config;
pub mod failure;
pub mod imap;
pub mod line_stream;
pub mod maildrop;
pub mod metrics;
pub mod pop3;
pub mod sasl;
pub mod secret;
pub mod state;
pub mod tls;
pub mod upstream;
