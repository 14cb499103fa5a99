//! One connection of a measuring client: octets come in large pieces and are looked at where they lie.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use memchr::{memchr, memmem};

/// What goes wrong while something is measured makes the measurement worthless: it is told, and that is all.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const BUFFER_OCTETS: usize = 256 << 10;
/// Whoever is silent for so long will stay it.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// A connection and what was read from it but not yet used.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        Self::accepted(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)
    }

    /// A connection that is there.
    pub(crate) fn accepted(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_OCTETS],
            start: 0,
            end: 0,
        })
    }

    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.stream.write_all(octets.as_ref())?)
    }

    /// The next line, without its CRLF.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut searched = 0;
        loop {
            let held = self.held();
            if let Some(at) = memchr(b'\n', &held[searched..]) {
                let line = &held[..searched + at];
                let line = line.strip_suffix(b"\r").ok_or("a bare LF ends a line")?;
                let text = String::from_utf8(line.to_vec())?;
                self.start += text.len() + 2;
                return Ok(text);
            }
            searched = held.len();
            self.fill()?;
        }
    }

    /// Hands out so many octets, in pieces.
    pub(crate) fn octets(&mut self, mut count: usize, mut take: impl FnMut(&[u8])) -> Result<()> {
        while count > 0 {
            if self.held().is_empty() {
                self.fill()?;
            }
            let piece = count.min(self.held().len());
            take(&self.held()[..piece]);
            self.start += piece;
            count -= piece;
        }
        Ok(())
    }

    /// Hands out the lines of a multi-line response (RFC 1939 §3), in pieces and with the
    /// byte-stuffing undone, up to its terminator.
    pub(crate) fn multi_line(&mut self, mut take: impl FnMut(&[u8])) -> Result<()> {
        let dot_behind_line_end = memmem::Finder::new(b"\r\n.");
        let mut at_line_start = true;
        loop {
            let held = self.held();
            match (at_line_start, held) {
                (_, []) | (true, [b'.'] | [b'.', b'\r']) => {
                    self.fill()?;
                    continue;
                }
                (true, [b'.', b'\r', b'\n', ..]) => {
                    self.start += b".\r\n".len();
                    return Ok(());
                }
                (true, [b'.', b'.', ..]) => {
                    // The second one belongs to the line, and begins no other.
                    take(b".");
                    self.start += b"..".len();
                    at_line_start = false;
                    continue;
                }
                (true, [b'.', ..]) => return Err("a dot that is not stuffed".into()),
                _ => {}
            }
            if let Some(at) = dot_behind_line_end.find(held) {
                let piece = at + b"\r\n".len();
                take(&held[..piece]);
                self.start += piece;
                at_line_start = true;
            } else {
                // The beginning of a line end may be here, and its dot on the way.
                let kept = match held {
                    [.., b'\r', b'\n'] => 2,
                    [.., b'\r'] => 1,
                    _ => 0,
                };
                let piece = held.len() - kept;
                take(&held[..piece]);
                self.start += piece;
                at_line_start = false;
                self.fill()?;
            }
        }
    }

    /// Waits until there is something to use.
    pub(crate) fn wait(&mut self) -> Result<()> {
        while self.held().is_empty() {
            self.fill()?;
        }
        Ok(())
    }

    fn held(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn fill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            return Err("a line that does not end".into());
        }
        match self.stream.read(&mut self.buffer[self.end..])? {
            0 => Err("the connection was closed".into()),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// What a client makes of octets that come in two pieces, cut anywhere.
    fn check(octets: &'static [u8], expected: &std::result::Result<&[u8], &str>) {
        for cut in 0..octets.len() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let (first_was_read, may_write) = std::sync::mpsc::channel();
            let writer = thread::spawn(move || {
                let (mut client, _) = listener.accept().unwrap();
                client.write_all(&octets[..cut]).unwrap();
                may_write.recv().unwrap();
                client.write_all(&octets[cut..]).unwrap();
            });
            let mut wire = Wire::connect(port).unwrap();
            if cut > 0 {
                wire.wait().unwrap();
            }
            first_was_read.send(()).unwrap();
            let mut taken = Vec::new();
            let result = wire.multi_line(|piece| taken.extend_from_slice(piece));
            match (expected, result) {
                (Ok(expected), Ok(())) => {
                    assert_eq!(&taken, expected, "cut at {cut}");
                    assert_eq!(wire.line().unwrap(), "+OK", "cut at {cut}");
                }
                (Err(expected), Err(error)) => assert_eq!(&error.to_string(), expected),
                (_, result) => panic!("{result:?} when cut at {cut}"),
            }
            writer.join().unwrap();
        }
    }

    #[test]
    fn multi_line_responses_end_where_they_end() {
        check(b".\r\n+OK\r\n", &Ok(b""));
        check(b"a\r\n.\r\n+OK\r\n", &Ok(b"a\r\n"));
        check(
            b"..\r\n...\r\n..a\r\nb\r\n\r\n.\r\n+OK\r\n",
            &Ok(b".\r\n..\r\n.a\r\nb\r\n\r\n"),
        );
        check(b"a\n.\r\n\r.\r\n.\r\n+OK\r\n", &Ok(b"a\n.\r\n\r.\r\n"));
        check(b"a\r\n.b\r\n.\r\n", &Err("a dot that is not stuffed"));
        check(b"a\r\n", &Err("the connection was closed"));
    }
}
