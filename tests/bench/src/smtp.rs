//! The client that sends: it pipelines as far as RFC 2920 has it for DATA, and waits for each message's reply.

use std::fs;
use std::path::Path;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::measured::{Account, Sent};
use crate::wire::{Result, Wire};

/// One session that sends each file of a folder, in the order of their names. Timed behind the reply to the
/// first one, for which the connection to the upstream may still have had to be opened.
pub(crate) fn send(account: &Account, outbox: &Path) -> Result<Sent> {
    let mut paths = fs::read_dir(outbox)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    let contents = paths
        .iter()
        .map(|path| Ok(stuffed(&fs::read(path)?)))
        .collect::<Result<Vec<_>>>()?;
    let (first, others) = contents.split_first().ok_or("an empty outbox")?;

    let mut session = Session::login(account)?;
    session.send(first)?;
    let start = Instant::now();
    for content in others {
        session.send(content)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    session.ask("QUIT\r\n", &["221"])?;
    Ok(Sent {
        messages: others.len(),
        seconds,
    })
}

/// What goes over the wire behind 354 (RFC 5321 §4.5.2).
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + message.len() / 64 + 8);
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Behind AUTH.
struct Session {
    wire: Wire,
}

impl Session {
    fn login(account: &Account) -> Result<Self> {
        let mut session = Self {
            wire: Wire::connect(account.port)?,
        };
        session.reply("220")?;
        session.ask("EHLO client.example.org\r\n", &["250"])?;
        let response = format!("\0{}\0{}", account.login, account.password);
        let command = format!("AUTH PLAIN {}\r\n", STANDARD.encode(response));
        session.ask(&command, &["235"])?;
        Ok(session)
    }

    /// A whole message, of which 354 asks for the content.
    fn send(&mut self, content: &[u8]) -> Result<()> {
        let envelope = "MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n";
        self.ask(envelope, &["250", "250", "354"])?;
        self.wire.send(content)?;
        self.reply("250")
    }

    fn ask(&mut self, commands: &str, codes: &[&str]) -> Result<()> {
        self.wire.send(commands)?;
        codes.iter().try_for_each(|code| self.reply(code))
    }

    fn reply(&mut self, code: &str) -> Result<()> {
        loop {
            let line = self.wire.line()?;
            match line.strip_prefix(code) {
                Some(text) if text.starts_with('-') => {}
                Some(_) => return Ok(()),
                None => return Err(format!("{code} was expected: {line}").into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_stuffed_where_lines_begin() {
        assert_eq!(stuffed(b".a.\r\n..\r\nb\r\n"), b"..a.\r\n...\r\nb\r\n.\r\n");
    }
}
