//! What a balancer says first about a connection that it passes on: the PROXY protocol, versions 1 and 2.
//!
//! The grammar is the `ppp` crate's; [`read`] takes exactly the header, so that not an octet of what
//! follows is lost, and no more than [`HEADER_OCTETS_MAX`].

use std::io;
use std::net::IpAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Of version 1, line end included, as its specification has it.
const LINE_OCTETS_MAX: usize = 107;

/// Addresses of Unix sockets take 232, and what balancers append some hundreds.
const HEADER_OCTETS_MAX: usize = 4096;

/// Version 2 up to and including the length of the rest.
const FIXED_OCTETS: usize = 16;

/// No header of either version is shorter.
const BEGINNING_OCTETS: usize = 12;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This client's.
    Client(IpAddr),
    /// Somebody's, of whom the balancer does not know more; or its own, as when it looks whether we live.
    Unknown,
}

/// Reads a header; `None` if the connection ends without an octet, as of a balancer that only looks whether
/// it is accepted.
///
/// # Errors
/// When what comes is none, or the connection ends within it.
pub async fn read(transport: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Source>> {
    let mut header = vec![0; BEGINNING_OCTETS];
    let octets = match transport.read(&mut header).await {
        Ok(0) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        octets => octets?,
    };
    transport.read_exact(&mut header[octets..]).await?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(FIXED_OCTETS, 0);
        transport
            .read_exact(&mut header[BEGINNING_OCTETS..])
            .await?;
        let rest = u16::from_be_bytes([header[FIXED_OCTETS - 2], header[FIXED_OCTETS - 1]]);
        let whole = FIXED_OCTETS + usize::from(rest);
        if whole > HEADER_OCTETS_MAX {
            return Err(invalid("the PROXY header is too long"));
        }
        header.resize(whole, 0);
        transport.read_exact(&mut header[FIXED_OCTETS..]).await?;
    } else if header.starts_with(b"PROXY ") {
        // Octet by octet: behind the line begins what is the client's.
        while !header.ends_with(b"\n") {
            if header.len() == LINE_OCTETS_MAX {
                return Err(invalid("the PROXY line is too long"));
            }
            header.push(transport.read_u8().await?);
        }
    }
    let source = parse(&header).ok_or_else(|| invalid("no PROXY header"))?;
    Ok(Some(source))
}

/// What a whole header says; `None` if it is none.
pub fn parse(header: &[u8]) -> Option<Source> {
    match header.starts_with(v2::PROTOCOL_PREFIX) {
        true => parse_v2(header),
        false => parse_v1(header),
    }
}

fn parse_v1(header: &[u8]) -> Option<Source> {
    let header = v1::Header::try_from(header).ok()?;
    Some(match header.addresses {
        v1::Addresses::Tcp4(addresses) => client(addresses.source_address),
        v1::Addresses::Tcp6(addresses) => client(addresses.source_address),
        v1::Addresses::Unknown => Source::Unknown,
    })
}

fn parse_v2(header: &[u8]) -> Option<Source> {
    let header = v2::Header::try_from(header).ok()?;
    match (header.command, header.protocol, header.addresses) {
        // Most likely its own, which proves nothing of who speaks.
        (v2::Command::Local, ..) => Some(Source::Unknown),
        (_, v2::Protocol::Datagram, _) => None,
        (_, _, v2::Addresses::IPv4(addresses)) => Some(client(addresses.source_address)),
        (_, _, v2::Addresses::IPv6(addresses)) => Some(client(addresses.source_address)),
        (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Some(Source::Unknown),
    }
}

fn client(address: impl Into<IpAddr>) -> Source {
    Source::Client(address.into().to_canonical())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(rest.len()).expect("short").to_be_bytes());
        header.extend(rest);
        header
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x80, 0, 0, 110];

    /// With something behind it, however it trickles: what is behind it stays.
    async fn check(header: &[u8], expected: Option<Source>) {
        for trickle in [1, 1000] {
            let (mut ours, mut theirs) = tokio::io::duplex(trickle);
            let sent = [header, b"QUIT\r\n"].concat();
            tokio::spawn(async move {
                let _ = theirs.write_all(&sent).await;
            });
            let found = read(&mut ours).await.ok().flatten();
            let shown = header.escape_ascii();
            assert_eq!(found, expected, "{shown}");
            if expected.is_some() {
                let mut behind = String::new();
                ours.read_to_string(&mut behind).await.expect("text");
                assert_eq!(behind, "QUIT\r\n", "{shown}");
            }
        }
    }

    #[tokio::test]
    async fn headers_tell_the_client() {
        let client = |text: &str| Some(Source::Client(text.parse().expect("an address")));
        let mut ipv6 = [0; 36];
        ipv6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
        let with_more = [&IPV4[..], &[4, 0, 1, 0]].concat();
        for (header, expected) in [
            (
                &b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 110\r\n"[..],
                client("192.0.2.7"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 ::1 5000 110\r\n",
                client("2001:db8::7"),
            ),
            (b"PROXY UNKNOWN\r\n", Some(Source::Unknown)),
            (b"PROXY UNKNOWN 1 2 3 whatever\r\n", Some(Source::Unknown)),
            (&version_2(1, 0x11, &IPV4), client("192.0.2.7")),
            (&version_2(1, 0x11, &with_more), client("192.0.2.7")),
            (&version_2(1, 0x21, &ipv6), client("2001:db8::")),
            (&version_2(1, 0x21, &mapped), client("192.0.2.7")),
            (&version_2(0, 0, &[]), Some(Source::Unknown)),
            (&version_2(0, 0x11, &IPV4), Some(Source::Unknown)),
            (&version_2(1, 0, &[]), Some(Source::Unknown)),
            (&version_2(1, 0x31, &[0; 216]), Some(Source::Unknown)),
        ] {
            check(header, expected).await;
        }
    }

    #[tokio::test]
    async fn who_says_nothing_makes_no_mistake() {
        for (said, is_mistake) in [(&b""[..], false), (b"P", true), (b"\r\n\r\n\0", true)] {
            let read = read(&mut &said[..]).await;
            assert_eq!(read.is_err(), is_mistake, "{read:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_OCTETS_MAX));
        for header in [
            &b"USER joe\r\nPASS secret\r\n"[..],
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 110\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 5000 110\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 70000 110\r\n",
            b"PROXY TCP5 192.0.2.7 10.0.0.1 5000 110\r\n",
            b"PROXY TCP4 \xff92.0.2.7 10.0.0.1 5000 110\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00",
            long.as_bytes(),
            &version_2(1, 0x12, &IPV4),
            &version_2(1, 0x11, &IPV4[..11]),
            &version_2(2, 0x11, &IPV4),
            &version_2(1, 0x11, &[0; HEADER_OCTETS_MAX]),
        ] {
            check(header, None).await;
        }
    }
}
