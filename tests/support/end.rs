//! [`End`]: the test's end of a connection, in plain octets whether TLS is below them or not.

use super::tls::Tls;
use super::wire::Wire;

pub(crate) struct End {
    pub(crate) wire: Wire,
    tls: Option<Tls>,
    said: Vec<u8>,
    sealed: Vec<Sealed>,
}

/// Once popgate has read so many octets of the wire, it has so many of what was said.
struct Sealed {
    wire_octets: usize,
    said_octets: usize,
}

impl End {
    pub(crate) fn new(wire: Wire) -> Self {
        Self {
            wire,
            tls: None,
            said: Vec::new(),
            sealed: Vec::new(),
        }
    }

    /// From now on all is TLS, and so is `heard`, which came already.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn begin_tls(&mut self, mut tls: Tls, heard: &[u8]) -> Result<(), rustls::Error> {
        self.sealed.push(Sealed {
            wire_octets: self.said.len(),
            said_octets: self.said.len(),
        });
        let result = tls.take(&self.wire, heard).map(drop);
        self.tls = Some(tls);
        result
    }

    /// A handshake that has failed: nothing follows.
    pub(crate) fn forget_tls(&mut self) {
        self.tls = None;
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(Tls::is_handshaking)
    }

    pub(crate) fn is_secured(&self) -> bool {
        self.tls.is_some() && !self.is_handshaking()
    }

    /// Nothing can be said before a handshake is over, and nothing is. Under TLS every octet is a record
    /// of its own, so that whatever breaks, popgate has all octets before.
    pub(crate) fn say(&mut self, octets: &[u8]) {
        match &mut self.tls {
            None => {
                self.wire.send(octets);
                self.said.extend_from_slice(octets);
            }
            Some(tls) if tls.is_handshaking() => {}
            Some(tls) => {
                for octet in octets {
                    tls.send(&self.wire, &[*octet]);
                    self.said.push(*octet);
                    self.sealed.push(Sealed {
                        wire_octets: self.wire.sent_octets(),
                        said_octets: self.said.len(),
                    });
                }
            }
        }
    }

    /// What popgate has said since the last time.
    ///
    /// # Errors
    /// When that should be TLS, and is not, or tells of failure.
    pub(crate) fn listen(&mut self) -> Result<Vec<u8>, rustls::Error> {
        let octets = self.wire.take();
        match &mut self.tls {
            Some(tls) => tls.take(&self.wire, &octets),
            None => Ok(octets),
        }
    }

    /// All that was said.
    pub(crate) fn said(&self) -> &[u8] {
        &self.said
    }

    /// As much of it as popgate has read.
    pub(crate) fn delivered(&self) -> &[u8] {
        let wire_octets = self.wire.delivered_octets();
        let mut sealed = self.sealed.iter().rev();
        let octets = match sealed.find(|sealed| sealed.wire_octets <= wire_octets) {
            Some(sealed) => sealed.said_octets,
            None => wire_octets,
        };
        &self.said[..octets]
    }
}
