//! A POP3 session (RFC 1939): [`serve`] reads as the RFC's three states.

mod authorization;
mod login;
mod opening;
mod retrieve;
mod transaction;
pub(super) mod update;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, Level, info};

use super::{Client, Gateway, SessionEnd, SessionId};
use crate::account::{AccountKey, MailboxKey, Permit};
use crate::config::MaildropSettings;
use crate::failure::{Failure, FailureKind};
use crate::maildrop::{FetchWindow, Maildrop};
use crate::metrics::OpenGuard;
use crate::pop3::command::{CommandName, Mistake};
use crate::pop3::reply;
use crate::trace::SessionTrace;
use crate::upstream::{ImapClient, Selected};

/// Commands that were none, or came out of place, after which a client is cut off.
const MISTAKES_MAX: u32 = 30;

/// Time for the last words to a client that is being cut off.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Everything that a successful login brings. Dropping it closes the upstream connection and gives
/// back every permit.
struct LoggedIn {
    imap: ImapClient,
    selected: Selected,
    maildrop: Maildrop,
    window: FetchWindow,
    /// Shared with what is remembered of the mailbox.
    key: Arc<MailboxKey>,
    _permits: Permits,
    _open: OpenGuard,
}

impl LoggedIn {
    fn settings(&self) -> &MaildropSettings {
        &self.imap.upstream().settings().maildrop
    }
}

/// Leave to have the connection, and where it must be, to have the maildrop alone.
struct Permits {
    _connection: Permit<AccountKey>,
    _maildrop: Option<Permit<Arc<MailboxKey>>>,
}

/// What the one log line of a session tells.
struct Record {
    id: SessionId,
    started: Instant,
    login: Option<String>,
    upstream: Option<Arc<str>>,
    messages: u32,
    /// Messages that are not shown, since only the newest are.
    older: u32,
    retrieved: u32,
    retrieved_octets: u64,
    deleted: usize,
    refused: u32,
    mistakes: u32,
    /// Where `[trace]` may be about this one.
    trace: Option<SessionTrace>,
    /// Within a multi-line reply nothing else may be said.
    in_multi_line: bool,
}

/// Serves one client from greeting to close; `accepted` is when its connection was.
pub async fn serve(client: &mut Client, gateway: &Gateway, accepted: Instant) {
    let mut record = Record::new(accepted);
    if let Some(trace) = &gateway.trace {
        let trace = trace.session(record.id.to_string(), false);
        client.lines.tap(trace.client_leg());
        record.trace = Some(trace);
    }
    let span = client.span(record.id);
    let session = async {
        let result = conversation(client, gateway, &mut record).await;
        if let Err(end) = &result {
            last_words(client, end, gateway, &mut record).await;
        }
        record.close(client, gateway, result.err());
    };
    session.instrument(span).await;
}

async fn conversation(
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    let offer = gateway.offer();
    // What a session does for a short time is in a box, so that one that waits is small.
    let logged_in = tokio::select! {
        // Who comes now gets no other greeting.
        biased;
        () = gateway.draining.cancelled() => return Err(SessionEnd::ShuttingDown),
        result = Box::pin(authorization::run(client, gateway, offer, record)) => result?,
    };
    let Some(mut logged_in) = logged_in else {
        // QUIT before login: there is no UPDATE state.
        client.lines.close_within(LAST_WORDS).await;
        return Ok(());
    };
    client.lines.limit_stalls(gateway.timeouts.idle);
    client.lines.rest();
    let transaction = tokio::select! {
        result = transaction::run(client, gateway, offer, &mut logged_in, record) => result,
        () = gateway.drained.cancelled() => Err(SessionEnd::ShuttingDown),
    };
    Box::pin(end(transaction, client, gateway, logged_in, record)).await
}

/// Behind QUIT, the UPDATE state; without it the marks are forgotten with the maildrop.
async fn end(
    transaction: Result<(), SessionEnd>,
    client: &mut Client,
    gateway: &Gateway,
    mut logged_in: Box<LoggedIn>,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    let result = match transaction {
        Ok(()) => update::run(client, gateway, &mut logged_in, record).await,
        Err(end) => Err(end),
    };
    let LoggedIn { imap, .. } = *logged_in;
    let (read, written) = imap.octets();
    gateway.metrics.bytes("upstream", read, written);
    if result.is_ok() {
        // The client waits for this, and may log in again as soon as it has it.
        client.lines.limit_stalls(LAST_WORDS);
        client.lines.close().await;
        imap.logout().await;
    }
    result
}

/// Tells the client why it is cut off, where the protocol has a place for that.
async fn last_words(client: &mut Client, end: &SessionEnd, gateway: &Gateway, record: &mut Record) {
    if let SessionEnd::Upstream(failure) = end {
        record.failed(failure, gateway);
    }
    if record.in_multi_line {
        // The reply stays without its terminator, so that nobody takes it for complete.
        return;
    }
    let out = client.lines.output();
    match end {
        SessionEnd::Upstream(failure) => failure.kind.reply(out, record.id),
        SessionEnd::ShuttingDown => FailureKind::ShuttingDown.reply(out, record.id),
        SessionEnd::LineTooLong => reply::err(out, "that line is too long"),
        SessionEnd::TooManyMistakes => reply::err(out, "too many mistakes"),
        // The reply to the last login, or to QUIT, has been given; and RFC 1939 §3 has no words for an
        // autologout, since they would be taken for the reply to a command that is on its way.
        SessionEnd::TooManyLogins
        | SessionEnd::UpdateIncomplete(_)
        | SessionEnd::LoginTimeout
        | SessionEnd::ClientIdle => {}
        SessionEnd::ClientClosed
        | SessionEnd::MessageEndless
        | SessionEnd::TooManyRefusals
        | SessionEnd::OutOfStep
        | SessionEnd::ClientLost(_)
        | SessionEnd::ForeignProtocol
        | SessionEnd::TlsFailed(_) => return,
    }
    client.lines.close_within(LAST_WORDS).await;
}

impl Record {
    fn new(accepted: Instant) -> Self {
        Self {
            id: SessionId::new(),
            started: accepted,
            login: None,
            upstream: None,
            messages: 0,
            older: 0,
            retrieved: 0,
            retrieved_octets: 0,
            deleted: 0,
            refused: 0,
            mistakes: 0,
            trace: None,
            in_multi_line: false,
        }
    }

    /// The one line of a session, and its metrics.
    fn close(&self, client: &Client, gateway: &Gateway, end: Option<SessionEnd>) {
        let outcome = end.as_ref().map_or("quit", SessionEnd::label);
        gateway
            .metrics
            .session(client.listener, outcome, self.started.elapsed());
        let (read, written) = (client.lines.octets_read(), client.lines.octets_written());
        gateway.metrics.bytes("client", read, written);
        info!(
            session = %self.id,
            client = %client.address,
            tls = client.secure,
            login = self.login.as_deref().unwrap_or_default(),
            upstream = self.upstream.as_deref().unwrap_or_default(),
            seconds = self.started.elapsed().as_secs_f64(),
            messages = self.messages,
            older_not_shown = self.older,
            retrieved = self.retrieved,
            retrieved_octets = self.retrieved_octets,
            deleted = self.deleted,
            refused = self.refused,
            outcome,
            cause = end.as_ref().map(SessionEnd::cause).unwrap_or_default(),
            "session ended"
        );
    }

    /// A failure of the upstream is counted, and logged as loudly as the table says.
    fn failed(&mut self, failure: &Failure, gateway: &Gateway) {
        self.refused += 1;
        if let Some(upstream) = &self.upstream {
            gateway.metrics.upstream_error(upstream, failure.kind);
        }
        let (session, login) = (self.id, self.login.as_deref().unwrap_or_default());
        let upstream = self.upstream.as_deref().unwrap_or_default();
        // The level of an event is fixed where it is written.
        match failure.kind.level() {
            Level::ERROR => tracing::error!(%session, login, upstream, %failure),
            Level::WARN => tracing::warn!(%session, login, upstream, %failure),
            _ => tracing::info!(%session, login, upstream, %failure),
        }
    }

    /// Answers a line that is no command, and counts it.
    fn mistaken(
        &mut self,
        client: &mut Client,
        gateway: &Gateway,
        mistake: Mistake,
    ) -> Result<(), SessionEnd> {
        let text = match mistake {
            Mistake::Unknown => "no such command",
            Mistake::Arguments => "wrong arguments for this command",
            // A browser that was made to post commands to us is not answered at all.
            Mistake::ForeignProtocol => return Err(SessionEnd::ForeignProtocol),
        };
        gateway
            .metrics
            .pop3_command(CommandName::Unknown, false, Duration::ZERO);
        self.misplaced(client, text)
    }

    /// Answers a command that cannot be obeyed here, and counts it.
    fn misplaced(&mut self, client: &mut Client, text: &str) -> Result<(), SessionEnd> {
        self.refused += 1;
        self.mistakes += 1;
        if self.mistakes > MISTAKES_MAX {
            return Err(SessionEnd::TooManyMistakes);
        }
        reply::err(client.lines.output(), text);
        Ok(())
    }
}

/// Appends the capabilities of this connection: the same before and after login, since JavaMail and
/// neomutt decide by what they saw first.
fn capa(out: &mut Vec<u8>, client_may_log_in: bool, has_stls: bool, offer: super::Offer) {
    reply::ok(out, "capabilities follow");
    for capability in ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"] {
        reply::line(out, capability);
    }
    // No policy removes what the client did not delete.
    reply::line(out, "EXPIRE NEVER");
    if client_may_log_in {
        reply::line(out, "USER");
        reply::line(out, format_args!("SASL {}", mechanisms(offer).join(" ")));
    }
    if has_stls {
        reply::line(out, "STLS");
    }
    if !offer.login_delay.is_zero() {
        // Rounded up, so that whoever waits for so many seconds is let in.
        let seconds = offer.login_delay.as_millis().div_ceil(1000);
        reply::line(out, format_args!("LOGIN-DELAY {seconds}"));
    }
    if offer.utf8 {
        reply::line(out, "UTF8");
    }
    reply::line(out, "IMPLEMENTATION popgate");
    reply::terminator(out);
}

fn mechanisms(offer: super::Offer) -> &'static [&'static str] {
    match offer.tokens {
        Some(true) => &["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"],
        Some(false) | None => &["PLAIN", "LOGIN"],
    }
}
