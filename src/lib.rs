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
//! | [`server`] | accept, permits, implicit TLS, drain | `account`, `config`, `failure`, `line_stream`, `metrics`, `session`, `tls` |
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
pub mod clock;
pub mod config;
pub mod demo;
pub mod failure;
pub mod imap;
pub mod line_stream;
pub mod maildrop;
pub mod metrics;
pub mod pop3;
pub mod sasl;
pub mod secret;
pub mod server;
pub mod session;
pub mod smtp;
pub mod spool;
pub mod state;
pub mod tls;
pub mod trace;
pub mod upstream;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::account::Accounts;
use crate::config::{Config, Service};
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::server::{Listener, Protocol};
use crate::session::submission::{self, SentCopies};
use crate::session::{Gateway, SessionEnd};
use crate::state::{Listings, Memory};
use crate::tls::Alpn;
use crate::trace::Trace;
use crate::upstream::{Dial, TcpDialer, Upstream};

/// Pause between two attempts to get to know an upstream that cannot be reached.
const ACQUAINTANCE_PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// Runs the gateway until `shutdown` is cancelled and the sessions have ended.
///
/// # Errors
/// When a socket cannot be opened or a certificate not be read: nothing has been served then.
pub async fn run(config: Config, shutdown: CancellationToken) -> io::Result<()> {
    let gateway = gateway(&config, Arc::new(TcpDialer), shutdown.clone())?;
    let mut listeners = Vec::new();
    for (protocol, addresses, tls) in [
        (Protocol::Pop3, &config.pop3.listeners, &gateway.tls),
        (
            Protocol::Submission,
            &config.smtp.listeners,
            &gateway.submission.tls,
        ),
    ] {
        for address in &addresses.clear {
            listeners.push(Listener::bind(*address, protocol, None).await?);
        }
        for address in &addresses.tls {
            listeners.push(Listener::bind(*address, protocol, tls.clone()).await?);
        }
    }
    let admin = match config.admin {
        Some(address) => Some(server::bind(address).await?),
        None => None,
    };
    let ready = Arc::new(AtomicBool::new(false));
    for listener in &listeners {
        info!(address = %listener.address()?, "listening for {}", listener.protocol());
    }
    for upstream in gateway.accounts.upstreams() {
        let services = [
            Some(Service::Imap),
            upstream.settings().smtp.as_ref().map(|it| it.service),
        ];
        for service in services.into_iter().flatten() {
            tokio::spawn(get_to_know(upstream.clone(), service, gateway.clone()));
            let (upstream, gateway) = (upstream.clone(), gateway.clone());
            tokio::spawn(async move {
                let hostname = &gateway.submission.settings.hostname;
                upstream.probe(service, hostname, &gateway.draining).await;
            });
        }
        tokio::spawn(upstream.clone().keep_warm(gateway.draining.clone()));
    }
    // Readiness is told until the last session has ended.
    let ended = CancellationToken::new();
    let _end = ended.clone().drop_guard();
    if let Some(listener) = admin {
        info!(address = %listener.local_addr()?, "listening for admin requests");
        let registry = gateway.metrics.registry().clone();
        tokio::spawn(admin::serve(listener, registry, ready.clone(), ended));
    }
    set_ready(&gateway, &ready, true);
    tokio::spawn({
        let gateway = gateway.clone();
        async move {
            gateway.draining.cancelled().await;
            set_ready(&gateway, &ready, false);
        }
    });
    gateway
        .metrics
        .set_connections_limit(config.limits.connections);
    server::run(listeners, gateway.clone(), &config.limits).await;
    let copies = &gateway.submission.copies;
    copies.finish(config.timeouts.drain).await;
    info!("all sessions have ended");
    Ok(())
}

fn set_ready(gateway: &Gateway, ready: &AtomicBool, now: bool) {
    ready.store(now, Ordering::Relaxed);
    gateway.metrics.set_ready(now);
}

/// Puts together what sessions share.
///
/// # Errors
/// When a certificate cannot be read.
pub fn gateway(
    config: &Config,
    dialer: Arc<dyn Dial>,
    draining: CancellationToken,
) -> io::Result<Arc<Gateway>> {
    let names: Vec<&str> = config
        .upstreams
        .iter()
        .map(|upstream| &*upstream.name)
        .collect();
    let metrics = Arc::new(Metrics::new(&names, &SessionEnd::LABELS).map_err(io::Error::other)?);
    let upstreams = config
        .upstreams
        .iter()
        .map(|settings| {
            let stall_limit = config.timeouts.upstream;
            Upstream::new(
                settings.clone(),
                stall_limit,
                dialer.clone(),
                metrics.clone(),
            )
            .map(Arc::new)
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let acceptor = |alpn| {
        let files = config.tls.as_ref();
        let acceptor =
            files.map(|files| tls::acceptor(&files.certificate, &files.private_key, alpn));
        acceptor.transpose().map_err(io::Error::other)
    };
    Ok(Arc::new(Gateway {
        accounts: Accounts::new(
            config.routes.clone(),
            upstreams,
            config.pop3.logins.clone(),
            config.limits.upstream_connections_per_account,
        ),
        memory: Memory::default(),
        listings: Listings::new(config.listing_cache_octets),
        metrics,
        timeouts: config.timeouts.clone(),
        cleartext_login: config.cleartext_login.clone(),
        tls: acceptor(Alpn::Pop3)?,
        read_ahead_octets: config.read_ahead_octets,
        client_workarounds: config.pop3.client_workarounds.clone(),
        submission: submission::Service {
            settings: Arc::new(config.smtp.clone()),
            message_octets_max: config.limits.message_octets,
            recipients_max: config.limits.recipients,
            tls: acceptor(Alpn::Submission)?,
            copies: SentCopies::new(config.limits.spool_octets),
        },
        trace: match &config.trace {
            Some(settings) => Some(Arc::new(Trace::open(settings)?)),
            None => None,
        },
        draining,
        drained: CancellationToken::new(),
    }))
}

/// Asks a service of an upstream what it can do, until it has told, so that the first client is offered
/// all of it, and the operator reads at once whether it can be reached.
async fn get_to_know(upstream: Arc<Upstream>, service: Service, gateway: Arc<Gateway>) {
    let name = upstream.settings().name.clone();
    let mut pause = Duration::from_secs(1);
    loop {
        match ask(&upstream, service, &gateway).await {
            Ok(names) => {
                let capabilities = names.join(" ");
                info!(upstream = %name, %service, capabilities, "upstream reached");
                return;
            }
            Err(failure) => {
                warn!(upstream = %name, %service, %failure, "upstream not reached; clients are told to try again");
            }
        }
        tokio::select! {
            () = sleep(pause) => pause = (2 * pause).min(ACQUAINTANCE_PAUSE_MAX),
            () = gateway.draining.cancelled() => return,
        }
    }
}

async fn ask(
    upstream: &Arc<Upstream>,
    service: Service,
    gateway: &Gateway,
) -> Result<Vec<&'static str>, Failure> {
    match service {
        Service::Imap => {
            let mut client = upstream.connect_anew().await?;
            let capabilities = client.known_capabilities().await?;
            client.logout().await;
            Ok(capabilities.names().collect())
        }
        Service::Submission => {
            let hostname = &gateway.submission.settings.hostname;
            let client = upstream.connect_submission(hostname).await?;
            let extensions = client.extensions();
            client.quit().await;
            Ok(extensions.names().collect())
        }
    }
}
