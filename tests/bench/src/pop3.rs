//! The POP3 client: what old mail programs do, one command after the other.

use std::collections::HashSet;
use std::time::Instant;

use crate::manifest::{Manifest, Received};
use crate::measured::{Account, Listed, Retrieved};
use crate::wire::{Result, Wire};

/// A session that looks whether there is something new: USER, PASS, STAT, UIDL, LIST, QUIT. Timed from
/// the connection to the last answer.
pub(crate) fn list(account: &Account, manifest: &Manifest) -> Result<Listed> {
    let start = Instant::now();
    let mut session = Session::login(account)?;
    let drop_listing = session.ask("STAT")?;
    let unique_ids = session.listing("UIDL")?;
    let scan_listing = session.listing("LIST")?;
    session.ask("QUIT")?;
    let seconds = start.elapsed().as_secs_f64();

    check_drop_listing(&drop_listing, manifest)?;
    check_unique_ids(&unique_ids, manifest)?;
    manifest.check_sizes(&sizes(&scan_listing)?)?;
    Ok(Listed { seconds })
}

/// RETR of every message of a mailbox, so many times over. Timed from the first RETR to the last octet.
pub(crate) fn retrieve(account: &Account, manifest: &Manifest, times: u32) -> Result<Retrieved> {
    let mut session = Session::login(account)?;
    let scan_listing = session.listing("LIST")?;
    manifest.check_sizes(&sizes(&scan_listing)?)?;

    let start = Instant::now();
    let mut first_octet = None;
    for _ in 0..times {
        for at in 0..manifest.count() {
            session.ask(&format!("RETR {}", at + 1))?;
            // The status line may come long before the message that it speaks of.
            session.wire.wait()?;
            first_octet.get_or_insert_with(|| start.elapsed());
            let mut received = Received::default();
            session.wire.multi_line(|piece| received.push(piece))?;
            manifest.check(at, received)?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    session.ask("QUIT")?;
    Ok(Retrieved {
        first_octet_seconds: first_octet.ok_or("an empty mailbox")?.as_secs_f64(),
        seconds,
    })
}

/// The shortest session of use: USER, PASS, STAT, QUIT.
pub(crate) fn look(account: &Account, manifest: &Manifest) -> Result<()> {
    let mut session = Session::login(account)?;
    let drop_listing = session.ask("STAT")?;
    check_drop_listing(&drop_listing, manifest)?;
    session.ask("QUIT")?;
    Ok(())
}

/// In TRANSACTION state.
struct Session {
    wire: Wire,
}

impl Session {
    fn login(account: &Account) -> Result<Self> {
        let mut session = Self {
            wire: Wire::connect(account.port)?,
        };
        session.answer("the greeting")?;
        session.ask(&format!("USER {}", account.login))?;
        session.ask(&format!("PASS {}", account.password))?;
        Ok(session)
    }

    /// What follows +OK.
    fn ask(&mut self, command: &str) -> Result<String> {
        self.wire.send(format!("{command}\r\n"))?;
        self.answer(command)
    }

    fn answer(&mut self, command: &str) -> Result<String> {
        let line = self.wire.line()?;
        match line.strip_prefix("+OK") {
            Some(text) => Ok(text.trim_start().to_owned()),
            None => Err(format!("{command}: {line}").into()),
        }
    }

    fn listing(&mut self, command: &str) -> Result<String> {
        self.ask(command)?;
        let mut lines = Vec::new();
        self.wire
            .multi_line(|piece| lines.extend_from_slice(piece))?;
        Ok(String::from_utf8(lines)?)
    }
}

fn check_drop_listing(text: &str, manifest: &Manifest) -> Result<()> {
    match text == format!("{} {}", manifest.count(), manifest.octets()) {
        true => Ok(()),
        false => Err(format!("STAT says {text}").into()),
    }
}

fn check_unique_ids(listing: &str, manifest: &Manifest) -> Result<()> {
    let ids = values(listing)?.into_iter().collect::<HashSet<_>>();
    match ids.len() == manifest.count() {
        true => Ok(()),
        false => Err(format!("{} unique-ids", ids.len()).into()),
    }
}

fn sizes(listing: &str) -> Result<Vec<u64>> {
    let octets = values(listing)?.into_iter().map(str::parse);
    Ok(octets.collect::<std::result::Result<_, _>>()?)
}

/// What a listing says of each message; they are numbered from 1 without a gap.
fn values(listing: &str) -> Result<Vec<&str>> {
    let mut values = Vec::new();
    for line in listing.lines() {
        let (number, value) = line.split_once(' ').ok_or("a line without a blank")?;
        if number.parse() != Ok(values.len() + 1) {
            return Err(format!("a listing out of step: {line}").into());
        }
        values.push(value);
    }
    Ok(values)
}
