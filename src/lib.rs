//! popgate.

pub mod config;
pub mod demo;
pub mod maildrop;
pub mod secret;
