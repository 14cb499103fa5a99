//! popgate.

pub mod config;
pub mod maildrop;
pub mod secret;
