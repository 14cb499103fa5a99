//! Where log lines go: to a thread of their own, so that no session waits for whoever reads the log, and
//! none fails because nobody does.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// Octets of lines that wait for a reader; what comes then is dropped, and counted.
const OCTETS_MAX: usize = 8 * 1024 * 1024;

/// So long lines are gathered before they are written.
const GATHERING: Duration = Duration::from_millis(5);

/// Octets of lines after which no more are gathered.
const WRITE_OCTETS_MAX: usize = 64 * 1024;

/// So long the end of the process waits for lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Takes lines, and never waits.
#[derive(Clone)]
pub(crate) struct LogWriter {
    lines: Sender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Octets that wait.
    octets: AtomicUsize,
    /// Lines that found no room.
    dropped: AtomicU64,
}

/// Whoever has it waits for the last lines.
pub(crate) struct Flush {
    writer: Option<LogWriter>,
    written: Receiver<()>,
}

impl LogWriter {
    /// Begins to write to `sink`.
    pub(crate) fn to(sink: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let (lines, receiver) = channel();
        let (done, written) = channel();
        let counts = Arc::new(Counts::default());
        let writer = Self {
            lines,
            counts: counts.clone(),
        };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                write(&receiver, sink, &counts);
                let _ = done.send(());
            })?;
        let flush = Flush {
            writer: Some(writer.clone()),
            written,
        };
        Ok((writer, flush))
    }

    /// A whole line, with its end.
    pub(crate) fn put(&self, line: Vec<u8>) {
        let octets = line.len();
        let waiting = self.counts.octets.fetch_add(octets, Ordering::Relaxed);
        if waiting > OCTETS_MAX || self.lines.send(line).is_err() {
            self.counts.octets.fetch_sub(octets, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Until there is an empty line, which is the last one. Lines that come together are written together, since
/// to wake this thread for each of them costs more than to write it.
fn write(lines: &Receiver<Vec<u8>>, mut sink: impl Write, counts: &Counts) {
    while let Ok(first) = lines.recv() {
        let mut is_last = first.is_empty();
        let mut octets = first;
        if !is_last {
            thread::sleep(GATHERING);
        }
        while !is_last
            && octets.len() < WRITE_OCTETS_MAX
            && let Ok(line) = lines.try_recv()
        {
            is_last = line.is_empty();
            octets.extend_from_slice(&line);
        }
        // A log that cannot be written cannot be complained of either.
        let _ = sink.write_all(&octets);
        counts.octets.fetch_sub(octets.len(), Ordering::Relaxed);
        let lost = counts.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(lost, "log lines were dropped, since nobody read them");
        }
        if is_last {
            return;
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // Also behind more than there is room for.
            let _ = writer.lines.send(Vec::new());
        }
        match self.written.recv_timeout(FLUSH_MAX) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// One line on its way.
pub(crate) struct Line<'a> {
    writer: &'a LogWriter,
    octets: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.octets.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let octets = std::mem::take(&mut self.octets);
        if !octets.is_empty() {
            self.writer.put(octets);
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            writer: self,
            octets: Vec::new(),
        }
    }
}
