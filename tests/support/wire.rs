//! [`Wire`]: one connection in memory, of which a test holds one end and popgate the other.
//!
//! It never blocks what popgate writes (unless told to) and keeps all of it; what popgate reads can
//! be cut, reset, stalled or trickled at any octet.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// The test's end.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Mutex<Shared>>);

/// popgate's end.
pub(crate) struct PopgateEnd(Arc<Mutex<Shared>>);

/// What goes wrong on the way to popgate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// One octet a read.
    Trickle,
    /// After so many octets, the end of the stream.
    Cut(usize),
    /// After so many octets, a reset.
    Reset(usize),
    /// After so many octets, nothing more.
    Stall(usize),
}

struct Shared {
    /// All that the test has sent.
    sent: Vec<u8>,
    /// How much of it popgate has read.
    delivered: usize,
    /// What follows behind the last octet sent.
    ending: Option<Ending>,
    fault: Fault,
    /// What popgate has written and nobody has taken.
    written: Vec<u8>,
    /// Octets that popgate may write before it must wait.
    room: usize,
    closed_by_popgate: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    activity: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Eof,
    Reset,
}

/// Both ends of a connection; `activity` hears of all that popgate does.
pub(crate) fn wire(fault: Fault, activity: Arc<Notify>) -> (Wire, PopgateEnd) {
    let shared = Arc::new(Mutex::new(Shared {
        sent: Vec::new(),
        delivered: 0,
        ending: None,
        fault,
        written: Vec::new(),
        room: usize::MAX,
        closed_by_popgate: false,
        reader: None,
        writer: None,
        activity,
    }));
    (Wire(shared.clone()), PopgateEnd(shared))
}

impl Wire {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.0)
    }

    pub(crate) fn send(&self, octets: &[u8]) {
        let mut shared = self.shared();
        shared.sent.extend_from_slice(octets);
        shared.wake_reader();
    }

    /// No more will come, in an orderly way.
    pub(crate) fn end(&self) {
        self.finish(Ending::Eof);
    }

    /// The connection is gone, for writing as well.
    pub(crate) fn reset(&self) {
        self.finish(Ending::Reset);
    }

    fn finish(&self, ending: Ending) {
        let mut shared = self.shared();
        shared.ending = Some(ending);
        shared.wake_reader();
        if let Some(writer) = shared.writer.take() {
            writer.wake();
        }
    }

    /// What popgate has written since the last time.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.shared().written)
    }

    /// Whether it has written anything since.
    pub(crate) fn is_quiet(&self) -> bool {
        self.shared().written.is_empty()
    }

    pub(crate) fn is_closed_by_popgate(&self) -> bool {
        self.shared().closed_by_popgate
    }

    /// From now on popgate can write only so many octets.
    pub(crate) fn limit_room(&self, room: usize) {
        let mut shared = self.shared();
        shared.room = room;
        if let Some(writer) = shared.writer.take() {
            writer.wake();
        }
    }

    pub(crate) fn sent_octets(&self) -> usize {
        self.shared().sent.len()
    }

    /// Whether popgate finds the end of this connection, whoever ended it.
    pub(crate) fn is_broken(&self) -> bool {
        self.shared().ending().is_some()
    }

    /// How much of it popgate has read so far.
    pub(crate) fn delivered_octets(&self) -> usize {
        self.shared().delivered
    }
}

impl Shared {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// How many octets popgate may read now, at most.
    fn readable(&self) -> usize {
        let waiting = self.sent.len() - self.delivered;
        match self.fault {
            Fault::None => waiting,
            Fault::Trickle => waiting.min(1),
            Fault::Cut(after) | Fault::Reset(after) | Fault::Stall(after) => {
                waiting.min(after.saturating_sub(self.delivered))
            }
        }
    }

    /// What popgate finds when there is nothing to be read.
    fn ending(&self) -> Option<Ending> {
        match self.fault {
            Fault::Cut(after) if self.delivered >= after => Some(Ending::Eof),
            Fault::Reset(after) if self.delivered >= after => Some(Ending::Reset),
            Fault::Stall(after) if self.delivered >= after => None,
            _ => self.ending,
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for PopgateEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        let octets = shared.readable().min(buffer.remaining());
        if octets > 0 {
            let start = shared.delivered;
            buffer.put_slice(&shared.sent[start..start + octets]);
            shared.delivered += octets;
            return Poll::Ready(Ok(()));
        }
        match shared.ending() {
            Some(Ending::Eof) => Poll::Ready(Ok(())),
            Some(Ending::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {
                shared.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for PopgateEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.0);
        if shared.ending() == Some(Ending::Reset) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let octets = &octets[..octets.len().min(shared.room)];
        if octets.is_empty() {
            shared.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        shared.room -= octets.len();
        shared.written.extend_from_slice(octets);
        shared.activity.notify_one();
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        close(&self.0);
        Poll::Ready(Ok(()))
    }
}

impl Drop for PopgateEnd {
    fn drop(&mut self) {
        close(&self.0);
    }
}

fn close(shared: &Mutex<Shared>) {
    let mut shared = lock(shared);
    shared.closed_by_popgate = true;
    shared.activity.notify_one();
}
