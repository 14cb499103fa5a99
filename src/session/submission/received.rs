//! The Received line (RFC 5321 §4.4): all that is added to a message.

use std::fmt::{self, Display};
use std::io::Write;
use std::net::IpAddr;

use super::{Introduction, Session};
use crate::clock::MessageDate;

/// Octets of what a client calls itself that are repeated; our own name has no more (RFC 5321 §4.5.3.1.2).
const NAME_OCTETS_MAX: usize = 255;

/// Octets of the line of any message.
pub(super) const LINE_OCTETS_MAX: u64 = 2 * NAME_OCTETS_MAX as u64 + 192;

/// A date with as many octets as any.
const LONGEST_DATE: &str = "Wed, 25 Nov 2026 13:08:16 +0000";

/// Appends the line for a message of this session.
pub(super) fn line(is_utf8: bool, session: &Session<'_>, out: &mut Vec<u8>) {
    write_line(is_utf8, session, MessageDate::now(), out);
}

/// Octets that a message gets by that, at most.
pub(super) fn octets_max(is_utf8: bool, session: &Session<'_>) -> u64 {
    let mut added = Vec::new();
    if session.gateway.submission.settings.received {
        write_line(is_utf8, session, LONGEST_DATE, &mut added);
    }
    added.len() as u64
}

fn write_line(is_utf8: bool, session: &Session<'_>, date: impl Display, out: &mut Vec<u8>) {
    let trace = Trace {
        introduction: session.logged_in.introduction.as_ref(),
        address: session.client.address,
        hostname: &session.gateway.submission.settings.hostname,
        is_utf8,
        is_secure: session.client.secure,
        is_authenticated: session.logged_in.by_auth,
    };
    let id = session.record.id;
    // Writing into a vector cannot fail.
    let _ = write!(out, "{trace} id {id};\r\n\t{date}\r\n");
}

struct Trace<'a> {
    introduction: Option<&'a Introduction>,
    address: IpAddr,
    hostname: &'a str,
    is_utf8: bool,
    is_secure: bool,
    is_authenticated: bool,
}

impl Trace<'_> {
    /// RFC 3848 §1, RFC 6531 §4.3
    fn with(&self) -> &'static str {
        let is_extended = self.introduction.is_some_and(|said| said.is_extended);
        match (self.is_utf8, self.is_secure, self.is_authenticated) {
            (true, false, false) => "UTF8SMTP",
            (true, false, true) => "UTF8SMTPA",
            (true, true, false) => "UTF8SMTPS",
            (true, true, true) => "UTF8SMTPSA",
            (false, false, false) if !is_extended => "SMTP",
            (false, false, false) => "ESMTP",
            (false, false, true) => "ESMTPA",
            (false, true, false) => "ESMTPS",
            (false, true, true) => "ESMTPSA",
        }
    }
}

impl Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.introduction.map_or(&b""[..], |said| &said.name);
        let name = &name[..name.len().min(NAME_OCTETS_MAX)];
        f.write_str("Received: from ")?;
        match name {
            b"" => f.write_str("unknown")?,
            _ => {
                for octet in name {
                    let is_plain = octet.is_ascii_alphanumeric() || b"-._:[]".contains(octet);
                    write!(f, "{}", if is_plain { char::from(*octet) } else { '?' })?;
                }
            }
        }
        let literal = match self.address {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        };
        write!(
            f,
            " ({literal})\r\n\tby {} (popgate) with {}",
            self.hostname,
            self.with()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(name: Option<(&str, bool)>, is_utf8: bool, is_secure: bool, by_auth: bool) -> String {
        let introduction = name.map(|(name, is_extended)| Introduction {
            name: name.as_bytes().to_vec(),
            is_extended,
        });
        Trace {
            introduction: introduction.as_ref(),
            address: "192.0.2.7".parse().expect("an address"),
            hostname: "popgate.localdomain",
            is_utf8,
            is_secure,
            is_authenticated: by_auth,
        }
        .to_string()
    }

    #[test]
    fn what_is_said_of_a_client() {
        assert_eq!(
            trace(Some(("KM_C250i", true)), false, true, true),
            "Received: from KM_C250i ([192.0.2.7])\r\n\tby popgate.localdomain (popgate) with ESMTPSA"
        );
        for (name, is_utf8, is_secure, by_auth, expected) in [
            (Some(("a", true)), false, false, true, "ESMTPA"),
            (Some(("a", true)), true, true, true, "UTF8SMTPSA"),
            (Some(("a", true)), false, false, false, "ESMTP"),
            (Some(("a", false)), false, false, false, "SMTP"),
            (None, false, true, false, "ESMTPS"),
        ] {
            let line = trace(name, is_utf8, is_secure, by_auth);
            assert!(line.ends_with(&format!(" with {expected}")), "{line}");
        }
    }

    #[test]
    fn what_a_client_calls_itself_can_mean_nothing() {
        let line = trace(Some(("x(y)\\;<z>\"", true)), false, false, true);
        assert!(line.starts_with("Received: from x?y????z?? ("), "{line}");
        let line = trace(None, false, false, true);
        assert!(line.starts_with("Received: from unknown ("), "{line}");
        let line = trace(Some((&"x".repeat(1000), true)), false, false, true);
        assert!(line.len() < 400, "{line}");
    }

    #[test]
    fn no_line_is_longer_than_the_longest() {
        let hostname = "x".repeat(NAME_OCTETS_MAX);
        let introduction = Introduction {
            name: vec![b'x'; 1000],
            is_extended: true,
        };
        let trace = Trace {
            introduction: Some(&introduction),
            address: "2001:db8:1111:2222:3333:4444:5555:6666"
                .parse()
                .expect("an address"),
            hostname: &hostname,
            is_utf8: true,
            is_secure: true,
            is_authenticated: true,
        };
        let line = format!("{trace} id 01234567;\r\n\t{LONGEST_DATE}\r\n");
        let octets = line.len() as u64;
        assert!((LINE_OCTETS_MAX - 64..=LINE_OCTETS_MAX).contains(&octets));
    }
}
