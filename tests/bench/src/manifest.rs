//! What is in a mailbox: of each message in turn its octets and their SHA-256, as POP3 hands it out.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::wire::Result;

/// A mailbox as it was made.
pub(crate) struct Manifest {
    messages: Vec<Message>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    octets: u64,
    sha256: String,
}

impl Manifest {
    /// Reads a file whose lines are a number of octets, a blank, and a checksum in hexadecimal.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut messages = Vec::new();
        for line in fs::read_to_string(path)?.lines() {
            let (octets, sha256) = line.split_once(' ').ok_or("no manifest")?;
            messages.push(Message {
                octets: octets.parse()?,
                sha256: sha256.to_owned(),
            });
        }
        Ok(Self { messages })
    }

    pub(crate) fn count(&self) -> usize {
        self.messages.len()
    }

    /// Of all messages.
    pub(crate) fn octets(&self) -> u64 {
        self.messages.iter().map(|message| message.octets).sum()
    }

    /// Insists on the sizes of all messages, in their order.
    pub(crate) fn check_sizes(&self, sizes: &[u64]) -> Result<()> {
        match sizes
            .iter()
            .eq(self.messages.iter().map(|message| &message.octets))
        {
            true => Ok(()),
            false => Err(format!("other sizes than expected, of {} messages", sizes.len()).into()),
        }
    }

    /// Which message this is, counted from 0, if it is one.
    pub(crate) fn find(&self, received: Received) -> Option<usize> {
        let received = received.end();
        self.messages
            .iter()
            .position(|message| *message == received)
    }

    /// Insists on the octets of one message, counted from 0.
    pub(crate) fn check(&self, at: usize, received: Received) -> Result<()> {
        let message = self.messages.get(at).ok_or("a message too many")?;
        let received = received.end();
        match received == *message {
            true => Ok(()),
            false => Err(format!(
                "message {} came as {} octets, {}, and is {} octets, {}",
                at + 1,
                received.octets,
                received.sha256,
                message.octets,
                message.sha256
            )
            .into()),
        }
    }
}

/// A message that comes in pieces.
#[derive(Default)]
pub(crate) struct Received {
    octets: u64,
    sha256: Sha256,
}

impl Received {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.octets += piece.len() as u64;
        self.sha256.update(piece);
    }

    /// What it was.
    pub(crate) fn end(self) -> Message {
        Message {
            octets: self.octets,
            sha256: format!("{:x}", self.sha256.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(pieces: &[&[u8]]) -> Received {
        let mut received = Received::default();
        for piece in pieces {
            received.push(piece);
        }
        received
    }

    #[test]
    fn one_wrong_octet_is_seen() {
        let message = Message {
            octets: 3,
            // Of "abc", as FIPS 180-2 has it.
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
        };
        let manifest = Manifest {
            messages: vec![message],
        };
        assert!(manifest.check(0, received(&[b"a", b"", b"bc"])).is_ok());
        for wrong in [&b"abC"[..], b"ab", b"abcd", b""] {
            assert!(manifest.check(0, received(&[wrong])).is_err());
        }
        assert!(manifest.check(1, received(&[b"abc"])).is_err());
        assert_eq!(manifest.find(received(&[b"ab", b"c"])), Some(0));
        assert_eq!(manifest.find(received(&[b"abC"])), None);
        assert!(manifest.check_sizes(&[3]).is_ok());
        for wrong in [&[][..], &[2], &[3, 3]] {
            assert!(manifest.check_sizes(wrong).is_err());
        }
    }
}
