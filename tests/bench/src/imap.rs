//! The IMAP client that is the limit: it knows beforehand what it wants, and says it in one flight.

use std::time::Instant;

use crate::manifest::{Manifest, Received};
use crate::measured::{Account, Listed, Retrieved};
use crate::wire::{Result, Wire};

/// What a first login needs: LOGIN, SELECT and the sizes of all messages. Timed from the connection to
/// the last answer.
pub(crate) fn list(account: &Account, manifest: &Manifest) -> Result<Listed> {
    let start = Instant::now();
    let mut session = Session::greeted(account.port)?;
    session.send(&[&login(account), SELECT, "UID FETCH 1:* (RFC822.SIZE)"])?;
    let mut answers = Vec::new();
    while session.finished < session.sent {
        answers.push(session.answer()?);
    }
    let seconds = start.elapsed().as_secs_f64();

    let sizes = answers
        .iter()
        .filter_map(|line| number_behind(line, "RFC822.SIZE "));
    manifest.check_sizes(&sizes.collect::<Vec<_>>())?;
    session.logout()?;
    Ok(Listed { seconds })
}

/// What a login needs that has the sizes from before: LOGIN and SELECT, which tells that they still hold.
pub(crate) fn select(account: &Account, manifest: &Manifest) -> Result<Listed> {
    let start = Instant::now();
    let mut session = Session::greeted(account.port)?;
    session.select(account, manifest)?;
    let seconds = start.elapsed().as_secs_f64();
    session.logout()?;
    Ok(Listed { seconds })
}

/// All messages by one FETCH, so many times over. Timed from the first FETCH to the last octet.
pub(crate) fn retrieve(account: &Account, manifest: &Manifest, times: u32) -> Result<Retrieved> {
    let mut session = Session::greeted(account.port)?;
    session.select(account, manifest)?;

    let start = Instant::now();
    let mut first_octet = None;
    for _ in 0..times {
        session.send(&["UID FETCH 1:* (BODY.PEEK[])"])?;
        for at in 0..manifest.count() {
            let line = session.answer()?;
            let octets = literal(&line).ok_or_else(|| format!("no literal: {line}"))?;
            session.wire.wait()?;
            first_octet.get_or_insert_with(|| start.elapsed());
            let mut received = Received::default();
            session.wire.octets(octets, |piece| received.push(piece))?;
            manifest.check(at, received)?;
            // What is behind the literal.
            session.answer()?;
        }
        session.finish()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    session.logout()?;
    Ok(Retrieved {
        first_octet_seconds: first_octet.ok_or("an empty mailbox")?.as_secs_f64(),
        seconds,
    })
}

/// The least upstream work that a POP3 session can be made of: LOGIN, SELECT and LOGOUT.
pub(crate) fn look(account: &Account, manifest: &Manifest) -> Result<()> {
    let mut session = Session::greeted(account.port)?;
    session.send(&[&login(account), SELECT, "LOGOUT"])?;
    session.check_count(manifest)
}

const SELECT: &str = "SELECT INBOX";

fn login(account: &Account) -> String {
    format!("LOGIN {} {}", account.login, account.password)
}

/// A connection whose commands are tagged with their number.
struct Session {
    wire: Wire,
    sent: u32,
    finished: u32,
}

impl Session {
    fn greeted(port: u16) -> Result<Self> {
        let mut wire = Wire::connect(port)?;
        let greeting = wire.line()?;
        match greeting.starts_with("* OK") {
            true => Ok(Self {
                wire,
                sent: 0,
                finished: 0,
            }),
            false => Err(greeting.into()),
        }
    }

    /// Sends commands in one flight.
    fn send(&mut self, commands: &[&str]) -> Result<()> {
        let mut flight = String::new();
        for command in commands {
            self.sent += 1;
            flight += &format!("{} {command}\r\n", self.sent);
        }
        self.wire.send(&flight)
    }

    /// The next line; a tagged one has to say OK.
    fn answer(&mut self) -> Result<String> {
        let line = self.wire.line()?;
        if line.starts_with(|first: char| first.is_ascii_digit()) {
            self.finished += 1;
            if !line.starts_with(&format!("{} OK", self.finished)) {
                return Err(line.into());
            }
        }
        Ok(line)
    }

    /// Waits until all commands are finished.
    fn finish(&mut self) -> Result<()> {
        while self.finished < self.sent {
            self.answer()?;
        }
        Ok(())
    }

    fn select(&mut self, account: &Account, manifest: &Manifest) -> Result<()> {
        self.send(&[&login(account), SELECT])?;
        self.check_count(manifest)
    }

    /// Waits until all commands are finished, and for an EXISTS among the answers.
    fn check_count(&mut self, manifest: &Manifest) -> Result<()> {
        let expected = format!("* {} EXISTS", manifest.count());
        let mut is_told = false;
        while self.finished < self.sent {
            is_told |= self.answer()? == expected;
        }
        match is_told {
            true => Ok(()),
            false => Err(format!("no {expected}").into()),
        }
    }

    fn logout(&mut self) -> Result<()> {
        self.send(&["LOGOUT"])?;
        self.finish()
    }
}

/// How many octets follow a line.
fn literal(line: &str) -> Option<usize> {
    let (_, octets) = line.strip_suffix('}')?.rsplit_once('{')?;
    octets.parse().ok()
}

fn number_behind(line: &str, name: &str) -> Option<u64> {
    let (_, behind) = line.split_once(name)?;
    let digits = behind.find(|octet: char| !octet.is_ascii_digit())?;
    behind[..digits].parse().ok()
}
