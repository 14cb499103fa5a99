//! `popgate healthcheck`: one HTTP request to the admin port, without a runtime.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// For each of connecting, sending and receiving; kubelet gives up after one second by default, but
/// whoever sets its limit higher should not be held up by ours.
const STEP_MAX: Duration = Duration::from_secs(5);

/// Longer than every status line.
const STATUS_LINE_OCTETS: usize = 12;

/// Whether popgate says at `address` that it is ready.
///
/// # Errors
///
/// If nobody listens there, or the answer takes too long or is not 200.
pub(crate) fn readyz(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), STEP_MAX)?;
    stream.set_read_timeout(Some(STEP_MAX))?;
    stream.set_write_timeout(Some(STEP_MAX))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut status = [0; STATUS_LINE_OCTETS];
    stream.read_exact(&mut status)?;
    match &status {
        b"HTTP/1.1 200" => Ok(()),
        status => Err(io::Error::other(
            String::from_utf8_lossy(status).into_owned(),
        )),
    }
}

/// Whoever listens on every address is on loopback too.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9110", "127.0.0.1:9110"),
            ("[::]:9110", "[::1]:9110"),
            ("10.0.0.1:9110", "10.0.0.1:9110"),
        ] {
            let listen: SocketAddr = listen.parse().expect("an address");
            assert_eq!(reachable(listen).to_string(), asked);
        }
    }
}
