//! popgate lets POP3 clients work on IMAP mailboxes, and send mail through submission servers.
//!
//! # The way of a session
//!
//! [`server`] accepts a client and gives it a task, in which [`session::pop3::serve`] reads as RFC
//! 1939's three states: authorization → transaction → update. [`session::submission::serve`] goes from
//! login to one message after the other: envelope → content → the upstream's word on it. What bytes
//! mean is in pure grammars ([`pop3`], [`imap`], [`smtp`], [`sasl`]); what mail means is in
//! [`maildrop`]; what trouble means is in [`failure`]. All I/O of a conversation goes through
//! [`line_stream`]; [`upstream`] converses with the provider.
//!
//! # The map
//!
//! | module | owns | may use, of this crate |
//! |---|---|---|
//! | [`config`] | what the operator decided, validated; only reader of environment and secret files | `maildrop`, `sasl`, `secret`, `tls` |
//! | [`server`] | accept, permits, implicit TLS, drain | `account`, `failure`, `line_stream`, `metrics`, `proxy_protocol`, `session`, `tls` |
//! | [`assembly`] | what sessions share, put together from settings | `account`, `config`, `metrics`, `server`, `session`, `state`, `tls`, `trace`, `upstream` |
//! | [`reload`] | other settings and certificates in the place of those before | `assembly`, `config`, `failure`, `server`, `session`, `supervisor`, `tls`, `upstream` |
//! | [`proxy_protocol`] | what a balancer says first | |
//! | [`supervisor`] | what systemd hands over and is told | `server` |
//! | [`session`] | the conversations; where client and upstream meet | `account`, `clock`, `config`, `failure`, `imap`, `line_stream`, `maildrop`, `metrics`, `pop3`, `sasl`, `secret`, `smtp`, `spool`, `state`, `tls`, `trace`, `upstream` |
//! | [`maildrop`] | the POP3 view of a mailbox; pure | `imap`, `pop3` |
//! | [`pop3`] | POP3's grammar; pure | `secret` |
//! | [`imap`] | IMAP's grammar; pure | `secret` |
//! | [`smtp`] | SMTP's grammar; pure | `secret` |
//! | [`sasl`] | SASL's mechanisms; pure | `secret` |
//! | [`upstream`] | I/O with the provider | `config`, `failure`, `imap`, `line_stream`, `metrics`, `sasl`, `secret`, `smtp`, `spool`, `tls` |
//! | [`account`] | who may log in where, how often | `config`, `failure`, `sasl`, `upstream` |
//! | [`state`] | what outlives a session | `account`, `imap`, `maildrop` |
//! | [`failure`] | the one table from trouble to reply, label and log level | `imap`, `line_stream`, `pop3`, `smtp` |
//! | [`line_stream`] | bounded lines in, buffered octets out | |
//! | [`spool`] | a message on disk, in a file without a name | |
//! | [`clock`] | the time of day, for what others read | |
//! | [`tls`] | set-ups and handshakes | `line_stream` |
//! | [`trace`] | what one login's sessions say, in a file, without secrets | `config`, `line_stream`, `sasl` |
//! | [`metrics`] | every metric family | `failure`, `imap`, `pop3`, `smtp` |
//! | [`admin`] | `/metrics`, `/livez`, `/readyz` | |
//! | [`demo`] | a sample upstream | `config`, `line_stream`, `sasl`, `secret`, `smtp` |
//! | [`secret`] | what is never printed | |
//!
//! `tests/tidy.rs` reads the `use` lines of the sources and this table, and fails where they differ.
//!
//! # What always holds
//!
//! 1. Nothing is changed upstream before QUIT, and then only messages named by UID that this session
//!    marked or retrieved. EXPUNGE without a UID set and CLOSE do not exist in [`imap::command`].
//! 2. `+OK` is said when it is true; the terminator of a RETR only behind the upstream's tagged OK,
//!    or behind the next body that was asked for.
//! 3. Octets of one side become arguments or data of the other, never commands.
//! 4. Memory is constant whatever the size of a message, and a few octets a message of a mailbox.
//! 5. What is asked for ahead of the client waits in the kernel's buffer, not in ours.
//! 6. `250` to a message is said only behind the upstream's 250, and the upstream gets the end of a
//!    message only when the client has sent it; no CR or LF goes out but in CRLF.
//! 7. Every wait, line, literal and queue has a limit with a name and a unit.
#![forbid(unsafe_code)]

pub mod account;
pub mod admin;
pub mod assembly;
pub mod clock;
pub mod config;
pub mod demo;
pub mod failure;
pub mod imap;
pub mod line_stream;
pub mod maildrop;
pub mod metrics;
pub mod pop3;
pub mod proxy_protocol;
mod reload;
pub mod sasl;
pub mod secret;
pub mod server;
pub mod session;
pub mod smtp;
pub mod spool;
pub mod state;
pub mod supervisor;
pub mod tls;
pub mod trace;
pub mod upstream;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use crate::assembly::gateway;
use crate::config::Config;
use crate::reload::{Reloading, Shown, watch_certificates};
use crate::server::{Current, Listener, Protocol, Security};
use crate::session::Gateway;
use crate::supervisor::{Inherited, Notice, Purpose};
use crate::upstream::TcpDialer;

/// Time for copies of sent mail at the end, also of messages that were sent when `timeouts.drain` was over.
const COPIES_PATIENCE_MIN: Duration = Duration::from_secs(5);

/// What the edge of the process hands over besides the settings.
pub struct Edge {
    /// Cancelled when it is time to end.
    pub shutdown: CancellationToken,
    /// Settings that are to replace those before, or why they could not be read.
    pub reloads: mpsc::Receiver<Result<Config, String>>,
    /// Sockets for clients replace all addresses of the settings, one for admin requests that of `[admin]`.
    pub sockets: Vec<Inherited>,
}

impl Edge {
    /// With nothing but an end.
    pub fn ending_with(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            reloads: mpsc::channel(1).1,
            sockets: Vec::new(),
        }
    }
}

/// Runs the gateway until `shutdown` is cancelled and the sessions have ended.
///
/// # Errors
/// When a socket cannot be opened or a certificate not be read: nothing has been served then.
pub async fn run(config: Config, edge: Edge) -> io::Result<()> {
    let gateway = gateway(&config, Arc::new(TcpDialer), edge.shutdown.clone())?;
    let (listeners, admin) = open(&config, edge.sockets).await?;
    let shown = Shown::by(&listeners);
    if shown.is_needed && gateway.certificates.is_none() {
        return Err(io::Error::other(
            "a socket for TLS needs a certificate; add [tls] with certificate and private_key",
        ));
    }
    let ready = Arc::new(AtomicBool::new(false));
    for listener in &listeners {
        info!(address = %listener.address()?, "listening for {}", listener.protocol());
    }
    let current = Arc::new(Current::new(gateway.clone()));
    // Readiness is told until the last session has ended.
    let ended = CancellationToken::new();
    let _end = ended.clone().drop_guard();
    if let Some(listener) = admin {
        info!(address = %listener.local_addr()?, "listening for admin requests");
        let registry = gateway.metrics.registry().clone();
        tokio::spawn(admin::serve(listener, registry, ready.clone(), ended));
    }
    shown.expiry(&gateway);
    tokio::spawn(watch_certificates(current.clone(), shown.clone()));
    let reloading = Reloading::new(current.clone(), config, shown);
    tokio::spawn(reloading.run(edge.reloads));
    set_ready(&gateway, &ready, true);
    supervisor::notify(Notice::Ready);
    tokio::spawn({
        let gateway = gateway.clone();
        async move {
            gateway.draining.cancelled().await;
            set_ready(&gateway, &ready, false);
            supervisor::notify(Notice::Stopping);
        }
    });
    let drained = server::run(listeners, current.clone(), edge.shutdown).await;
    let copies = &gateway.submission.copies;
    let patience = drained - Instant::now();
    copies.finish(patience.max(COPIES_PATIENCE_MIN)).await;
    if let Some(trace) = &current.gateway().trace {
        trace.flush().await;
    }
    info!("all sessions have ended");
    Ok(())
}

/// The sockets for clients, and the one for admin requests.
async fn open(
    config: &Config,
    inherited: Vec<Inherited>,
) -> io::Result<(Vec<Listener>, Option<TcpListener>)> {
    let (mut listeners, mut admin) = (Vec::new(), None);
    for Inherited { purpose, socket } in inherited {
        let socket = TcpListener::from_std(socket)?;
        match purpose {
            Purpose::Clients(protocol, security) => {
                listeners.push(Listener::new(socket, protocol, security));
            }
            Purpose::Admin => admin = Some(socket),
        }
    }
    if listeners.is_empty() {
        for (protocol, addresses) in [
            (Protocol::Pop3, &config.pop3.listeners),
            (Protocol::Submission, &config.smtp.listeners),
        ] {
            for (security, addresses) in [
                (Security::Upgrade, &addresses.clear),
                (Security::Implicit, &addresses.tls),
            ] {
                for address in addresses {
                    let socket = server::bind(*address).await?;
                    listeners.push(Listener::new(socket, protocol, security));
                }
            }
        }
    }
    if let (None, Some(address)) = (&admin, config.admin) {
        admin = Some(server::bind(address).await?);
    }
    Ok((listeners, admin))
}

fn set_ready(gateway: &Gateway, ready: &AtomicBool, now: bool) {
    ready.store(now, Ordering::Relaxed);
    gateway.metrics.set_ready(now);
}
