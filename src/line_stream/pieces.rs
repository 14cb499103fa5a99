//! [`Pieces`]: octets that lie apart, written without a copy of them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::ByteStream;

/// Pieces that are handed to the transport together.
pub(super) const PIECES_AT_ONCE: usize = 64;

/// What is left to be sent of some pieces.
pub(super) struct Pieces<'a> {
    /// How much of the first has been sent.
    sent: usize,
    pieces: &'a [&'a [u8]],
}

impl<'a> Pieces<'a> {
    pub(super) fn new(pieces: &'a [&'a [u8]]) -> Self {
        let mut all = Self { sent: 0, pieces };
        all.skip(0);
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// So many octets more have been sent, and no piece without an octet comes next.
    pub(super) fn skip(&mut self, octets: usize) {
        self.sent += octets;
        while let Some((first, rest)) = self.pieces.split_first()
            && first.len() <= self.sent
        {
            self.sent -= first.len();
            self.pieces = rest;
        }
    }

    /// As many as go at once.
    pub(super) fn poll_write(
        &self,
        stream: &mut Box<dyn ByteStream>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES_AT_ONCE];
        for (slice, piece) in slices.iter_mut().zip(self.pieces) {
            *slice = IoSlice::new(piece);
        }
        if let Some(first) = self.pieces.first() {
            slices[0] = IoSlice::new(&first[self.sent..]);
        }
        let count = self.pieces.len().min(PIECES_AT_ONCE);
        Pin::new(stream).poll_write_vectored(context, &slices[..count])
    }
}
