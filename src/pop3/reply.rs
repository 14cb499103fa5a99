//! Replies: one status line each (RFC 1939 §3), with response codes (RFC 2449 §8, RFC 3206).

use std::fmt::Display;
use std::io::Write;

/// Response codes that popgate sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseCode {
    /// The credential was refused.
    Auth,
    /// It may pass: try again later.
    SysTemp,
    /// It will not pass by itself: somebody has to act.
    SysPerm,
    /// Somebody else has the maildrop open.
    InUse,
    /// Logging in too soon after the last time.
    LoginDelay,
}

impl ResponseCode {
    /// As between brackets on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::SysTemp => "SYS/TEMP",
            Self::SysPerm => "SYS/PERM",
            Self::InUse => "IN-USE",
            Self::LoginDelay => "LOGIN-DELAY",
        }
    }
}

/// Appends `+OK text`. The text is ours, never from the wire.
pub fn ok(out: &mut Vec<u8>, text: impl Display) {
    line(out, format_args!("+OK {text}"));
}

/// Appends `-ERR text`. The text is ours, never from the wire.
pub fn err(out: &mut Vec<u8>, text: impl Display) {
    line(out, format_args!("-ERR {text}"));
}

/// Appends `-ERR [CODE] text`.
pub fn err_with(out: &mut Vec<u8>, code: ResponseCode, text: impl Display) {
    line(out, format_args!("-ERR [{}] {text}", code.as_str()));
}

/// Appends `+ text`: the client is to go on with its AUTH (RFC 5034 §4).
pub fn continuation(out: &mut Vec<u8>, challenge: &str) {
    line(out, format_args!("+ {challenge}"));
}

/// Appends one line of a multi-line reply that cannot begin with a dot.
pub fn line(out: &mut Vec<u8>, text: impl Display) {
    // Writing into a vector cannot fail.
    let _ = write!(out, "{text}\r\n");
}

/// Appends the end of a multi-line reply: said only when the whole of it went before.
pub fn terminator(out: &mut Vec<u8>) {
    out.extend_from_slice(b".\r\n");
}
