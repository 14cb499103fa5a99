//! What sessions share, put together from the settings: at the start ([`gateway`]), and when they are read
//! again.

use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::account::Accounts;
use crate::config::{self, Config, Limits};
use crate::metrics::Metrics;
use crate::server;
use crate::session::submission::{self, SentCopies};
use crate::session::{Gateway, SessionEnd};
use crate::state::{Listings, Memory};
use crate::tls::{Alpn, Certificates};
use crate::trace::Trace;
use crate::upstream::{Dial, TcpDialer, Upstream};

/// Puts together what sessions share.
///
/// # Errors
/// When the roots for an upstream or a certificate cannot be read, or the file of the trace not be written.
pub fn gateway(
    config: &Config,
    dialer: Arc<dyn Dial>,
    draining: CancellationToken,
) -> io::Result<Arc<Gateway>> {
    let metrics = Metrics::new(&upstream_names(config), &SessionEnd::LABELS);
    let common = Common {
        metrics: Arc::new(metrics.map_err(io::Error::other)?),
        memory: Arc::default(),
        listings: Arc::new(Listings::new(config.listing_cache_octets)),
        copies: SentCopies::new(config.limits.spool_octets),
        trace: None,
        draining,
        drained: CancellationToken::new(),
    };
    let upstreams = config
        .upstreams
        .iter()
        .map(|settings| new_upstream(settings, config, &dialer, &common.metrics))
        .collect::<Result<Vec<_>, _>>();
    let accounts = accounts(config, upstreams.map_err(io::Error::other)?);
    assemble(config, common, accounts)
}

/// The same with other settings, and with all that is known, counted and under way. Files are read meanwhile,
/// which may take as long as a disk does.
///
/// # Errors
/// As [`gateway`].
pub(crate) fn following(before: &Gateway, config: &Config) -> io::Result<Arc<Gateway>> {
    let common = Common {
        metrics: before.metrics.clone(),
        memory: before.memory.clone(),
        listings: before.listings.clone(),
        copies: before.submission.copies.clone(),
        trace: before.trace.clone(),
        draining: before.draining.clone(),
        drained: before.drained.clone(),
    };
    let dialer: Arc<dyn Dial> = Arc::new(TcpDialer);
    let upstreams = config.upstreams.iter().map(|settings| {
        let is_same = |known: &&Arc<Upstream>| {
            // Its file may hold other roots by now.
            known.settings() == &**settings
                && settings.ca_file.is_none()
                && before.timeouts.upstream == config.timeouts.upstream
        };
        match before.accounts.upstreams().find(is_same) {
            Some(known) => Ok(known.clone()),
            None => new_upstream(settings, config, &dialer, &common.metrics),
        }
    });
    let upstreams = upstreams.collect::<Result<Vec<_>, _>>();
    let accounts = accounts(config, upstreams.map_err(io::Error::other)?);
    assemble(config, common, accounts.following(&before.accounts))
}

/// What outlives the settings.
struct Common {
    metrics: Arc<Metrics>,
    memory: Arc<Memory>,
    listings: Arc<Listings>,
    copies: SentCopies,
    /// Unless its settings are others.
    trace: Option<Arc<Trace>>,
    draining: CancellationToken,
    drained: CancellationToken,
}

/// As metrics call them.
pub(crate) fn upstream_names(config: &Config) -> Vec<&str> {
    let upstreams = config.upstreams.iter();
    upstreams.map(|upstream| &*upstream.name).collect()
}

fn new_upstream(
    settings: &Arc<config::Upstream>,
    config: &Config,
    dialer: &Arc<dyn Dial>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<Upstream>, String> {
    let stall_limit = config.timeouts.upstream;
    Upstream::new(
        settings.clone(),
        stall_limit,
        dialer.clone(),
        metrics.clone(),
    )
    .map(Arc::new)
}

fn accounts(config: &Config, upstreams: Vec<Arc<Upstream>>) -> Accounts {
    Accounts::new(
        config.routes.clone(),
        upstreams,
        config.pop3.logins.clone(),
        config.limits.upstream_connections_per_account,
    )
}

fn assemble(config: &Config, common: Common, accounts: Accounts) -> io::Result<Arc<Gateway>> {
    let certificates = match config.tls.is_empty() {
        true => None,
        false => Some(Certificates::read(config.tls.clone()).map_err(io::Error::other)?),
    };
    let trace = match &config.trace {
        None => None,
        // What was written counts as long as it is the same trace.
        Some(settings) => match common.trace.filter(|trace| trace.is_by(settings)) {
            Some(trace) => Some(trace),
            None => Some(Arc::new(Trace::open(settings)?)),
        },
    };
    // More would take descriptors that there are not.
    let connections = server::connections_max(config.limits.connections);
    common.metrics.set_connections_limit(connections);
    let limits = Limits {
        connections,
        ..config.limits.clone()
    };
    let acceptor = |alpn| certificates.as_ref().map(|shown| shown.acceptor(alpn));
    Ok(Arc::new(Gateway {
        accounts,
        memory: common.memory,
        listings: common.listings,
        metrics: common.metrics,
        timeouts: config.timeouts.clone(),
        cleartext_login: config.cleartext_login.clone(),
        tls: acceptor(Alpn::Pop3),
        limits,
        proxy_protocol_from: config.proxy_protocol_from.clone(),
        read_ahead_octets: config.read_ahead_octets,
        client_workarounds: config.pop3.client_workarounds.clone(),
        submission: submission::Service {
            settings: Arc::new(config.smtp.clone()),
            message_octets_max: config.limits.message_octets,
            recipients_max: config.limits.recipients,
            tls: acceptor(Alpn::Submission),
            copies: common.copies,
        },
        trace,
        certificates,
        draining: common.draining,
        drained: common.drained,
    }))
}
