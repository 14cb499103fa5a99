//! [`LiteralReader`]: the octets of one message, lent chunk by chunk while they arrive.

use super::ImapClient;
use super::imap_client::Asked;
use crate::failure::Failure;
use crate::imap::Garbled;
use crate::imap::fetch::{self, Body, BodyHead, Fetch};
use crate::imap::ids::Uid;

/// Octets lent at once.
const CHUNK_OCTETS_MAX: usize = 128 * 1024;

/// A body on its way. It is complete only when [`LiteralReader::finish`] says so; if it is dropped
/// before, the connection cannot be used any more.
pub struct LiteralReader<'a> {
    client: &'a mut ImapClient,
    asked: Asked,
    uid: Uid,
    octets: u64,
    left: u64,
    source: Source,
}

enum Source {
    /// A literal, and the items that came before it.
    Stream(Fetch),
    /// A quoted string; the response is complete.
    Inline(Vec<u8>),
}

impl<'a> LiteralReader<'a> {
    pub(super) fn streamed(
        client: &'a mut ImapClient,
        asked: Asked,
        uid: Uid,
        head: BodyHead,
    ) -> Self {
        // A body may take as long as it moves.
        client.stream().set_deadline(None);
        Self {
            client,
            asked,
            uid,
            octets: head.octets,
            left: head.octets,
            source: Source::Stream(head.items),
        }
    }

    pub(super) fn inline(
        client: &'a mut ImapClient,
        asked: Asked,
        uid: Uid,
        content: Vec<u8>,
    ) -> Self {
        let octets = content.len() as u64;
        Self {
            client,
            asked,
            uid,
            octets,
            left: octets,
            source: Source::Inline(content),
        }
    }

    /// How many octets the upstream announced.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether the next chunk is here already, so that what came before it need not be sent yet.
    pub fn has_input(&mut self) -> bool {
        matches!(self.source, Source::Inline(_)) || self.client.stream().has_input()
    }

    /// The next octets; `None` behind the last.
    ///
    /// # Errors
    /// When the upstream is lost; what was lent before must not be completed then.
    pub async fn chunk(&mut self) -> Result<Option<&[u8]>, Failure> {
        if self.left == 0 {
            return Ok(None);
        }
        match &mut self.source {
            Source::Inline(content) => {
                self.left = 0;
                Ok(Some(content))
            }
            Source::Stream(_) => {
                let octets_max = usize::try_from(self.left)
                    .unwrap_or(CHUNK_OCTETS_MAX)
                    .min(CHUNK_OCTETS_MAX);
                let chunk = self.client.stream().chunk(octets_max).await?;
                self.left -= chunk.len() as u64;
                Ok(Some(chunk))
            }
        }
    }

    /// Skips what is left and hears the end of the command: only now was it all, and the right one.
    ///
    /// # Errors
    /// When the upstream is lost, takes it back with NO, or it was another message's body.
    pub async fn finish(mut self) -> Result<(), Failure> {
        while self.chunk().await?.is_some() {}
        self.client.limit_command();
        if let Source::Stream(items) = self.source {
            let mut tail = Vec::new();
            let is_body = |body: &Body| body.place.whole_message;
            let head = self.client.complete_line(&mut tail).await?;
            let items = fetch::body_tail(&tail, items)?;
            // A body whose literal is not the first of its response is part of the tail.
            if head.is_some() || items.body.as_ref().is_some_and(is_body) {
                return Err(Garbled("two bodies in one response").into());
            }
            if items.uid != Some(self.uid) {
                return Err(Garbled("the body of a message that we did not ask for").into());
            }
        }
        self.client.end_body(self.asked).await
    }
}
