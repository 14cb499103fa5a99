//! A submission session (RFC 6409): [`serve`] reads as greeting → login → one message after the other,
//! each of them envelope → content → the upstream's word on it.

mod authorization;
mod content;
mod copy_logins;
mod envelope;
mod flight;
mod objection;
mod received;
mod sent_copy;
mod words;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, Level, info};

use self::content::{Message, Outcome};
pub use self::sent_copy::SentCopies;
use super::{Client, Gateway, SessionEnd, SessionId};
use crate::config;
use crate::failure::{Failure, FailureKind};
use crate::metrics::{OpenGuard, SubmissionResult};
use crate::sasl::Credential;
use crate::smtp::command::{Command, CommandName, Mistake};
use crate::smtp::extension::{Extension, Extensions};
use crate::smtp::reply;
use crate::tls::TlsAcceptor;
use crate::trace::SessionTrace;
use crate::upstream::{SubmissionClient, Upstream};

/// Commands that were none, or came out of place, after which a client is cut off.
const MISTAKES_MAX: u32 = 30;

/// MAIL and RCPT that were refused for good since the last message was accepted, after which a client is cut
/// off: it tries out who is there. A list may have many recipients who are no more.
const ENVELOPE_REFUSALS_MAX: u32 = 100;

/// Time for the last words to a client that is being cut off.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What all submission sessions share.
#[derive(Clone)]
pub struct Service {
    /// `[smtp]`
    pub settings: Arc<config::Submission>,
    /// Octets of a message.
    pub message_octets_max: u64,
    /// Recipients of a message.
    pub recipients_max: usize,
    /// For TLS; `None` without a certificate.
    pub tls: Option<TlsAcceptor>,
    /// Copies of sent mail that are on their way.
    pub copies: SentCopies,
}

impl Service {
    /// Octets of a message from a client that we and such an upstream both take, with what we add to it.
    fn octets_taken_by(&self, upstream: Extensions) -> u64 {
        let added = match self.settings.received {
            true => received::LINE_OCTETS_MAX,
            false => 0,
        };
        let ours = self.message_octets_max;
        upstream.size().map_or(ours, |size| {
            // 0 would mean that there is no limit (RFC 1870 §4).
            size.saturating_sub(added).clamp(1, ours.max(1))
        })
    }
}

/// How a client has introduced itself.
#[derive(Debug, Clone)]
struct Introduction {
    name: Vec<u8>,
    /// By EHLO, not by HELO.
    is_extended: bool,
}

/// Everything that a login brings. Dropping it closes the upstream connection and gives back the permit.
struct LoggedIn {
    upstream: Arc<Upstream>,
    credential: Credential,
    /// Whether the upstream has refused it since; it is not tried again then.
    is_refused: bool,
    /// Whether the client proved itself, and not its network.
    by_auth: bool,
    /// `None` after it was lost, until the next transaction.
    connection: Option<SubmissionClient>,
    /// Whether it has a transaction that the client has given up.
    is_stale: bool,
    /// What the upstream can do.
    extensions: Extensions,
    introduction: Option<Introduction>,
    trace: Option<SessionTrace>,
    _permit: Box<dyn Send + Sync>,
    _open: OpenGuard,
}

impl LoggedIn {
    /// Whether what belongs to this extension can be passed on.
    fn can(&self, extension: Extension, client: &Client) -> bool {
        self.extensions.has(extension)
            && match extension {
                // RFC 8689 §3: from end to end.
                Extension::RequireTls => client.secure && is_secure(self.upstream.settings()),
                _ => true,
            }
    }

    /// Octets of a message that both sides take.
    fn message_octets_max(&self, gateway: &Gateway) -> u64 {
        gateway.submission.octets_taken_by(self.extensions)
    }

    /// Closes the upstream connection without another word: what it has of a message comes to nothing.
    fn drop_connection(&mut self, gateway: &Gateway) {
        self.is_stale = false;
        if let Some(connection) = self.connection.take() {
            let (read, written) = connection.octets();
            gateway.metrics.bytes("upstream", read, written);
        }
    }
}

fn is_secure(upstream: &config::Upstream) -> bool {
    let endpoint = upstream.smtp.as_ref();
    endpoint.is_some_and(|endpoint| endpoint.security != config::EndpointSecurity::Clear)
}

/// What every step of a logged-in session works on.
struct Session<'a> {
    client: &'a mut Client,
    gateway: &'a Gateway,
    logged_in: &'a mut LoggedIn,
    record: &'a mut Record,
}

/// What the one log line of a session tells.
struct Record {
    id: SessionId,
    started: Instant,
    login: Option<String>,
    upstream: Option<Arc<str>>,
    accepted: u32,
    accepted_octets: u64,
    refused: u32,
    mistakes: u32,
    envelope_refusals: u32,
    /// MAIL of a client that need not log in was refused for now: what it says further of this message is no
    /// mistake.
    was_mail_postponed: bool,
    /// DATA was refused, and no command has come since.
    was_data_refused: bool,
    /// Where `[trace]` may be about this one.
    trace: Option<SessionTrace>,
}

/// Serves one client from greeting to close; `accepted` is when its connection was.
pub async fn serve(mut client: Client, gateway: &Gateway, accepted: Instant) {
    let mut record = Record::new(accepted);
    if let Some(trace) = &gateway.trace {
        let trace = trace.session(record.id.to_string(), true);
        client.lines.tap(trace.client_leg());
        record.trace = Some(trace);
    }
    let span = client.span(record.id);
    let session = async {
        let result = conversation(&mut client, gateway, &mut record).await;
        if let Err(end) = &result {
            last_words(&mut client, end, gateway, &mut record).await;
        }
        record.close(&client, gateway, result.err());
    };
    session.instrument(span).await;
}

async fn conversation(
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    let entry = tokio::select! {
        // Who comes now gets no other greeting.
        biased;
        () = gateway.draining.cancelled() => return Err(SessionEnd::ShuttingDown),
        result = authorization::run(client, gateway, record) => result?,
    };
    if let Some(authorization::Entry {
        mut logged_in,
        first,
    }) = entry
    {
        client.lines.limit_stalls(gateway.timeouts.idle);
        let mut session = Session {
            client,
            gateway,
            logged_in: &mut logged_in,
            record,
        };
        let result = messages(&mut session, first).await;
        match (&result, logged_in.connection.take()) {
            (Ok(()), Some(connection)) => {
                let (read, written) = connection.octets();
                gateway.metrics.bytes("upstream", read, written);
                client.lines.flush().await?;
                connection.quit().await;
            }
            (_, connection) => {
                logged_in.connection = connection;
                logged_in.drop_connection(gateway);
            }
        }
        result?;
    }
    client.lines.close_within(LAST_WORDS).await;
    Ok(())
}

/// One message after the other, until QUIT.
async fn messages(
    session: &mut Session<'_>,
    mut first: Option<(Command, Instant)>,
) -> Result<(), SessionEnd> {
    let drained = session.gateway.drained.clone();
    loop {
        let prepared = tokio::select! {
            prepared = prepare(session, first.take()) => prepared?,
            () = drained.cancelled() => return Err(SessionEnd::ShuttingDown),
        };
        match prepared {
            // What the upstream has in full is its decision, which nothing cuts off.
            Some(message) => content::conclude(message, session).await,
            None => return Ok(()),
        }
    }
}

/// The next message up to its last octet; `None` is QUIT.
async fn prepare(
    session: &mut Session<'_>,
    mut first: Option<(Command, Instant)>,
) -> Result<Option<Message>, SessionEnd> {
    let mut failed = None;
    loop {
        let Some(start) = envelope::run(session, first.take(), failed).await? else {
            return Ok(None);
        };
        match content::read(start, session).await? {
            Outcome::Whole(message) => return Ok(Some(*message)),
            Outcome::GivenUp => failed = None,
            Outcome::Failed(objection) => failed = Some(objection),
            Outcome::Quit => return Ok(None),
        }
    }
}

/// Tells the client why it is cut off.
async fn last_words(client: &mut Client, end: &SessionEnd, gateway: &Gateway, record: &mut Record) {
    if let SessionEnd::Upstream(failure) = end {
        record.failed(failure, gateway);
    }
    let out = client.lines.output();
    match end {
        // What was refused by 421 has been told already.
        SessionEnd::Upstream(_) => {}
        SessionEnd::ShuttingDown => FailureKind::ShuttingDown.smtp_reply(out, record.id),
        SessionEnd::LineTooLong => reply::say(out, 500, "5.5.6", "that line is too long"),
        SessionEnd::OutOfStep => reply::say(out, 421, "4.5.0", "not to be followed any more"),
        SessionEnd::MessageEndless => reply::say(out, 552, "5.3.4", "the message is too large"),
        SessionEnd::TooManyMistakes => reply::say(out, 421, "4.7.0", "too many mistakes"),
        SessionEnd::TooManyRefusals => reply::say(out, 421, "4.7.0", "too many refused addresses"),
        SessionEnd::TooManyLogins => reply::say(out, 421, "4.7.0", "too many refused logins"),
        SessionEnd::LoginTimeout | SessionEnd::ClientIdle => {
            reply::say(out, 421, "4.4.2", "waited too long");
        }
        SessionEnd::ClientClosed
        | SessionEnd::ClientLost(_)
        | SessionEnd::ForeignProtocol
        | SessionEnd::UpdateIncomplete(_)
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
            accepted: 0,
            accepted_octets: 0,
            refused: 0,
            mistakes: 0,
            envelope_refusals: 0,
            was_mail_postponed: false,
            was_data_refused: false,
            trace: None,
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
            accepted = self.accepted,
            accepted_octets = self.accepted_octets,
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

    /// A message came to its end.
    fn concluded(&self, gateway: &Gateway, result: SubmissionResult) {
        if let Some(upstream) = &self.upstream {
            gateway.metrics.submission(upstream, result);
        }
    }

    /// Answers a line that is no command, and counts it. Behind DATA that was refused it begins a message, some
    /// other line of which may look like a command.
    fn mistaken(
        &mut self,
        client: &mut Client,
        gateway: &Gateway,
        mistake: Mistake,
    ) -> Result<(), SessionEnd> {
        gateway
            .metrics
            .smtp_command(CommandName::Unknown, false, Duration::ZERO);
        if self.was_data_refused {
            return Err(SessionEnd::OutOfStep);
        }
        let (code, enhanced, text) = match mistake {
            Mistake::Unknown => (500, "5.5.1", "no such command"),
            Mistake::NotImplemented => (502, "5.5.1", "not on a submission service"),
            Mistake::Arguments => (501, "5.5.4", "wrong arguments for this command"),
            Mistake::Bdat => {
                reply::say(client.lines.output(), 501, "5.5.4", "how many octets?");
                return Err(SessionEnd::OutOfStep);
            }
            // A browser that was made to post commands to us is not answered at all.
            Mistake::ForeignProtocol => return Err(SessionEnd::ForeignProtocol),
        };
        self.misplaced(client, code, enhanced, text)
    }

    /// Answers a command that cannot be obeyed here, and counts it.
    fn misplaced(
        &mut self,
        client: &mut Client,
        code: u16,
        enhanced: &str,
        text: &str,
    ) -> Result<(), SessionEnd> {
        self.mistakes += 1;
        if self.mistakes > MISTAKES_MAX {
            return Err(SessionEnd::TooManyMistakes);
        }
        self.refuse(client, code, enhanced, text);
        Ok(())
    }

    /// Counts a MAIL or RCPT that was refused for good.
    fn envelope_refused(&mut self) -> Result<(), SessionEnd> {
        self.envelope_refusals += 1;
        match self.envelope_refusals > ENVELOPE_REFUSALS_MAX {
            true => Err(SessionEnd::TooManyRefusals),
            false => Ok(()),
        }
    }

    /// Who sends on behind DATA without an answer (RFC 2920 §3.1 forbids it) sends a message, and nothing that
    /// may be taken for commands; it may be on its way yet.
    fn data_refused(&mut self, client: &Client) -> Result<(), SessionEnd> {
        self.was_data_refused = true;
        match client.lines.has_input() {
            true => Err(SessionEnd::OutOfStep),
            false => Ok(()),
        }
    }

    /// Answers what is no mistake and cannot be all the same.
    fn refuse(&mut self, client: &mut Client, code: u16, enhanced: &str, text: &str) {
        self.refused += 1;
        reply::say(client.lines.output(), code, enhanced, text);
    }
}

/// Appends what EHLO lists. Before login it is what every upstream can keep (many clients ask only
/// then), after it what this one can.
fn ehlo(out: &mut Vec<u8>, client: &Client, gateway: &Gateway, logged_in: Option<&LoggedIn>) {
    let service = &gateway.submission;
    let known = match logged_in {
        Some(logged_in) => logged_in.extensions,
        None => gateway.submission_offer(),
    };
    let size = service.octets_taken_by(known);
    let mut keywords = vec![
        "PIPELINING".to_owned(),
        "ENHANCEDSTATUSCODES".to_owned(),
        "CHUNKING".to_owned(),
        format!("SIZE {size}"),
    ];
    for (extension, keyword) in [
        (Extension::EightBitMime, "8BITMIME"),
        (Extension::SmtpUtf8, "SMTPUTF8"),
        (Extension::Dsn, "DSN"),
        (Extension::RequireTls, "REQUIRETLS"),
    ] {
        let is_kept = match logged_in {
            Some(logged_in) => logged_in.can(extension, client),
            None if extension == Extension::RequireTls => {
                let mut upstreams = gateway.accounts.upstreams();
                let all_secure = upstreams.all(|upstream| is_secure(upstream.settings()));
                client.secure && all_secure && known.has(extension)
            }
            None => known.has(extension),
        };
        if is_kept {
            keywords.push(keyword.to_owned());
        }
    }
    if logged_in.is_none() {
        if service.tls.is_some() && !client.secure {
            keywords.push("STARTTLS".to_owned());
        }
        let mechanisms: Vec<_> = authorization::Logins::of(gateway).names().collect();
        if gateway.permits_login(client) && !mechanisms.is_empty() {
            keywords.push(format!("AUTH {}", mechanisms.join(" ")));
        }
    }
    reply::line(out, format_args!("250-{}", service.settings.hostname));
    let last = keywords.len() - 1;
    for (number, keyword) in keywords.iter().enumerate() {
        let separator = if number == last { ' ' } else { '-' };
        reply::line(out, format_args!("250{separator}{keyword}"));
    }
}

/// What can be offered to clients before it is known who they are.
impl Gateway {
    /// What every upstream that sends mail can, as far as it has told; nothing while one has not.
    fn submission_offer(&self) -> Extensions {
        let mut told = self.submission_extensions();
        let first = told.next().flatten().unwrap_or_default();
        told.fold(first, |every, one| every.both(one.unwrap_or_default()))
    }

    /// Whether all of them have told.
    fn has_submission_offer(&self) -> bool {
        self.submission_extensions().all(|told| told.is_some())
    }

    fn submission_extensions(&self) -> impl Iterator<Item = Option<Extensions>> {
        let upstreams = self.accounts.upstreams();
        let sending = upstreams.filter(|upstream| upstream.settings().smtp.is_some());
        sending.map(|upstream| upstream.seen().submission)
    }
}
