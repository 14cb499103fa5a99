//! From greeting to login (RFC 4954, RFC 3207): nothing is sent by whom nobody knows.

use std::net::{IpAddr, Ipv4Addr};

use tokio::time::{Instant, timeout_at};

use super::objection::POSTPONED;
use super::{Introduction, LoggedIn, Record, ehlo};
use crate::account::Attempt;
use crate::config::Service;
use crate::failure::{Failure, FailureKind};
use crate::sasl::{Credential, Mechanism};
use crate::secret::Secret;
use crate::session::sasl_exchange::exchange;
use crate::session::{Client, Gateway, SessionEnd};
use crate::smtp::command::{AUTHENTICATION_LINE_OCTETS_MAX, Command, CommandName};
use crate::smtp::extension::{Extension, Extensions};
use crate::smtp::reply;
use crate::trace::SessionTrace;
use crate::upstream::{SubmissionClient, Upstream};

/// Logins that may be refused on one connection.
const LOGINS_MAX: u32 = 3;

/// Where the account of `[smtp.unauthenticated]` logs in from, as guesses are counted: no device guesses it,
/// and where one of them was let in, the others do not wait for each other.
const NETWORKS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What follows a login.
pub(super) struct Entry {
    pub(super) logged_in: LoggedIn,
    /// The MAIL of a client that need not log in, and when it came.
    pub(super) first: Option<(Command, Instant)>,
}

/// Where a client's commands lead before it is logged in.
enum Negotiated {
    /// It wants in; its AUTH came then.
    Credential(Credential, Instant),
    /// It sends without logging in.
    Mail(Command, Instant),
    /// It wants out.
    Quit,
}

/// Runs until a login succeeds, or QUIT: `None`. All that the client has to do until then must be done
/// within `timeouts.login`; the upstream has limits of its own.
pub(super) async fn run(
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<Option<Entry>, SessionEnd> {
    let hostname = &gateway.submission.settings.hostname;
    reply::line(
        client.lines.output(),
        format_args!("220 {hostname} ESMTP popgate"),
    );
    let login_ends = record.started + gateway.timeouts.login;
    let mut introduction = None;
    let mut refused = 0;
    while refused < LOGINS_MAX {
        let negotiation = negotiate(client, gateway, record, &mut introduction);
        let negotiated = timeout_at(login_ends, negotiation)
            .await
            .map_err(|_| SessionEnd::LoginTimeout)??;
        // What was said so far must not wait for the upstream.
        timeout_at(login_ends, client.lines.flush())
            .await
            .map_err(|_| SessionEnd::LoginTimeout)??;
        let (opened, first, started) = match negotiated {
            Negotiated::Quit => return Ok(None),
            Negotiated::Credential(credential, started) => {
                let credential = gateway.as_meant(credential);
                let address = client.address;
                let opened = log_in(credential, login_ends, address, gateway, record).await;
                (opened, None, started)
            }
            Negotiated::Mail(command, started) => {
                let opened = log_in_by_network(login_ends, gateway, record).await;
                (opened, Some((command, started)), started)
            }
        };
        if first.is_none() {
            gateway
                .metrics
                .smtp_command(CommandName::Auth, opened.is_ok(), started.elapsed());
        }
        match opened {
            Ok(mut logged_in) => {
                logged_in.introduction = introduction;
                if first.is_none() {
                    reply::say(client.lines.output(), 235, "2.7.0", "you are logged in");
                }
                return Ok(Some(Entry { logged_in, first }));
            }
            Err(failure) => {
                refused += 1;
                record.was_mail_postponed = first.is_some();
                failure.kind.smtp_reply(client.lines.output(), record.id);
                if failure.kind.closes_smtp() {
                    return Err(failure.into());
                }
                record.failed(&failure, gateway);
            }
        }
    }
    Err(SessionEnd::TooManyLogins)
}

/// One command after the other, until one of them is a login, MAIL that needs none, or QUIT.
async fn negotiate(
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
    introduction: &mut Option<Introduction>,
) -> Result<Negotiated, SessionEnd> {
    loop {
        // Who says more than it hears must not make its replies pile up.
        client.lines.relieve().await?;
        let line = client.lines.line(AUTHENTICATION_LINE_OCTETS_MAX).await?;
        let started = Instant::now();
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(mistake) => {
                record.mistaken(client, gateway, mistake)?;
                continue;
            }
        };
        record.was_data_refused = false;
        let name = command.name();
        let refused_before = record.refused;
        let negotiated = obey(command, started, client, gateway, record, introduction).await?;
        match negotiated {
            Some(Negotiated::Quit) | None => {
                let succeeded = record.refused == refused_before;
                gateway
                    .metrics
                    .smtp_command(name, succeeded, started.elapsed());
            }
            // Not answered yet.
            Some(Negotiated::Credential(..) | Negotiated::Mail(..)) => {}
        }
        if let Some(negotiated) = negotiated {
            return Ok(negotiated);
        }
    }
}

/// Obeys a command; a login is obeyed by its credential.
async fn obey(
    command: Command,
    started: Instant,
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
    introduction: &mut Option<Introduction>,
) -> Result<Option<Negotiated>, SessionEnd> {
    if matches!(
        command,
        Command::Ehlo(_) | Command::Helo(_) | Command::Mail(..) | Command::Rset
    ) {
        record.was_mail_postponed = false;
    }
    match command {
        Command::Ehlo(name) => {
            *introduction = Some(Introduction {
                name,
                is_extended: true,
            });
            let mut list = Vec::new();
            ehlo(&mut list, client, gateway, None);
            client.lines.output().append(&mut list);
        }
        Command::Helo(name) => {
            *introduction = Some(Introduction {
                name,
                is_extended: false,
            });
            let hostname = &gateway.submission.settings.hostname;
            reply::line(client.lines.output(), format_args!("250 {hostname}"));
        }
        Command::StartTls => start_tls(client, gateway, record, introduction).await?,
        Command::Auth {
            mechanism,
            initial_response,
        } => {
            let credential = auth(&mechanism, initial_response, client, gateway, record).await?;
            return Ok(credential.map(|credential| Negotiated::Credential(credential, started)));
        }
        Command::Mail(..) if needs_no_login(client, gateway) => {
            return Ok(Some(Negotiated::Mail(command, started)));
        }
        Command::Mail(..)
        | Command::Rcpt(..)
        | Command::Data
        | Command::Bdat { .. }
        | Command::Vrfy
        | Command::Help => want_login(&command, client, record)?,
        Command::Rset | Command::Noop => reply::say(client.lines.output(), 250, "2.0.0", "fine"),
        Command::Quit => {
            reply::say(client.lines.output(), 221, "2.0.0", "bye");
            return Ok(Some(Negotiated::Quit));
        }
    }
    Ok(None)
}

/// 530 (RFC 4954 §6), or what was said to a MAIL that needs no login, for what is pipelined behind it.
fn want_login(
    command: &Command,
    client: &mut Client,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    let is_postponed = record.was_mail_postponed;
    let (code, enhanced, text) = match is_postponed {
        true => POSTPONED,
        false => (530, "5.7.0", "log in first"),
    };
    match command {
        // Whatever follows it is a message, and nothing that we may take for commands.
        Command::Bdat { .. } => {
            record.refuse(client, code, enhanced, text);
            Err(SessionEnd::OutOfStep)
        }
        Command::Rcpt(..) if is_postponed => {
            record.refuse(client, code, enhanced, text);
            Ok(())
        }
        // Here it follows for those who do not wait.
        Command::Data if is_postponed => {
            record.refuse(client, code, enhanced, text);
            record.data_refused(client)
        }
        _ => record.misplaced(client, code, enhanced, text),
    }
}

/// STARTTLS (RFC 3207 §4): what was said before TLS is forgotten.
async fn start_tls(
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
    introduction: &mut Option<Introduction>,
) -> Result<(), SessionEnd> {
    match &gateway.submission.tls {
        None => record.misplaced(client, 502, "5.5.1", "there is no certificate for TLS"),
        Some(_) if client.secure => {
            record.misplaced(client, 503, "5.5.1", "TLS protects this connection already")
        }
        Some(acceptor) => {
            reply::say(client.lines.output(), 220, "2.0.0", "begin TLS");
            *introduction = None;
            let trace = record.trace.as_ref();
            client.start_tls(acceptor, &gateway.timeouts, trace).await
        }
    }
}

/// What of [`Mechanism`] can come to a good end, as far as upstreams have told: passwords where one of them
/// takes any, since no other login could lead there; tokens where all of them do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logins {
    passwords: bool,
    tokens: bool,
    is_known: bool,
}

impl Logins {
    pub(super) fn of(gateway: &Gateway) -> Self {
        let offer = gateway.submission_offer();
        let mut told = gateway.submission_extensions();
        let has_either = |known: Extensions, one, other| known.has(one) || known.has(other);
        Self {
            passwords: told.any(|told| {
                told.is_none_or(|known| {
                    has_either(known, Extension::AuthPlain, Extension::AuthLogin)
                })
            }),
            tokens: has_either(offer, Extension::AuthXoauth2, Extension::AuthOauthBearer),
            is_known: gateway.has_submission_offer(),
        }
    }

    /// As EHLO lists them.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let passwords = [Mechanism::Plain, Mechanism::Login];
        let tokens = [Mechanism::Xoauth2, Mechanism::OauthBearer];
        let passwords = passwords.into_iter().filter(move |_| self.passwords);
        let tokens = tokens.into_iter().filter(move |_| self.tokens);
        passwords.chain(tokens).map(Mechanism::name)
    }

    /// What no upstream takes is refused by name where we know, and by the upstream where not.
    fn take(self, mechanism: Mechanism) -> bool {
        match mechanism {
            Mechanism::Plain | Mechanism::Login => self.passwords,
            Mechanism::Xoauth2 | Mechanism::OauthBearer => self.tokens || !self.is_known,
        }
    }
}

/// AUTH (RFC 4954 §4)
async fn auth(
    mechanism: &[u8],
    initial_response: Option<Secret>,
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<Option<Credential>, SessionEnd> {
    if !gateway.permits_login(client) {
        let text = "no login in clear text: use STARTTLS, or the port with TLS";
        record.misplaced(client, 538, "5.7.11", text)?;
        return Ok(None);
    }
    let logins = Logins::of(gateway);
    let mechanism = Mechanism::parse(mechanism).filter(|mechanism| logins.take(*mechanism));
    let Some(mechanism) = mechanism else {
        record.misplaced(
            client,
            504,
            "5.5.4",
            "no such mechanism here; EHLO lists them",
        )?;
        return Ok(None);
    };
    let credential = exchange(mechanism, initial_response, client, reply::continuation).await?;
    if credential.is_none() {
        let text = "that AUTH exchange was cancelled or malformed";
        record.misplaced(client, 501, "5.5.2", text)?;
    }
    Ok(credential)
}

/// One attempt at the upstream for one attempt of a client at this address; also where the credential is not the
/// client's own, since an upstream that gets an old one again and again locks the account.
async fn log_in(
    credential: Credential,
    login_ends: Instant,
    address: IpAddr,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<LoggedIn, Failure> {
    record.login = Some(credential.login().escape_ascii().to_string());
    if let Some(trace) = &record.trace {
        trace.identify(&credential);
    }
    let upstream = gateway.accounts.upstream(credential.login())?.clone();
    let name = upstream.settings().name.clone();
    record.upstream = Some(name.clone());
    let attempt = gateway
        .attempt(
            &upstream,
            Service::Submission,
            &credential,
            address,
            login_ends,
        )
        .await?;
    let open = gateway.metrics.upstream_connection(&name, "in_use");
    let hostname = &gateway.submission.settings.hostname;
    let trace = record.trace.as_ref();
    let connecting = connect(&upstream, &credential, hostname, Some(attempt), trace);
    let connected = timeout_at(login_ends, connecting)
        .await
        .unwrap_or_else(|_| {
            let cause = "the upstream did not finish the login within timeouts.login";
            Err(FailureKind::UpstreamUnreachable.because(cause))
        });
    let refused = connected.as_ref().err().map(|failure| failure.kind);
    gateway.metrics.auth_attempt(&name, refused);
    let connection = connected?;
    // Only who has proved to be somebody may take somebody's place.
    let owner = credential.mailbox_owner();
    let permit = gateway.accounts.connection(&upstream, owner)?;
    Ok(LoggedIn {
        upstream,
        credential,
        is_refused: false,
        by_auth: true,
        is_stale: false,
        extensions: connection.extensions(),
        connection: Some(connection),
        introduction: None,
        trace: record.trace.clone(),
        _permit: Box::new(permit),
        _open: open,
    })
}

/// With the account that the config has for its network; what is wrong with that is not the client's
/// mistake.
async fn log_in_by_network(
    login_ends: Instant,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<LoggedIn, Failure> {
    let unauthenticated = gateway.submission.settings.unauthenticated.as_ref();
    let account = unauthenticated
        .ok_or_else(|| FailureKind::Misconfigured.because("there is no [smtp.unauthenticated]"))?;
    // Not from the moment of connecting: nobody has to prove anything.
    let login_ends = login_ends.max(Instant::now() + 2 * gateway.timeouts.upstream);
    let credential = account.credential.clone();
    match log_in(credential, login_ends, NETWORKS, gateway, record).await {
        Ok(logged_in) => Ok(LoggedIn {
            by_auth: false,
            ..logged_in
        }),
        Err(failure) if failure.kind == FailureKind::AuthRejected => {
            let cause = format!("the account of [smtp.unauthenticated]: {}", failure.cause);
            Err(FailureKind::Misconfigured.because(cause))
        }
        Err(failure) => Err(failure),
    }
}

/// A connection that is logged in; of the `attempt`, what became of it is told, and that it counts if
/// nobody waits for that.
pub(super) async fn connect(
    upstream: &std::sync::Arc<Upstream>,
    credential: &Credential,
    hostname: &str,
    mut attempt: Option<Attempt<'_>>,
    trace: Option<&SessionTrace>,
) -> Result<SubmissionClient, Failure> {
    let mut connection = upstream.connect_submission(hostname).await?;
    if let Some(trace) = trace {
        connection.tap(trace.upstream_leg());
    }
    if let Some(attempt) = &mut attempt {
        attempt.ask();
    }
    let authenticated = connection.authenticate(credential).await;
    if let Some(mut attempt) = attempt {
        if !connection.has_shown_credential() {
            attempt.take_back();
        }
        attempt.conclude(authenticated.as_ref().err().map(|failure| failure.kind));
    }
    authenticated?;
    if let Some(trace) = trace {
        trace.accepted();
    }
    Ok(connection)
}

fn needs_no_login(client: &Client, gateway: &Gateway) -> bool {
    let unauthenticated = gateway.submission.settings.unauthenticated.as_ref();
    unauthenticated.is_some_and(|permitted| client.comes_from(&permitted.networks))
}
