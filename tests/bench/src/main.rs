//! The parts of the benchmark that have to be faster than what they measure: a link emulator, a plain
//! relay, and the clients. `bench.py` starts them and makes a table of what they print as JSON.
//! Everything is on loopback.
#![forbid(unsafe_code)]

mod imap;
mod link;
mod manifest;
mod measured;
mod pop3;
mod relay;
mod sink;
mod smtp;
mod wire;

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::link::{Link, Shape};
use crate::manifest::Manifest;
use crate::measured::{Account, by_workers};
use crate::sink::Sink;
use crate::wire::Result;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Carries connections to a port over a link; prints its own port, then counts for each line it
    /// reads, and ends with its standard input.
    Link {
        upstream_port: u16,
        #[arg(long)]
        round_trip_ms: f64,
        /// Unlimited without.
        #[arg(long)]
        mbit_per_second: Option<f64>,
    },
    /// Copies connections to a port; prints its own port, and ends with its standard input.
    Relay { upstream_port: u16 },
    /// Takes the messages of a manifest by SMTP; prints its own port, then counts for each line it reads,
    /// and ends with its standard input.
    Sink { manifest: PathBuf },
    /// One session that sends the files of a folder.
    Send {
        port: u16,
        login: String,
        password: String,
        outbox: PathBuf,
    },
    /// One session that lists a mailbox.
    List(Session),
    /// One session that asks for what has changed in a mailbox that it knows.
    ListAgain(Session),
    /// One session that retrieves a mailbox.
    Retrieve {
        #[command(flatten)]
        session: Session,
        /// How often.
        #[arg(long, default_value_t = 1)]
        times: u32,
    },
    /// Many sessions that look how many messages there are.
    Look {
        #[command(flatten)]
        session: Session,
        /// How many do it side by side, with their number for `{}` in the login.
        #[arg(long)]
        workers: u32,
        #[arg(long)]
        sessions_of_each: u32,
    },
}

#[derive(Args)]
struct Session {
    protocol: Protocol,
    port: u16,
    login: String,
    password: String,
    /// What is in the mailbox.
    manifest: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    Pop3,
    Imap,
}

impl Session {
    fn prepare(self) -> Result<(Protocol, Account, Manifest)> {
        let manifest = Manifest::read(&self.manifest)?;
        let account = Account {
            port: self.port,
            login: self.login,
            password: self.password,
        };
        Ok((self.protocol, account, manifest))
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("popgate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: Work) -> Result<()> {
    match work {
        Work::Link {
            upstream_port,
            round_trip_ms,
            mbit_per_second,
        } => serve_link(
            upstream_port,
            Shape {
                round_trip: Duration::from_secs_f64(round_trip_ms / 1e3),
                octets_per_second: mbit_per_second.map(|mbit| mbit * 1e6 / 8.0),
            },
        ),
        Work::Relay { upstream_port } => serve_relay(upstream_port),
        Work::Sink { manifest } => serve_sink(Manifest::read(&manifest)?),
        Work::Send {
            port,
            login,
            password,
            outbox,
        } => {
            let account = Account {
                port,
                login,
                password,
            };
            print(&smtp::send(&account, &outbox)?)
        }
        Work::List(session) => match session.prepare()? {
            (Protocol::Pop3, account, manifest) => print(&pop3::list(&account, &manifest)?),
            (Protocol::Imap, account, manifest) => print(&imap::list(&account, &manifest)?),
        },
        Work::ListAgain(session) => match session.prepare()? {
            // POP3 has no other way to ask.
            (Protocol::Pop3, account, manifest) => print(&pop3::list(&account, &manifest)?),
            (Protocol::Imap, account, manifest) => print(&imap::select(&account, &manifest)?),
        },
        Work::Retrieve { session, times } => {
            let (protocol, account, manifest) = session.prepare()?;
            let retrieve = match protocol {
                Protocol::Pop3 => pop3::retrieve,
                Protocol::Imap => imap::retrieve,
            };
            print(&retrieve(&account, &manifest, times)?)
        }
        Work::Look {
            session,
            workers,
            sessions_of_each,
        } => {
            let (protocol, account, manifest) = session.prepare()?;
            let look = match protocol {
                Protocol::Pop3 => pop3::look,
                Protocol::Imap => imap::look,
            };
            let look = |own: &Account| look(own, &manifest);
            print(&by_workers(&account, workers, sessions_of_each, look)?)
        }
    }
}

#[derive(Serialize)]
struct Listening {
    port: u16,
}

fn serve_link(upstream_port: u16, shape: Shape) -> Result<()> {
    let listener = listen()?;
    let link = Arc::new(Link::new(shape, upstream_port));
    let serving = Arc::clone(&link);
    thread::spawn(move || serving.serve(&listener));
    for line in io::stdin().lines() {
        line?;
        print(&link.counts())?;
    }
    Ok(())
}

fn serve_sink(manifest: Manifest) -> Result<()> {
    let listener = listen()?;
    let sink = Arc::new(Sink::new(manifest));
    let serving = Arc::clone(&sink);
    thread::spawn(move || serving.serve(&listener));
    for line in io::stdin().lines() {
        line?;
        print(&sink.taken())?;
    }
    Ok(())
}

fn serve_relay(upstream_port: u16) -> Result<()> {
    let listener = listen()?;
    thread::spawn(move || relay::serve(&listener, upstream_port));
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    print(&Listening { port })?;
    Ok(listener)
}

fn print(result: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, result)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
