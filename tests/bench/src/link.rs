//! A link of a given length and width: a relay on loopback that delays and limits.
//!
//! # The arithmetic
//!
//! With a round trip R, what is handed to the link at t is at the other end at t + R/2, plus the time
//! that its octets and those before them take to pass the line. A connection is opened as TCP does it:
//!
//! | at | happens |
//! |---|---|
//! | 0 | the client's SYN leaves. On loopback, connect() returns now already, so what the client says before R is held until then |
//! | R | the SYN-ACK is at the client, who may speak from now on |
//! | 3/2 R | the ACK is at the upstream, together with what the client said at once; the upstream accepts, and greets |
//! | 2 R | the greeting is at the client |
//! | 3 R | the answer to what the client said to the greeting is at the client |
//!
//! So a first flight that waits for the greeting is answered after three round trips, on a connection
//! that is there already after one.
//!
//! TCP's windows are taken to be open: there is no slow start and nothing is lost, so that what is
//! measured is who waits for whom, not whose kernel guesses better.
//!
//! Each direction of each connection is two threads, because a thread wakes within a tenth of a
//! millisecond of when it wants to, and an event loop's timer within one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Octets of one direction of one connection on their way, at most; more than any link here holds
/// (1 Gbit/s over 50 ms is 6.25 MB), so that it only stops who writes to a reader that does not read.
const WINDOW_OCTETS: usize = 16 << 20;
/// Octets that travel as one, at most.
const CHUNK_OCTETS_MAX: usize = 64 << 10;
/// A chunk takes no longer to pass the line, so that it arrives nearly as evenly as octets would.
const CHUNK_TIME_MAX: Duration = Duration::from_micros(500);
/// How far the line may be booked ahead of now, so that waking late leaves no gap on it.
const BOOKED_TIME_MAX: Duration = Duration::from_millis(5);

/// How long and how wide a link is.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// From one end to the other and back.
    pub(crate) round_trip: Duration,
    /// In each direction; none is as fast as the machine.
    pub(crate) octets_per_second: Option<f64>,
}

/// One direction of a link, which all connections share.
struct Line {
    shape: Shape,
    /// When the last octet that was handed to it has passed its near end.
    free_at: Instant,
}

impl Line {
    /// Takes octets that are there at this time; when they are at the far end.
    fn carry(&mut self, at: Instant, octets: usize) -> Instant {
        let passing = match self.shape.octets_per_second {
            Some(rate) => Duration::from_secs_f64(octets as f64 / rate),
            None => Duration::ZERO,
        };
        self.free_at = self.free_at.max(at) + passing;
        self.free_at + self.shape.round_trip / 2
    }
}

/// A direction, and what has entered it.
struct Direction {
    line: Mutex<Line>,
    octets: AtomicU64,
}

impl Direction {
    fn new(shape: Shape) -> Self {
        let free_at = Instant::now();
        Self {
            line: Mutex::new(Line { shape, free_at }),
            octets: AtomicU64::new(0),
        }
    }
}

/// A link to the upstream at a port.
pub(crate) struct Link {
    shape: Shape,
    upstream_port: u16,
    to_upstream: Direction,
    to_client: Direction,
    connections: AtomicU64,
}

/// What has entered a link since it was made.
#[derive(serde::Serialize)]
pub(crate) struct Counts {
    connections: u64,
    to_upstream: u64,
    to_client: u64,
}

impl Link {
    pub(crate) fn new(shape: Shape, upstream_port: u16) -> Self {
        Self {
            shape,
            upstream_port,
            to_upstream: Direction::new(shape),
            to_client: Direction::new(shape),
            connections: AtomicU64::new(0),
        }
    }

    /// Carries every connection to the listener, for as long as the process lives.
    pub(crate) fn serve(self: &Arc<Self>, listener: &TcpListener) -> io::Result<()> {
        loop {
            let (client, _) = listener.accept()?;
            let opened = Instant::now();
            self.connections.fetch_add(1, Ordering::Relaxed);
            let link = Arc::clone(self);
            // Whoever is cut off by an error sees that; there is nobody else to tell.
            thread::spawn(move || link.carry_connection(client, opened).ok());
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            connections: self.connections.load(Ordering::Relaxed),
            to_upstream: self.to_upstream.octets.load(Ordering::Relaxed),
            to_client: self.to_client.octets.load(Ordering::Relaxed),
        }
    }

    fn carry_connection(self: Arc<Self>, client: TcpStream, opened: Instant) -> io::Result<()> {
        let client_may_speak = opened + self.shape.round_trip;
        sleep_until(client_may_speak + self.shape.round_trip / 2);
        let upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream_port))?;
        client.set_nodelay(true)?;
        upstream.set_nodelay(true)?;
        let (from_client, from_upstream) = (client.try_clone()?, upstream.try_clone()?);
        let link = Arc::clone(&self);
        thread::spawn(move || {
            carry(
                &link.to_upstream,
                link.shape,
                from_client,
                upstream,
                client_may_speak,
            );
        });
        carry(&self.to_client, self.shape, from_upstream, client, opened);
        Ok(())
    }
}

/// Octets on their way, none at the stream's end, and when they arrive.
struct Chunk {
    octets: Box<[u8]>,
    arrives: Instant,
}

/// Carries one direction of a connection to its end; nothing leaves before `earliest`.
fn carry(
    direction: &Direction,
    shape: Shape,
    mut from: TcpStream,
    to: TcpStream,
    earliest: Instant,
) {
    let Ok(from_again) = from.try_clone() else {
        return;
    };
    let window = Window::default();
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        scope.spawn(|| deliver(receiver, &window, to, from_again));
        send(direction, shape, &mut from, &sender, &window, earliest);
        drop(sender);
    });
}

/// Reads as fast as the line takes it.
fn send(
    direction: &Direction,
    shape: Shape,
    from: &mut TcpStream,
    line_end: &Sender<Chunk>,
    window: &Window,
    earliest: Instant,
) {
    let mut buffer = vec![0; chunk_octets(shape)];
    loop {
        // An error is the end as well: whoever waits at the other side learns no more from a reset.
        let count = from.read(&mut buffer).unwrap_or(0);
        direction.octets.fetch_add(count as u64, Ordering::Relaxed);
        window.take(count);
        let (arrives, free_at) = {
            let mut line = direction
                .line
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let arrives = line.carry(Instant::now().max(earliest), count);
            (arrives, line.free_at)
        };
        let octets = Box::from(&buffer[..count]);
        if line_end.send(Chunk { octets, arrives }).is_err() || count == 0 {
            return;
        }
        sleep_until(free_at - BOOKED_TIME_MAX);
    }
}

/// Writes each chunk when it has arrived, and passes the stream's end on.
fn deliver(line_end: Receiver<Chunk>, window: &Window, mut to: TcpStream, from: TcpStream) {
    let mut is_read = true;
    for chunk in line_end {
        sleep_until(chunk.arrives);
        if is_read && to.write_all(&chunk.octets).is_err() {
            // What is still on its way has nowhere to go, and no more is to come.
            is_read = false;
            from.shutdown(Shutdown::Both).ok();
        }
        window.give_back(chunk.octets.len());
    }
    to.shutdown(Shutdown::Write).ok();
}

fn chunk_octets(shape: Shape) -> usize {
    match shape.octets_per_second {
        Some(rate) => {
            let octets = rate * CHUNK_TIME_MAX.as_secs_f64();
            (octets as usize).clamp(1, CHUNK_OCTETS_MAX)
        }
        None => CHUNK_OCTETS_MAX,
    }
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// Counts the octets on their way.
#[derive(Default)]
struct Window {
    taken: Mutex<usize>,
    given_back: Condvar,
}

impl Window {
    /// Waits until there is room.
    fn take(&self, octets: usize) {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self
            .given_back
            .wait_while(taken, |taken| *taken + octets > WINDOW_OCTETS)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += octets;
    }

    fn give_back(&self, octets: usize) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) -= octets;
        self.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    fn line(octets_per_second: Option<f64>) -> (Line, Instant) {
        let shape = Shape {
            round_trip: ROUND_TRIP,
            octets_per_second,
        };
        let free_at = Instant::now();
        (Line { shape, free_at }, free_at)
    }

    #[test]
    fn an_octet_takes_half_a_round_trip() {
        let (mut line, start) = line(None);
        assert_eq!(line.carry(start, 1), start + ROUND_TRIP / 2);
        assert_eq!(line.carry(start, 1 << 30), start + ROUND_TRIP / 2);
    }

    #[test]
    fn octets_queue_for_the_line() {
        // 12.5 MB/s is 100 Mbit/s: 12,500 octets take a millisecond.
        let (mut line, start) = line(Some(12_500_000.0));
        let ms = Duration::from_millis;
        assert_eq!(line.carry(start, 12_500), start + ms(25 + 1));
        assert_eq!(line.carry(start, 25_000), start + ms(25 + 3));
        // The line has been free for a while: nothing to queue for.
        assert_eq!(line.carry(start + ms(10), 12_500), start + ms(10 + 25 + 1));
    }

    #[test]
    fn chunks_pass_in_half_a_millisecond() {
        let shape = |octets_per_second| Shape {
            round_trip: ROUND_TRIP,
            octets_per_second,
        };
        assert_eq!(chunk_octets(shape(Some(12_500_000.0))), 6_250);
        assert_eq!(chunk_octets(shape(Some(125_000_000.0))), 62_500);
        assert_eq!(chunk_octets(shape(Some(1e12))), CHUNK_OCTETS_MAX);
        assert_eq!(chunk_octets(shape(None)), CHUNK_OCTETS_MAX);
    }

    /// Who waits for the greeting and then for one answer has waited for three round trips at least;
    /// who speaks again on the same connection, for one more. How long at most is the machine's affair.
    #[test]
    fn a_connection_takes_its_round_trips() -> io::Result<()> {
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let upstream_port = upstream.local_addr()?.port();
        thread::spawn(move || -> io::Result<()> {
            let (mut client, _) = upstream.accept()?;
            client.write_all(b"greeting\r\n")?;
            io::copy(&mut client.try_clone()?, &mut client)?;
            Ok(())
        });
        let near_end = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = near_end.local_addr()?.port();
        let shape = Shape {
            round_trip: ROUND_TRIP,
            octets_per_second: None,
        };
        let link = Arc::new(Link::new(shape, upstream_port));
        let serving = Arc::clone(&link);
        thread::spawn(move || serving.serve(&near_end));

        let start = Instant::now();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        let mut answers = BufReader::new(client.try_clone()?).lines();
        assert_eq!(answers.next().transpose()?.as_deref(), Some("greeting"));
        assert!(start.elapsed() >= 2 * ROUND_TRIP);
        for round_trips in 3..=4 {
            client.write_all(b"again\r\n")?;
            assert_eq!(answers.next().transpose()?.as_deref(), Some("again"));
            assert!(start.elapsed() >= round_trips * ROUND_TRIP);
        }
        client.shutdown(Shutdown::Write)?;
        assert!(answers.next().is_none(), "the end is passed on, and back");
        let counts = link.counts();
        assert_eq!((counts.connections, counts.to_upstream), (1, 14));
        assert_eq!(counts.to_client, 24);
        Ok(())
    }

    /// What is said before the connection could be there is at the upstream with it, not sooner.
    #[test]
    fn octets_that_are_too_early_wait() -> io::Result<()> {
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let upstream_port = upstream.local_addr()?.port();
        let near_end = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = near_end.local_addr()?.port();
        let shape = Shape {
            round_trip: ROUND_TRIP,
            octets_per_second: None,
        };
        let link = Arc::new(Link::new(shape, upstream_port));
        thread::spawn(move || link.serve(&near_end));

        let start = Instant::now();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        client.write_all(b"!")?;
        let (mut accepted, _) = upstream.accept()?;
        assert!(start.elapsed() >= ROUND_TRIP * 3 / 2);
        accepted.read_exact(&mut [0])?;
        assert!(start.elapsed() >= ROUND_TRIP * 3 / 2);
        Ok(())
    }

    /// All octets arrive, in order, also when they are many times the window and the reader is late.
    #[test]
    fn nothing_is_lost() -> io::Result<()> {
        let octets = 3 * WINDOW_OCTETS;
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let upstream_port = upstream.local_addr()?.port();
        thread::spawn(move || -> io::Result<()> {
            let (mut client, _) = upstream.accept()?;
            let written: Vec<u8> = (0..octets).map(|at| (at % 251) as u8).collect();
            client.write_all(&written)
        });
        let near_end = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = near_end.local_addr()?.port();
        let shape = Shape {
            round_trip: Duration::from_millis(2),
            octets_per_second: Some(1e9),
        };
        let link = Arc::new(Link::new(shape, upstream_port));
        thread::spawn(move || link.serve(&near_end));

        let mut read = Vec::new();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))?.read_to_end(&mut read)?;
        assert_eq!(read.len(), octets);
        assert!(
            read.iter()
                .enumerate()
                .all(|(at, octet)| *octet == (at % 251) as u8)
        );
        Ok(())
    }
}
