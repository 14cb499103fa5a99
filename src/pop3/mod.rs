//! POP3 (RFC 1939, 2449, 3206, 5034, 6856), server side. Pure: octets in, values out.

pub mod command;
pub mod multi_line;
pub mod reply;
