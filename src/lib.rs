//! popgate.

pub mod admin;
pub mod config;
pub mod maildrop;
pub mod secret;
