//! [`LineStream`]: bounded lines in, buffered octets out. The one I/O primitive of all conversations.
//!
//! Output is flushed only when a wait for input begins, so that pipelined commands get their replies
//! in one packet without any code of their own.

mod pieces;

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroize;

use pieces::Pieces;

/// Octets asked for by one read while a stream rests: a command, since a session that waits keeps them.
const READ_OCTETS_RESTING: usize = 128;

/// Octets asked for by the first read: a greeting, or the commands of a client that does not wait.
const READ_OCTETS_FIRST: usize = 4 * 1024;

/// Octets asked for by one read while a lot comes in.
const READ_OCTETS_MAX: usize = 128 * 1024;

/// By so much the next read is larger than one that was filled.
const READ_GROWTH: usize = 8;

/// Octets of output after which a writer should make room with [`LineStream::relieve`].
pub const OUTPUT_OCTETS_MAX: usize = 32 * 1024;

/// Octets of room that a buffer may keep while nothing is in it: what a large message passes through, and not
/// what one long line or reply took.
const ROOM_OCTETS_MAX: usize = 2 * READ_OCTETS_MAX;

/// What a conversation runs over: a socket, TLS on a socket, or a pipe in a test.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Hears what goes over a stream, see [`LineStream::tap`].
pub trait Tap: Send {
    /// A line was read.
    fn heard(&mut self, line: &[u8]);
    /// Octets were read that are no lines.
    fn heard_octets(&mut self, octets: usize);
    /// This is sent, not always up to a line end.
    fn said(&mut self, octets: &[u8]);
    /// Something secret is sent.
    fn said_secret(&mut self);
    /// So many octets of a body are sent.
    fn said_octets(&mut self, octets: usize);
}

/// A tap, and what it may not be shown of the output that waits.
struct Tapped {
    tap: Box<dyn Tap>,
    withheld: Vec<(Range<usize>, Withheld)>,
    /// Where a body begins that has not ended.
    body_starts: Option<usize>,
    /// How much of the output has been told.
    told: usize,
}

#[derive(Clone, Copy)]
enum Withheld {
    Secret,
    Body,
}

impl Tapped {
    fn end_body(&mut self, output_octets: usize) {
        if let Some(start) = self.body_starts.take() {
            self.withheld.push((start..output_octets, Withheld::Body));
        }
    }

    fn tell(&mut self, output: &[u8]) {
        let was_in_body = self.body_starts.is_some();
        self.end_body(output.len());
        for (range, why) in std::mem::take(&mut self.withheld) {
            let start = range.start.max(self.told);
            if start > self.told {
                self.tap.said(&output[self.told..start]);
            }
            match why {
                Withheld::Secret => self.tap.said_secret(),
                Withheld::Body if start < range.end => self.tap.said_octets(range.end - start),
                Withheld::Body => {}
            }
            self.told = range.end.max(self.told);
        }
        if self.told < output.len() {
            self.tap.said(&output[self.told..]);
        }
        self.told = output.len();
        self.body_starts = was_in_body.then_some(output.len());
    }

    /// The output has been sent, or given up.
    fn begin_anew(&mut self) {
        self.told = 0;
        self.withheld.clear();
        if self.body_starts.is_some() {
            self.body_starts = Some(0);
        }
    }
}

/// A stream of lines with literals between them.
pub struct LineStream {
    stream: Box<dyn ByteStream>,
    input: Vec<u8>,
    /// How much of `input` has been handed out.
    consumed: usize,
    /// How much the next read asks for.
    read_octets: usize,
    output: Vec<u8>,
    /// Whether `output` is to be wiped once it is sent.
    holds_secret: bool,
    /// Whether the transport may hold back some of what it has taken, as TLS does.
    unflushed: bool,
    /// How much of `output` has been taken by the transport.
    sent: usize,
    stall_limit: Duration,
    deadline: Option<Instant>,
    has_stalled: bool,
    octets_read: u64,
    octets_written: u64,
    tapped: Option<Box<Tapped>>,
}

/// Why there is no further line.
#[derive(Debug)]
pub enum LineError {
    /// The other side closed, possibly within a line.
    Closed,
    /// The line exceeds its limit; the stream cannot be understood any more.
    TooLong,
    /// No octet moved for the stall limit.
    Stalled,
    /// The transport failed.
    Transport(io::Error),
}

impl From<io::Error> for LineError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Stalled,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Transport(error),
        }
    }
}

impl LineStream {
    /// A stream whose every read and write must make progress within `stall_limit`.
    pub fn new(stream: Box<dyn ByteStream>, stall_limit: Duration) -> Self {
        Self {
            stream,
            input: Vec::new(),
            consumed: 0,
            read_octets: READ_OCTETS_FIRST,
            output: Vec::new(),
            holds_secret: false,
            unflushed: false,
            sent: 0,
            stall_limit,
            deadline: None,
            has_stalled: false,
            octets_read: 0,
            octets_written: 0,
            tapped: None,
        }
    }

    /// What stands in a stream's place while it is upgraded: nothing comes out of it.
    pub fn closed() -> Self {
        Self::new(Box::new(tokio::io::empty()), Duration::ZERO)
    }

    /// From now on, reads and writes must make progress within this.
    pub fn limit_stalls(&mut self, stall_limit: Duration) {
        self.stall_limit = stall_limit;
    }

    /// Until when input may come at all, however steadily it trickles; `None` for as long as it moves.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// The transport, for an upgrade to TLS. What was buffered is discarded: it came in clear text
    /// (RFC 2595 §2.4, RFC 3207 §6).
    pub fn into_transport(mut self) -> Box<dyn ByteStream> {
        std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()))
    }

    /// Lets somebody hear what is said on both sides; bodies and secrets only as such.
    pub fn tap(&mut self, tap: Box<dyn Tap>) {
        self.tapped = Some(Box::new(Tapped {
            tap,
            withheld: Vec::new(),
            body_starts: None,
            told: 0,
        }));
    }

    /// Octets that came in and have not been handed out.
    pub fn has_input(&self) -> bool {
        self.consumed < self.input.len()
    }

    /// Whether input was waited for in vain, on a stream that did not close.
    pub fn has_stalled(&self) -> bool {
        self.has_stalled
    }

    /// Octets read from the transport so far.
    pub fn octets_read(&self) -> u64 {
        self.octets_read
    }

    /// Octets written to the transport so far.
    pub fn octets_written(&self) -> u64 {
        self.octets_written
    }

    /// The next line without its line end, CRLF or LF. Cancel safe: what came in stays.
    ///
    /// # Errors
    /// [`LineError::TooLong`] as soon as more than `octets_max` came without a line end.
    pub async fn line(&mut self, octets_max: usize) -> Result<&[u8], LineError> {
        // Lines that are here already are no waits. Without one now and then a flood of them keeps this thread
        // from all others, for as long as 128 reads last.
        consume_budget().await;
        let mut searched = 0;
        let end = loop {
            let unread = &self.input[self.consumed..];
            if let Some(newline) = memchr::memchr(b'\n', &unread[searched..]) {
                break self.consumed + searched + newline;
            }
            searched = unread.len();
            // One more, for the CR.
            if searched > octets_max + 1 {
                return Err(LineError::TooLong);
            }
            self.fill().await?;
        };
        let line = &self.input[self.consumed..end];
        self.consumed = end + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(tapped) = &mut self.tapped {
            tapped.tap.heard(line);
        }
        match line.len() > octets_max {
            true => Err(LineError::TooLong),
            false => Ok(line),
        }
    }

    /// Some octets, at least one and at most `octets_max`; for literals.
    ///
    /// # Errors
    /// When none come.
    pub async fn chunk(&mut self, octets_max: usize) -> Result<&[u8], LineError> {
        if !self.has_input() {
            self.fill().await?;
        }
        let start = self.consumed;
        self.consumed = self.input.len().min(start.saturating_add(octets_max));
        if let Some(tapped) = &mut self.tapped {
            tapped.tap.heard_octets(self.consumed - start);
        }
        Ok(&self.input[start..self.consumed])
    }

    /// What has come in, at least one octet; it stays until [`Self::consume`] is told.
    ///
    /// # Errors
    /// When nothing comes.
    pub async fn peek(&mut self) -> Result<&[u8], LineError> {
        if !self.has_input() {
            self.fill().await?;
        }
        Ok(&self.input[self.consumed..])
    }

    /// So many octets of what was peeked at have been read.
    pub fn consume(&mut self, octets: usize) {
        self.consumed = self.input.len().min(self.consumed + octets);
        if let Some(tapped) = &mut self.tapped {
            tapped.tap.heard_octets(octets);
        }
    }

    /// Whether a whole line is here already.
    pub fn has_line(&self) -> bool {
        memchr::memchr(b'\n', &self.input[self.consumed..]).is_some()
    }

    /// Waits for the other side to say or end anything; what it says stays to be read.
    ///
    /// # Errors
    /// When it closed or failed.
    pub async fn wait_readable(&mut self) -> Result<(), LineError> {
        match self.has_input() {
            true => Ok(()),
            false => self.fill().await,
        }
    }

    /// Whether the other side has said anything or ended, as far as one look tells that waits for nothing and
    /// sends nothing; what it says stays to be read.
    ///
    /// # Errors
    /// When it closed or failed.
    pub async fn has_come(&mut self) -> Result<bool, LineError> {
        if self.has_input() {
            return Ok(true);
        }
        match timeout(Duration::ZERO, self.receive()).await {
            Ok(received) => received.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    async fn fill(&mut self) -> Result<(), LineError> {
        self.flush().await?;
        self.receive().await
    }

    async fn receive(&mut self) -> Result<(), LineError> {
        if self.consumed == self.input.len() {
            self.input.clear();
            self.consumed = 0;
            // A mailbox with one endless line must not cost its length for the rest of the session.
            if self.input.capacity() > ROOM_OCTETS_MAX {
                self.input = Vec::new();
            }
        } else if self.consumed > 0 {
            self.input.drain(..self.consumed);
            self.consumed = 0;
        }
        self.make_room();
        let now = Instant::now();
        let stalled = now + self.stall_limit;
        let until = self
            .deadline
            .map_or(stalled, |deadline| stalled.min(deadline));
        if until <= now {
            self.has_stalled = true;
            return Err(LineError::Stalled);
        }
        let mut within = (&mut self.stream).take(self.read_octets as u64);
        match timeout_at(until, within.read_buf(&mut self.input)).await {
            Err(_) => {
                self.has_stalled = true;
                Err(LineError::Stalled)
            }
            Ok(Ok(0)) => Err(LineError::Closed),
            Ok(Ok(octets)) => {
                self.octets_read += octets as u64;
                if octets == self.read_octets {
                    self.read_octets = (octets * READ_GROWTH).min(READ_OCTETS_MAX);
                }
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// For the next read. What was in a smaller buffer may have been a password, and is wiped.
    fn make_room(&mut self) {
        let wanted = self.input.len() + self.read_octets;
        if self.input.capacity() < wanted {
            let mut larger = Vec::with_capacity(wanted.max(2 * self.input.len()));
            larger.extend_from_slice(&self.input);
            wipe(&mut self.input);
            self.input = larger;
        }
    }

    /// Gives back the memory of buffers with nothing in them; for a conversation that is about to wait
    /// for long.
    pub fn rest(&mut self) {
        if !self.has_input() {
            // A password may have come through here.
            wipe(&mut self.input);
            self.input = Vec::new();
            self.consumed = 0;
            self.read_octets = READ_OCTETS_RESTING;
        }
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// Where output is appended. It goes out with the next wait for input, or [`Self::flush`].
    pub fn output(&mut self) -> &mut Vec<u8> {
        if let Some(tapped) = &mut self.tapped {
            tapped.end_body(self.output.len());
        }
        &mut self.output
    }

    /// The same for what is of a message, and only counted by a tap, until [`Self::output`] is called again.
    pub fn body_output(&mut self) -> &mut Vec<u8> {
        if let Some(tapped) = &mut self.tapped {
            tapped.body_starts.get_or_insert(self.output.len());
        }
        &mut self.output
    }

    /// Octets of output that wait.
    pub fn output_octets(&self) -> usize {
        self.output.len()
    }

    /// Appends output that is wiped as soon as it is sent, wherever it was stored meanwhile.
    pub fn output_secret(&mut self, octets: &[u8]) {
        let start = self.output().len();
        if let Some(tapped) = &mut self.tapped {
            let range = start..start + octets.len();
            tapped.withheld.push((range, Withheld::Secret));
        }
        self.output_beside_secret(octets);
    }

    /// Appends what may lie in one buffer with a secret, so that none is left where there is no room any more.
    pub fn output_beside_secret(&mut self, octets: &[u8]) {
        self.output();
        self.holds_secret = true;
        if self.output.capacity() - self.output.len() < octets.len() {
            let mut larger = Vec::with_capacity(2 * (self.output.len() + octets.len()));
            larger.extend_from_slice(&self.output);
            wipe(&mut self.output);
            self.output = larger;
        }
        self.output.extend_from_slice(octets);
    }

    /// Forgets output that cannot be sent any more, and what the transport holds back of it, so that what came in
    /// can still be read. What was sent of it is not whole.
    pub fn discard_output(&mut self) {
        self.clear_output();
        self.unflushed = false;
    }

    fn clear_output(&mut self) {
        if std::mem::take(&mut self.holds_secret) {
            self.output.as_mut_slice().zeroize();
        }
        self.output.clear();
        if self.output.capacity() > ROOM_OCTETS_MAX {
            self.output = Vec::new();
        }
        self.sent = 0;
        if let Some(tapped) = &mut self.tapped {
            tapped.begin_anew();
        }
    }

    /// Makes room: flushes when more than [`OUTPUT_OCTETS_MAX`] octets wait to go out.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn relieve(&mut self) -> Result<(), LineError> {
        match self.output.len() >= OUTPUT_OCTETS_MAX {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Sends all output. Cancel safe: what was sent is not sent again.
    ///
    /// # Errors
    /// When the transport takes nothing for the stall limit, or fails.
    pub async fn flush(&mut self) -> Result<(), LineError> {
        if self.output.is_empty() && !self.unflushed {
            return Ok(());
        }
        if let Some(tapped) = &mut self.tapped {
            tapped.tell(&self.output);
        }
        while self.sent < self.output.len() {
            self.unflushed = true;
            let write = self.stream.write(&self.output[self.sent..]);
            match timeout(self.stall_limit, write).await {
                Err(_) => return Err(LineError::Stalled),
                Ok(Ok(0)) => return Err(LineError::Closed),
                Ok(Ok(octets)) => {
                    self.sent += octets;
                    self.octets_written += octets as u64;
                }
                Ok(Err(error)) => return Err(error.into()),
            }
        }
        self.clear_output();
        self.flush_transport().await
    }

    /// Sends all output and then these pieces, without a copy of them. Not cancel safe: what is cancelled
    /// here must not go on.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn send(&mut self, pieces: &[&[u8]]) -> Result<(), LineError> {
        self.flush().await?;
        if let Some(tapped) = &mut self.tapped {
            let octets = pieces.iter().map(|piece| piece.len()).sum();
            tapped.tap.said_octets(octets);
        }
        let mut left = Pieces::new(pieces);
        while !left.is_empty() {
            self.unflushed = true;
            let write = poll_fn(|context| left.poll_write(&mut self.stream, context));
            match timeout(self.stall_limit, write).await {
                Err(_) => return Err(LineError::Stalled),
                Ok(Ok(0)) => return Err(LineError::Closed),
                Ok(Ok(octets)) => {
                    self.octets_written += octets as u64;
                    left.skip(octets);
                }
                Ok(Err(error)) => return Err(error.into()),
            }
        }
        self.flush_transport().await
    }

    /// What the transport has taken goes out. Cancelled, it is to be done again.
    async fn flush_transport(&mut self) -> Result<(), LineError> {
        match timeout(self.stall_limit, self.stream.flush()).await {
            Err(_) => Err(LineError::Stalled),
            Ok(result) => {
                result?;
                self.unflushed = false;
                Ok(())
            }
        }
    }

    /// Sends all output and ends the connection in an orderly way; failures no longer matter.
    pub async fn close(&mut self) {
        if self.flush().await.is_ok() {
            let _ = timeout(self.stall_limit, self.stream.shutdown()).await;
        }
    }

    /// The same within so much time in all, whether or not the other side takes an octet now and then.
    pub async fn close_within(&mut self, limit: Duration) {
        let _ = timeout(limit, self.close()).await;
    }
}

/// The whole of a buffer, and as one block: what counts as in it would be wiped octet by octet.
fn wipe(octets: &mut Vec<u8>) {
    octets.clear();
    octets.spare_capacity_mut().zeroize();
}

/// A password may be in either buffer.
impl Drop for LineStream {
    fn drop(&mut self) {
        wipe(&mut self.input);
        wipe(&mut self.output);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;
    use tokio::io::duplex;

    const LIMIT: Duration = Duration::from_secs(30);

    async fn lines(
        input: &'static [u8],
        octets_max: usize,
        trickle: usize,
    ) -> (Vec<Vec<u8>>, LineError) {
        let (ours, mut theirs) = duplex(trickle);
        tokio::spawn(async move {
            let _ = theirs.write_all(input).await;
        });
        let mut stream = LineStream::new(Box::new(ours), LIMIT);
        let mut lines = Vec::new();
        loop {
            match stream.line(octets_max).await {
                Ok(line) => lines.push(line.to_vec()),
                Err(error) => return (lines, error),
            }
        }
    }

    #[tokio::test]
    async fn lines_come_whole_however_they_trickle() {
        for trickle in [1, 2, 3, 1000] {
            let (found, end) = lines(b"a\r\nbc\n\r\n\rd\r\nrest", 100, trickle).await;
            assert_eq!(found, [&b"a"[..], b"bc", b"", b"\rd"]);
            assert!(matches!(end, LineError::Closed));
        }
    }

    #[tokio::test]
    async fn a_line_ends_at_its_limit() {
        for trickle in [1, 1000] {
            let (found, end) = lines(b"abc\r\nabcd\r\n", 3, trickle).await;
            assert_eq!(found, [b"abc"]);
            assert!(matches!(end, LineError::TooLong));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_end() {
        let (ours, _theirs) = duplex(4);
        let mut stream = LineStream::new(Box::new(ours), LIMIT);
        assert!(matches!(stream.line(10).await, Err(LineError::Stalled)));
        stream.output().extend_from_slice(b"more than fits");
        assert!(matches!(stream.flush().await, Err(LineError::Stalled)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_is_not_sent_again() {
        let (ours, mut theirs) = duplex(8);
        let mut stream = LineStream::new(Box::new(ours), LIMIT);
        stream.output().extend_from_slice(b"0123456789abcdef");
        assert!(
            timeout(LIMIT / 2, stream.flush()).await.is_err(),
            "cancelled"
        );
        assert!(matches!(stream.flush().await, Err(LineError::Stalled)));
        stream.output().extend_from_slice(b"ghi");
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.map(|_| all)
        });
        stream.close().await;
        drop(stream);
        let all = reader.await.expect("no panic").expect("read");
        assert_eq!(all, b"0123456789abcdefghi");
    }

    /// Takes everything, and sends it only when it is flushed, which takes a while: as TLS does when the
    /// socket is full.
    struct HoldsBack {
        held: usize,
        delay: Pin<Box<tokio::time::Sleep>>,
        flushed: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    }

    impl AsyncRead for HoldsBack {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for HoldsBack {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            octets: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.held += octets.len();
            Poll::Ready(Ok(octets.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            std::task::ready!(self.delay.as_mut().poll(context));
            let held = std::mem::take(&mut self.held);
            self.flushed
                .fetch_add(held, std::sync::atomic::Ordering::Relaxed);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_transport_holds_back_goes_out_although_a_wait_was_cancelled() {
        let flushed = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let transport = HoldsBack {
            held: 0,
            delay: Box::pin(tokio::time::sleep(LIMIT / 2)),
            flushed: flushed.clone(),
        };
        let mut stream = LineStream::new(Box::new(transport), LIMIT);
        stream.output().extend_from_slice(b"+OK\r\n.\r\n");
        let impatient = timeout(LIMIT / 4, stream.wait_readable()).await;
        assert!(impatient.is_err(), "cancelled");
        let waiting = timeout(LIMIT, stream.wait_readable()).await;
        assert!(waiting.is_err() || waiting.is_ok_and(|read| read.is_err()));
        assert_eq!(flushed.load(std::sync::atomic::Ordering::Relaxed), 8);
    }

    /// Takes nothing more, as the half of TLS that its other side has closed.
    struct TakesNothing;

    impl AsyncWrite for TakesNothing {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn last_words_are_heard_although_nothing_can_be_said() {
        let transport = tokio::io::join(&b"552 5.3.4 too large\r\n"[..], TakesNothing);
        let mut stream = LineStream::new(Box::new(transport), LIMIT);
        stream.output().extend_from_slice(b"some of a message");
        assert!(stream.flush().await.is_err());
        assert!(stream.line(100).await.is_err(), "it must go out first");
        stream.discard_output();
        let line = stream.line(100).await.expect("what came in");
        assert_eq!(line, b"552 5.3.4 too large");
    }

    /// SECURITY.md U4, O6
    #[tokio::test]
    async fn a_flood_of_lines_leaves_others_their_turn() {
        let flood = tokio::io::join(tokio::io::repeat(b'\n'), tokio::io::sink());
        let mut stream = LineStream::new(Box::new(flood), Duration::from_secs(1));
        let other = tokio::spawn(async {});
        let mut lines = 0;
        while !other.is_finished() {
            stream.line(0).await.expect("an empty line");
            lines += 1;
        }
        assert!(lines < 1000, "{lines} lines before anybody else");
    }

    #[tokio::test]
    async fn room_for_what_was_long_is_given_back() {
        let (ours, mut theirs) = duplex(100);
        let mut stream = LineStream::new(Box::new(ours), LIMIT);
        stream.output().resize(2 * ROOM_OCTETS_MAX, b'x');
        let reader = tokio::spawn(async move {
            let mut taken = vec![0; 2 * ROOM_OCTETS_MAX];
            theirs.read_exact(&mut taken).await.map(drop)
        });
        stream.flush().await.expect("taken");
        reader.await.expect("no panic").expect("read");
        assert!(stream.output().capacity() <= ROOM_OCTETS_MAX);
    }

    #[tokio::test]
    async fn pieces_go_out_in_order_behind_what_waits() {
        for room in [1, 7, 1000] {
            let (ours, mut theirs) = duplex(room);
            let reader = tokio::spawn(async move {
                let mut all = Vec::new();
                theirs.read_to_end(&mut all).await.map(|_| all)
            });
            let mut stream = LineStream::new(Box::new(ours), LIMIT);
            stream.output().extend_from_slice(b"+OK\r\n");
            let pieces = [&b""[..], b"abc", b"", b".", b"d", b""].repeat(pieces::PIECES_AT_ONCE);
            stream.send(&pieces).await.expect("taken");
            stream.send(&[]).await.expect("nothing");
            assert_eq!(
                stream.octets_written(),
                5 + 5 * pieces::PIECES_AT_ONCE as u64
            );
            drop(stream);
            let all = reader.await.expect("no panic").expect("read");
            let sent = b"abc.d".repeat(pieces::PIECES_AT_ONCE);
            assert!(all.strip_prefix(b"+OK\r\n") == Some(&sent[..]), "{room}");
        }
    }

    #[tokio::test]
    async fn output_goes_out_when_a_wait_begins() {
        let (ours, mut theirs) = duplex(100);
        let mut stream = LineStream::new(Box::new(ours), LIMIT);
        theirs.write_all(b"one\r\ntwo\r\n").await.expect("written");
        for _ in 0..2 {
            stream.line(10).await.expect("a line");
            stream.output().extend_from_slice(b"+OK\r\n");
        }
        drop(tokio::spawn(async move { stream.line(10).await.map(drop) }));
        let mut replies = [0; 10];
        theirs.read_exact(&mut replies).await.expect("both at once");
        assert_eq!(&replies, b"+OK\r\n+OK\r\n");
    }
}
