//! Where connections to upstreams come from.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::Endpoint;
use crate::line_stream::ByteStream;

/// A connection to be, in clear text.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send + 'a>>;

/// Opens connections: by TCP, or to a scripted end in a test.
pub trait Dial: Send + Sync {
    /// Opens one; gives up after `limit`.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint, limit: Duration) -> Dialling<'a>;
}

/// DNS and TCP.
#[derive(Debug, Default)]
pub struct TcpDialer;

impl Dial for TcpDialer {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint, limit: Duration) -> Dialling<'a> {
        Box::pin(async move {
            let addresses: Vec<_> = lookup_host((endpoint.host.as_str(), endpoint.port))
                .await?
                .collect();
            // An address that answers nothing must leave time for the next.
            let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
            let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in addresses {
                match timeout(share, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => {
                        stream.set_nodelay(true)?;
                        let stream: Box<dyn ByteStream> = Box::new(stream);
                        return Ok(stream);
                    }
                    Ok(Err(error)) => last_error = error,
                    Err(_) => last_error = io::ErrorKind::TimedOut.into(),
                }
            }
            Err(last_error)
        })
    }
}
