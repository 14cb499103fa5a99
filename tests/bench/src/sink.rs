//! The submission server behind all that send: it takes every message there is a checksum of, and counts them.
//! A real one has disks and queues, which would be measured instead.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use crate::manifest::{Manifest, Received};
use crate::wire::{Result, Wire};

/// What most have. With CHUNKING, which not all have, Dovecot's submission service saves a round trip for each
/// small message, and takes ten times as long for a large one.
const EHLO: &str = "250-sink.example.org\r\n250-PIPELINING\r\n250-SIZE\r\n250-AUTH PLAIN\r\n\
                    250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n";

/// Takes messages for as long as the process lives.
pub(crate) struct Sink {
    manifest: Manifest,
    /// How often each message has come.
    taken: Mutex<Vec<u64>>,
}

/// How often the messages have come: whichever came least, and whichever came most.
#[derive(serde::Serialize)]
pub(crate) struct Taken {
    least: u64,
    most: u64,
}

impl Sink {
    pub(crate) fn new(manifest: Manifest) -> Self {
        let taken = Mutex::new(vec![0; manifest.count()]);
        Self { manifest, taken }
    }

    pub(crate) fn serve(self: &Arc<Self>, listener: &TcpListener) -> io::Result<()> {
        loop {
            let (client, _) = listener.accept()?;
            let sink = Arc::clone(self);
            // Whoever breaks off, or does what is not foreseen, finds the connection closed.
            thread::spawn(move || sink.converse(client).ok());
        }
    }

    pub(crate) fn taken(&self) -> Taken {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        Taken {
            least: taken.iter().min().copied().unwrap_or(0),
            most: taken.iter().max().copied().unwrap_or(0),
        }
    }

    fn converse(&self, client: TcpStream) -> Result<()> {
        let mut wire = Wire::accepted(client)?;
        wire.send("220 sink.example.org ESMTP\r\n")?;
        loop {
            let command = wire.line()?.to_ascii_uppercase();
            match command.split(' ').next() {
                Some("EHLO") => wire.send(EHLO)?,
                Some("AUTH") => wire.send("235 2.7.0 welcome\r\n")?,
                Some("MAIL" | "RCPT" | "RSET" | "NOOP") => wire.send("250 2.0.0 ok\r\n")?,
                Some("DATA") => {
                    wire.send("354 go on\r\n")?;
                    let mut content = Content::default();
                    wire.multi_line(|piece| content.push(piece))?;
                    wire.send(self.judge(content))?;
                }
                Some("QUIT") => return wire.send("221 2.0.0 bye\r\n"),
                _ => wire.send("500 5.5.1 what?\r\n")?,
            }
        }
    }

    /// The reply to a message.
    fn judge(&self, content: Content) -> &'static str {
        match self.manifest.find(content.end()) {
            None => "554 5.6.0 another message\r\n",
            Some(at) => {
                let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
                taken[at] += 1;
                "250 2.0.0 taken\r\n"
            }
        }
    }
}

/// A message as it was sent: a Received field that it begins with was added on its way.
#[derive(Default)]
struct Content {
    /// As long as it is not clear whether it is part of that.
    beginning: Vec<u8>,
    is_clear: bool,
    received: Received,
}

impl Content {
    fn push(&mut self, piece: &[u8]) {
        if self.is_clear {
            return self.received.push(piece);
        }
        self.beginning.extend_from_slice(piece);
        if let Some(start) = start_of_message(&self.beginning) {
            self.is_clear = true;
            self.received.push(&self.beginning[start..]);
        }
    }

    fn end(mut self) -> Received {
        if !self.is_clear {
            self.received.push(&self.beginning);
        }
        self.received
    }
}

/// `None` as long as that is not clear.
fn start_of_message(beginning: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"Received:";
    if !beginning.starts_with(NAME) {
        return (!NAME.starts_with(beginning)).then_some(0);
    }
    // A line that begins with a blank continues a field (RFC 5322 §2.2.3).
    let mut line_ends = memchr::memmem::find_iter(beginning, b"\r\n").map(|end| end + 2);
    line_ends.find_map(|next| match beginning.get(next)? {
        b' ' | b'\t' => None,
        _ => Some(next),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::io::Write;
    use std::net::Ipv4Addr;

    #[test]
    fn what_was_added_on_the_way_does_not_count() {
        for (wire, message) in [
            (&b"A: b\r\n\r\n"[..], &b"A: b\r\n\r\n"[..]),
            (
                b"Received: from a\r\n\tby b;\r\n c\r\nA: b\r\n\r\n",
                b"A: b\r\n\r\n",
            ),
            (b"Receive", b"Receive"),
            (
                b"Received: x\r\nReceived: y\r\n\r\n",
                b"Received: y\r\n\r\n",
            ),
        ] {
            for cut in 0..=wire.len() {
                let mut content = Content::default();
                content.push(&wire[..cut]);
                content.push(&wire[cut..]);
                let mut expected = Received::default();
                expected.push(message);
                assert_eq!(
                    content.end().end(),
                    expected.end(),
                    "{wire:?}, cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn only_what_is_known_is_taken() -> Result<()> {
        let lines = [&b"a\r\n"[..], b".b\r\n"].map(|message| {
            let sha256 = Sha256::digest(message);
            format!("{} {sha256:x}\n", message.len())
        });
        let path = std::env::temp_dir().join(format!("popgate-sink-{}", std::process::id()));
        std::fs::write(&path, lines.concat())?;
        let manifest = Manifest::read(&path);
        std::fs::remove_file(&path)?;
        let sink = Arc::new(Sink::new(manifest?));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let serving = Arc::clone(&sink);
        thread::spawn(move || serving.serve(&listener));

        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        client.write_all(b"DATA\r\na\r\n.\r\nDATA\r\n..b\r\n.\r\nDATA\r\n..a\r\n.\r\n")?;
        client.write_all(b"DATA\r\n..b\r\n.\r\nQUIT\r\n")?;
        let replies = io::read_to_string(client)?;
        let codes: Vec<&str> = replies.lines().map(|line| &line[..3]).collect();
        let expected = [
            "220", "354", "250", "354", "250", "354", "554", "354", "250", "221",
        ];
        assert_eq!(codes, expected);
        assert_eq!((sink.taken().least, sink.taken().most), (1, 2));
        Ok(())
    }
}
