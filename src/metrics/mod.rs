//! [`Metrics`]: every metric family of the program, in one list.
//!
//! Label values come from closed sets or from the config, never from the wire, and every series is
//! there from the start, at zero, so that the number of series does not grow with users.

mod label;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

pub use self::label::{
    DeleteAction, ListingCache, ReadAhead, Rejection, SentCopyResult, SubmissionResult,
};

use crate::failure::FailureKind;
use crate::imap::command::CommandName as ImapCommand;
use crate::imap::response::Condition;
use crate::pop3::command::CommandName as Pop3Command;
use crate::smtp::command::CommandName as SmtpCommand;

/// Seconds. What is answered from memory is below the first; a login or a message of an upstream in the
/// same building was seen to take 5 to 100 ms, one of a provider takes 50 ms to some seconds; timeouts.upstream
/// ends what stands still at 30 s, and a large message may go on for minutes.
const COMMAND_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

/// Seconds: a poll takes 50 ms to some seconds; a client that stays, up to an afternoon.
const SESSION_BUCKETS: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0,
];

/// The listeners, as labels.
pub const LISTENERS: [&str; 4] = ["pop3", "pop3s", "smtp", "smtps"];

/// What a connection to an upstream is open for, as labels.
const CONNECTION_STATES: [&str; 2] = ["in_use", "warm"];

/// All families, and the registry that `/metrics` prints.
pub struct Metrics {
    registry: Registry,
    /// Those of the settings; of others none is said to be down, although sessions may still use them.
    upstreams: Mutex<BTreeSet<String>>,
    ready: IntGaugeVec,
    connections_limit: IntGaugeVec,
    build_info: IntGaugeVec,
    connections: IntCounterVec,
    connections_active: IntGaugeVec,
    connections_rejected: IntCounterVec,
    sessions: IntCounterVec,
    session_duration: HistogramVec,
    auth_attempts: IntCounterVec,
    pop3_command_duration: HistogramVec,
    smtp_command_duration: HistogramVec,
    imap_command_duration: HistogramVec,
    upstream_connections: IntGaugeVec,
    upstream_up: IntGaugeVec,
    upstream_errors: IntCounterVec,
    messages_retrieved: IntCounterVec,
    messages_deleted: IntCounterVec,
    bytes: IntCounterVec,
    listing_cache: IntCounterVec,
    read_ahead: IntCounterVec,
    submissions: IntCounterVec,
    sent_copies: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    certificate_reload: IntGaugeVec,
    config_reload: IntGaugeVec,
    oauth_refresh: IntCounterVec,
    accounts: IntGaugeVec,
}

impl Metrics {
    /// All families at zero, for the upstreams of the config and the outcomes of a session.
    ///
    /// # Errors
    /// When two families share a name: a mistake of ours that the first test sees.
    pub fn new(upstreams: &[&str], outcomes: &[&'static str]) -> Result<Self, prometheus::Error> {
        let families = Families(Registry::new());
        #[rustfmt::skip]
        let metrics = Self {
            ready: families.gauge("ready", "Whether listeners are open and popgate is not draining.", &[])?,
            build_info: families.gauge("build_info", "Always 1; what is running.", &["version", "revision"])?,
            connections: families.counter("connections_total", "Client connections accepted.", &["listener"])?,
            connections_active: families.gauge("connections_active", "Client connections open now.", &["listener"])?,
            connections_limit: families.gauge("connections_limit", "Client connections that there may be, all listeners together.", &[])?,
            connections_rejected: families.counter("connections_rejected_total", "Client connections turned away before a session.", &["listener", "reason"])?,
            sessions: families.counter("sessions_total", "Sessions ended, by how they ended.", &["listener", "outcome"])?,
            session_duration: families.histogram("session_duration_seconds", "From accept to the end of a session.", &["listener"], SESSION_BUCKETS)?,
            auth_attempts: families.counter("auth_attempts_total", "Logins, by what became of them; those remembered as rejected and those held back reached no upstream.", &["upstream", "result"])?,
            pop3_command_duration: families.histogram("pop3_command_duration_seconds", "From a command to the end of its reply.", &["command", "status"], COMMAND_BUCKETS)?,
            smtp_command_duration: families.histogram("smtp_command_duration_seconds", "From a command to its reply; of DATA and BDAT to that of the message.", &["command", "status"], COMMAND_BUCKETS)?,
            imap_command_duration: families.histogram("imap_command_duration_seconds", "From a command to its tagged response.", &["upstream", "command", "status"], COMMAND_BUCKETS)?,
            upstream_connections: families.gauge("upstream_connections", "Connections to upstreams open now.", &["upstream", "state"])?,
            upstream_up: families.gauge("upstream_up", "Whether every service of the upstream greeted when it was last connected to.", &["upstream"])?,
            upstream_errors: families.counter("upstream_errors_total", "Failures of upstreams, by what happened.", &["upstream", "reason"])?,
            messages_retrieved: families.counter("messages_retrieved_total", "Messages delivered in full by RETR.", &["upstream"])?,
            messages_deleted: families.counter("messages_deleted_total", "Messages that QUIT deleted, by what became of them.", &["upstream", "action"])?,
            bytes: families.counter("bytes_total", "Octets of protocol inside TLS; out is what popgate sent.", &["side", "direction"])?,
            listing_cache: families.counter("listing_cache_total", "Logins by how much of the mailbox's contents had to be asked.", &["result"])?,
            read_ahead: families.counter("read_ahead_total", "Messages by whether they were asked for before the client wanted them.", &["result"])?,
            submissions: families.counter("submissions_total", "Messages that clients began to send, by what became of them.", &["upstream", "result"])?,
            sent_copies: families.counter("sent_copies_total", "Sent messages by what became of their copy in the folder of sent mail.", &["upstream", "result"])?,
            certificate_expiry: families.gauge("tls_certificate_expiry_timestamp_seconds", "When the first certificate expires that this listener shows; none without certificates.", &["listener"])?,
            certificate_reload: families.gauge("tls_certificate_last_reload_successful", "Whether the certificates could be used when their files last changed.", &[])?,
            config_reload: families.gauge("config_last_reload_successful", "Whether the settings could be used when they were last read.", &[])?,
            oauth_refresh: families.counter("oauth_refresh_total", "Access tokens that were asked for with a refresh token.", &["upstream", "result"])?,
            accounts: families.gauge("accounts", "Accounts that popgate keeps itself.", &["state"])?,
            registry: families.0,
            upstreams: Mutex::default(),
        };
        metrics.initialize(upstreams, outcomes);
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            metrics
                .registry
                .register(Box::new(process))
                .or_else(|error| match error {
                    // Several gateways in one test process.
                    prometheus::Error::AlreadyReg => Ok(()),
                    other => Err(other),
                })?;
        }
        Ok(metrics)
    }

    fn initialize(&self, upstreams: &[&str], outcomes: &[&'static str]) {
        self.set_ready(false);
        self.certificates_reread(true);
        self.config_reread(true);
        self.set_connections_limit(0);
        let revision = option_env!("POPGATE_REVISION").unwrap_or("unknown");
        self.build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION"), revision])
            .set(1);
        for listener in LISTENERS {
            self.connections.with_label_values(&[listener]);
            self.connections_active.with_label_values(&[listener]);
            self.session_duration.with_label_values(&[listener]);
            for reason in Rejection::ALL {
                self.connections_rejected
                    .with_label_values(&[listener, reason.label()]);
            }
            for outcome in outcomes {
                self.sessions.with_label_values(&[listener, outcome]);
            }
        }
        for command in Pop3Command::ALL {
            for status in ["ok", "err"] {
                self.pop3_command_duration
                    .with_label_values(&[command.label(), status]);
            }
        }
        for command in SmtpCommand::ALL {
            for status in ["ok", "err"] {
                self.smtp_command_duration
                    .with_label_values(&[command.label(), status]);
            }
        }
        for result in ListingCache::ALL {
            self.listing_cache.with_label_values(&[result.label()]);
        }
        for result in ReadAhead::ALL {
            self.read_ahead.with_label_values(&[result.label()]);
        }
        for side in ["client", "upstream"] {
            for direction in ["in", "out"] {
                self.bytes.with_label_values(&[side, direction]);
            }
        }
        for state in ["active", "disconnected"] {
            self.accounts.with_label_values(&[state]);
        }
        self.replace_upstreams(upstreams);
    }

    /// Settings that were read again may have others. What was counted of those before stays.
    pub fn replace_upstreams(&self, upstreams: &[&str]) {
        let names = upstreams.iter().map(ToString::to_string).collect();
        let mut known = self.upstreams();
        for gone in known.difference(&names) {
            // The only error is that there is none.
            let _ = self.upstream_up.remove_label_values(&[gone]);
        }
        *known = names;
        for upstream in upstreams {
            self.initialize_upstream(upstream);
        }
    }

    fn upstreams(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn initialize_upstream(&self, upstream: &str) {
        for result in ["ok", "rejected", "failed", "remembered", "held_back"] {
            self.auth_attempts.with_label_values(&[upstream, result]);
        }
        for command in ImapCommand::ALL {
            for status in ["ok", "no", "bad"] {
                self.imap_command_duration
                    .with_label_values(&[upstream, command.label(), status]);
            }
        }
        for state in CONNECTION_STATES {
            self.upstream_connections
                .with_label_values(&[upstream, state]);
        }
        self.upstream_up.with_label_values(&[upstream]);
        for result in ["ok", "rejected", "failed"] {
            self.oauth_refresh.with_label_values(&[upstream, result]);
        }
        for kind in FailureKind::ALL {
            self.upstream_errors
                .with_label_values(&[upstream, kind.label()]);
        }
        self.messages_retrieved.with_label_values(&[upstream]);
        for action in DeleteAction::ALL {
            self.messages_deleted
                .with_label_values(&[upstream, action.label()]);
        }
        for result in SubmissionResult::ALL {
            self.submissions
                .with_label_values(&[upstream, result.label()]);
        }
        for result in SentCopyResult::ALL {
            self.sent_copies
                .with_label_values(&[upstream, result.label()]);
        }
    }

    /// What `/metrics` prints.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Listeners are open, or are being closed.
    pub fn set_ready(&self, ready: bool) {
        self.ready
            .with_label_values::<&str>(&[])
            .set(i64::from(ready));
    }

    /// A listener shows certificates, of which the first expires at `expires`, in seconds since 1970.
    pub fn certificate_expiry(&self, listener: &str, expires: u64) {
        self.certificate_expiry
            .with_label_values(&[listener])
            .set(i64::try_from(expires).unwrap_or(i64::MAX));
    }

    /// A listener shows no certificates any more.
    pub fn no_certificate(&self, listener: &str) {
        // The only error is that it never did.
        let _ = self.certificate_expiry.remove_label_values(&[listener]);
    }

    /// The files of certificates had changed.
    pub fn certificates_reread(&self, succeeded: bool) {
        let gauge = self.certificate_reload.with_label_values::<&str>(&[]);
        gauge.set(i64::from(succeeded));
    }

    /// The settings were read.
    pub fn config_reread(&self, succeeded: bool) {
        let gauge = self.config_reload.with_label_values::<&str>(&[]);
        gauge.set(i64::from(succeeded));
    }

    /// `limits.connections`.
    pub fn set_connections_limit(&self, connections: usize) {
        self.connections_limit
            .with_label_values::<&str>(&[])
            .set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    /// A connection was accepted; it is open until the guard is dropped.
    pub fn connection(&self, listener: &str) -> OpenGuard {
        self.connections.with_label_values(&[listener]).inc();
        OpenGuard::new(self.connections_active.with_label_values(&[listener]))
    }

    /// A connection was turned away.
    pub fn connection_rejected(&self, listener: &str, reason: Rejection) {
        self.connections_rejected
            .with_label_values(&[listener, reason.label()])
            .inc();
    }

    /// A session ended.
    pub fn session(&self, listener: &str, outcome: &str, duration: Duration) {
        self.sessions.with_label_values(&[listener, outcome]).inc();
        self.session_duration
            .with_label_values(&[listener])
            .observe(duration.as_secs_f64());
    }

    /// A login was answered without the upstream, by what it refused a moment ago, by too many guesses, or
    /// because it does not decide about others.
    pub fn auth_withheld(&self, upstream: &str, failure: FailureKind) {
        let result = match failure {
            FailureKind::AuthRejected => "remembered",
            FailureKind::TooManyGuesses => "held_back",
            _ => "failed",
        };
        self.auth_attempts
            .with_label_values(&[upstream, result])
            .inc();
    }

    /// An upstream has answered a login.
    pub fn auth_attempt(&self, upstream: &str, failure: Option<FailureKind>) {
        let result = match failure {
            None => "ok",
            Some(FailureKind::AuthRejected) => "rejected",
            Some(_) => "failed",
        };
        self.auth_attempts
            .with_label_values(&[upstream, result])
            .inc();
    }

    /// A POP3 command was answered.
    pub fn pop3_command(&self, command: Pop3Command, succeeded: bool, duration: Duration) {
        let status = if succeeded { "ok" } else { "err" };
        self.pop3_command_duration
            .with_label_values(&[command.label(), status])
            .observe(duration.as_secs_f64());
    }

    /// An SMTP command was answered.
    pub fn smtp_command(&self, command: SmtpCommand, succeeded: bool, duration: Duration) {
        let status = if succeeded { "ok" } else { "err" };
        self.smtp_command_duration
            .with_label_values(&[command.label(), status])
            .observe(duration.as_secs_f64());
    }

    /// A message came to its end.
    pub fn submission(&self, upstream: &str, result: SubmissionResult) {
        self.submissions
            .with_label_values(&[upstream, result.label()])
            .inc();
    }

    /// The copy of a sent message came to its end.
    pub fn sent_copy(&self, upstream: &str, result: SentCopyResult) {
        self.sent_copies
            .with_label_values(&[upstream, result.label()])
            .inc();
    }

    /// An IMAP command was answered.
    pub fn imap_command(
        &self,
        upstream: &str,
        command: ImapCommand,
        condition: Condition,
        duration: Duration,
    ) {
        let status = match condition {
            Condition::Ok | Condition::PreAuth => "ok",
            Condition::No | Condition::Bye => "no",
            Condition::Bad => "bad",
        };
        self.imap_command_duration
            .with_label_values(&[upstream, command.label(), status])
            .observe(duration.as_secs_f64());
    }

    /// A connection to an upstream is open until the guard is dropped.
    pub fn upstream_connection(&self, upstream: &str, state: &str) -> OpenGuard {
        OpenGuard::new(
            self.upstream_connections
                .with_label_values(&[upstream, state]),
        )
    }

    /// How many of them are open now, at all upstreams.
    pub fn upstream_connections(&self) -> i64 {
        let upstreams = self.upstreams();
        let states = |upstream| CONNECTION_STATES.map(|state| [upstream, state]);
        let labels = upstreams
            .iter()
            .flat_map(|upstream| states(upstream.as_str()));
        labels
            .map(|labels| self.upstream_connections.with_label_values(&labels).get())
            .sum()
    }

    /// All services of an upstream could be reached when that was last tried, or not.
    pub fn set_upstream_up(&self, upstream: &str, up: bool) {
        if self.upstreams().contains(upstream) {
            self.upstream_up
                .with_label_values(&[upstream])
                .set(i64::from(up));
        }
    }

    /// An upstream failed.
    pub fn upstream_error(&self, upstream: &str, reason: FailureKind) {
        self.upstream_errors
            .with_label_values(&[upstream, reason.label()])
            .inc();
    }

    /// RETR delivered a message in full.
    pub fn message_retrieved(&self, upstream: &str) {
        self.messages_retrieved.with_label_values(&[upstream]).inc();
    }

    /// QUIT did this to so many messages.
    pub fn messages_deleted(&self, upstream: &str, action: DeleteAction, messages: usize) {
        self.messages_deleted
            .with_label_values(&[upstream, action.label()])
            .inc_by(messages as u64);
    }

    /// A login found out what a mailbox holds.
    pub fn listing_cache(&self, result: ListingCache) {
        self.listing_cache
            .with_label_values(&[result.label()])
            .inc();
    }

    /// So many messages were read ahead, or not.
    pub fn read_ahead(&self, result: ReadAhead, messages: u64) {
        self.read_ahead
            .with_label_values(&[result.label()])
            .inc_by(messages);
    }

    /// Octets that a session moved.
    pub fn bytes(&self, side: &str, read: u64, written: u64) {
        self.bytes.with_label_values(&[side, "in"]).inc_by(read);
        self.bytes.with_label_values(&[side, "out"]).inc_by(written);
    }
}

/// Makes families and registers them.
struct Families(Registry);

impl Families {
    fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.registered(IntCounterVec::new(Self::options(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.registered(IntGaugeVec::new(Self::options(name, help), labels)?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::from(Self::options(name, help)).buckets(buckets.to_vec());
        self.registered(HistogramVec::new(options, labels)?)
    }

    fn options(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("popgate")
    }

    fn registered<F: Collector + Clone + 'static>(&self, family: F) -> prometheus::Result<F> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

/// Counts something as open until it is dropped.
pub struct OpenGuard(IntGauge);

impl OpenGuard {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(metrics: &Metrics, name: &str) -> usize {
        let families = metrics.registry().gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0, |family| family.get_metric().len())
    }

    #[test]
    fn what_is_gone_is_neither_down_nor_expires() {
        let metrics = Metrics::new(&["old", "other"], &["quit"]).expect("sound families");
        metrics.set_upstream_up("old", true);
        metrics.certificate_expiry("pop3", 1);
        metrics.replace_upstreams(&["other", "new"]);
        metrics.no_certificate("pop3");
        metrics.no_certificate("pop3s");
        // A session that began before connects once more.
        metrics.set_upstream_up("old", false);
        assert_eq!(count(&metrics, "popgate_upstream_up"), 2);
        let expiry = "popgate_tls_certificate_expiry_timestamp_seconds";
        assert_eq!(count(&metrics, expiry), 0);
    }

    #[test]
    fn every_series_is_there_from_the_start() {
        let metrics = Metrics::new(&["default"], &["quit"]).expect("sound families");
        let series = || -> usize {
            let families = metrics.registry().gather();
            families
                .iter()
                .map(|family| family.get_metric().len())
                .sum()
        };
        let before = series();
        metrics.session("pop3", "quit", Duration::from_secs(1));
        metrics.auth_attempt("default", Some(FailureKind::AuthRejected));
        metrics.upstream_error("default", FailureKind::UpstreamLost);
        metrics.messages_deleted("default", DeleteAction::Moved, 3);
        metrics.pop3_command(Pop3Command::Retr, true, Duration::ZERO);
        metrics.smtp_command(SmtpCommand::Data, true, Duration::ZERO);
        metrics.submission("default", SubmissionResult::Aborted);
        metrics.sent_copy("default", SentCopyResult::Failed);
        drop(metrics.connection("pop3"));
        assert_eq!(series(), before);
    }
}
