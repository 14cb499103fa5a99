//! Finds the octets of one command, and writes what was answered (RFC 3501 §2.2.1, RFC 7888).
//!
//! All that it understands of a command is where its literals are.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

/// All lines of a command together, and all literals of any but APPEND.
pub(super) const LINE_OCTETS_MAX: usize = 64 * 1024;
/// RFC 3501 §5.4: at least 30 minutes.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// A client that reads nothing for so long is not coming back.
const WRITE: Duration = Duration::from_secs(5 * 60);

/// Why there is no next command.
#[derive(Debug)]
pub(super) enum Hangup {
    /// The client is gone, or the socket broke.
    Closed,
    /// We end it, saying this as BYE.
    Bye(&'static str),
}

impl From<io::Error> for Hangup {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// What the client sent.
pub(super) enum Incoming {
    /// A command with its literals in place, without its last line end.
    Command(Vec<u8>),
    /// The beginning of a command whose literal was too large to ask for.
    LiteralTooLarge(Vec<u8>),
}

/// A client.
pub(super) struct Connection<S> {
    stream: BufReader<S>,
    /// What the next [`Self::flush`] sends.
    pub(super) output: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
            output: Vec::new(),
        }
    }

    /// Waits for a command. `literal_octets_max` is asked with what came before the literal.
    pub(super) async fn read_command(
        &mut self,
        literal_octets_max: impl Fn(&[u8]) -> usize,
    ) -> Result<Incoming, Hangup> {
        let mut command = Vec::new();
        let mut lines_octets_left = LINE_OCTETS_MAX;
        loop {
            lines_octets_left -= self.read_line(&mut command, lines_octets_left).await?;
            let Some(literal) = Literal::announced_by(&command) else {
                return Ok(Incoming::Command(command));
            };
            if literal.octets > literal_octets_max(&command).saturating_sub(command.len()) as u64 {
                return match literal.synchronizing {
                    true => Ok(Incoming::LiteralTooLarge(command)),
                    // Its octets are on their way already (RFC 7888 §4).
                    false => Err(Hangup::Bye("[TOOBIG] Literal too large")),
                };
            }
            if literal.synchronizing {
                self.output.extend_from_slice(b"+ Go ahead\r\n");
                self.flush().await?;
            }
            command.extend_from_slice(b"\r\n");
            self.read_literal(&mut command, literal.octets).await?;
        }
    }

    /// Waits for one line that is no command; without its line end.
    pub(super) async fn read_reply(&mut self) -> Result<Vec<u8>, Hangup> {
        let mut line = Vec::new();
        self.read_line(&mut line, LINE_OCTETS_MAX).await?;
        Ok(line)
    }

    /// Adds an untagged response to [`Self::output`].
    pub(super) fn untagged(&mut self, text: &str) {
        self.output.extend_from_slice(b"* ");
        self.output.extend_from_slice(text.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    /// Sends what is in [`Self::output`].
    pub(super) async fn flush(&mut self) -> Result<(), Hangup> {
        let sending = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        timeout(WRITE, sending)
            .await
            .map_err(|_| Hangup::Closed)??;
        self.output.clear();
        Ok(())
    }

    /// Says farewell. What was not sent yet was the answer to something unfinished.
    pub(super) async fn bye(&mut self, text: &str) -> Result<(), Hangup> {
        self.output.clear();
        self.untagged(&format!("BYE {text}"));
        self.flush().await?;
        self.stream.shutdown().await?;
        Ok(())
    }

    /// Appends a line to `command` without its line end; answers how many octets it had with it.
    async fn read_line(
        &mut self,
        command: &mut Vec<u8>,
        octets_max: usize,
    ) -> Result<usize, Hangup> {
        let mut limited = (&mut self.stream).take(octets_max as u64);
        let reading = limited.read_until(b'\n', command);
        let octets = timeout(IDLE, reading)
            .await
            .map_err(|_| Hangup::Bye("Idle for too long"))??;
        if octets == octets_max && !command.ends_with(b"\n") {
            return Err(Hangup::Bye("[TOOBIG] Line too long"));
        }
        if octets == 0 || command.pop() != Some(b'\n') {
            return Err(Hangup::Closed);
        }
        // A bare LF is no line end in IMAP, but people type commands by hand.
        if octets > 1 && command.ends_with(b"\r") {
            command.pop();
        }
        Ok(octets)
    }

    async fn read_literal(&mut self, command: &mut Vec<u8>, octets: u64) -> Result<(), Hangup> {
        let mut limited = (&mut self.stream).take(octets);
        let reading = limited.read_to_end(command);
        let read = timeout(IDLE, reading)
            .await
            .map_err(|_| Hangup::Bye("Idle for too long"))??;
        match read as u64 == octets {
            true => Ok(()),
            false => Err(Hangup::Closed),
        }
    }
}

/// `"{" number ["+"] "}"` at the end of a line.
struct Literal {
    octets: u64,
    synchronizing: bool,
}

impl Literal {
    fn announced_by(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"}")?;
        let (line, synchronizing) = match line.strip_suffix(b"+") {
            Some(line) => (line, false),
            None => (line, true),
        };
        let digits = line.len()
            - line
                .iter()
                .rev()
                .take_while(|it| it.is_ascii_digit())
                .count();
        let (before, digits) = line.split_at(digits);
        if !before.ends_with(b"{") || digits.is_empty() {
            return None;
        }
        // More than u64 can hold is too large as well.
        let octets = std::str::from_utf8(digits)
            .ok()?
            .parse()
            .unwrap_or(u64::MAX);
        Some(Self {
            octets,
            synchronizing,
        })
    }
}
