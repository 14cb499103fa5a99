//! The AUTHORIZATION state (RFC 1939 §4, RFC 5034, RFC 2595): from greeting to an open maildrop.

use tokio::time::{Instant, timeout_at};

use super::{LoggedIn, Record, capa, login, mechanisms};
use crate::pop3::command::{AUTHORIZATION_LINE_OCTETS_MAX, Command, CommandName};
use crate::pop3::reply;
use crate::sasl::{self, Credential, Mechanism};
use crate::secret::Secret;
use crate::session::sasl_exchange::exchange;
use crate::session::{Client, Gateway, Offer, SessionEnd};

/// Logins that may be refused on one connection.
const LOGINS_MAX: u32 = 3;

const CLEARTEXT_REFUSED: &str = "no login in clear text: use STLS, or the port with TLS";

/// What has been said so far.
struct Progress {
    user: Option<Vec<u8>>,
    utf8: bool,
    offer: Offer,
}

/// Where a client's commands lead before it is logged in.
enum Negotiated {
    /// It wants in; by the command of this name, which came then.
    Credential(Credential, CommandName, Instant),
    /// It wants out.
    Quit,
}

/// Runs until a login succeeds, or QUIT: `None`. All that the client has to do until then must be done
/// by `login_ends`; the upstream has limits of its own.
pub(super) async fn run(
    client: &mut Client,
    gateway: &Gateway,
    offer: Offer,
    record: &mut Record,
) -> Result<Option<Box<LoggedIn>>, SessionEnd> {
    // No `<…@…>` in it, since clients would take that for an offer of APOP.
    reply::ok(client.lines.output(), "popgate ready");
    let login_ends = record.started + gateway.timeouts.login;
    let mut progress = Progress {
        user: None,
        utf8: false,
        offer,
    };
    for _ in 0..LOGINS_MAX {
        let negotiation = negotiate(client, gateway, record, &mut progress);
        let negotiated = timeout_at(login_ends, negotiation)
            .await
            .map_err(|_| SessionEnd::LoginTimeout)??;
        let Negotiated::Credential(credential, command, started) = negotiated else {
            return Ok(None);
        };
        let credential = gateway.as_meant(credential);
        record.login = Some(credential.login().escape_ascii().to_string());
        if let Some(trace) = &record.trace {
            trace.identify(&credential);
        }
        // What was said so far must not wait for the upstream.
        timeout_at(login_ends, client.lines.flush())
            .await
            .map_err(|_| SessionEnd::LoginTimeout)??;
        let (utf8, address) = (progress.utf8, client.address);
        let opened = login::run(credential, utf8, login_ends, address, gateway, record).await;
        gateway
            .metrics
            .pop3_command(command, opened.is_ok(), started.elapsed());
        let out = client.lines.output();
        match opened {
            Ok(logged_in) => {
                let stat = logged_in.maildrop.drop_listing();
                record.messages = stat.messages;
                let (messages, octets) = (stat.messages, stat.octets);
                reply::ok(out, format_args!("{messages} messages, {octets} octets"));
                return Ok(Some(logged_in));
            }
            Err(failure) => {
                failure.kind.reply(out, record.id);
                record.failed(&failure, gateway);
            }
        }
    }
    Err(SessionEnd::TooManyLogins)
}

/// One command after the other, until one of them is a login or QUIT.
async fn negotiate(
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
    progress: &mut Progress,
) -> Result<Negotiated, SessionEnd> {
    loop {
        // Who says more than it hears must not make its replies pile up.
        client.lines.relieve().await?;
        let line = client.lines.line(AUTHORIZATION_LINE_OCTETS_MAX).await?;
        let started = Instant::now();
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(mistake) => {
                record.mistaken(client, gateway, mistake)?;
                continue;
            }
        };
        let name = command.name();
        if command == Command::Quit {
            reply::ok(client.lines.output(), "bye");
            gateway.metrics.pop3_command(name, true, started.elapsed());
            return Ok(Negotiated::Quit);
        }
        let refused_before = record.refused;
        if let Some(credential) = obey(command, client, gateway, record, progress).await? {
            return Ok(Negotiated::Credential(credential, name, started));
        }
        let succeeded = record.refused == refused_before;
        gateway
            .metrics
            .pop3_command(name, succeeded, started.elapsed());
    }
}

/// Obeys a command; a login is obeyed by its credential.
async fn obey(
    command: Command,
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
    progress: &mut Progress,
) -> Result<Option<Credential>, SessionEnd> {
    let may_log_in = gateway.permits_login(client);
    let has_stls = gateway.tls.is_some() && !client.secure;
    match command {
        Command::Capa => capa(client.lines.output(), may_log_in, has_stls, progress.offer),
        Command::AuthList => {
            let out = client.lines.output();
            reply::ok(out, "mechanisms follow");
            let offered = match may_log_in {
                true => mechanisms(progress.offer),
                false => &[],
            };
            for mechanism in offered {
                reply::line(out, mechanism);
            }
            reply::terminator(out);
        }
        Command::Stls => stls(client, gateway, record, progress).await?,
        Command::Utf8 if progress.offer.utf8 => {
            progress.utf8 = true;
            reply::ok(client.lines.output(), "UTF-8 it is");
        }
        Command::Utf8 => record.misplaced(client, "the mail server has no UTF-8 support")?,
        Command::User(_) | Command::Pass(_) | Command::Auth { .. } if !may_log_in => {
            record.misplaced(client, CLEARTEXT_REFUSED)?;
        }
        Command::User(name) => {
            progress.user = Some(name);
            reply::ok(client.lines.output(), "and the password?");
        }
        Command::Pass(password) => match progress.user.take() {
            None => record.misplaced(client, "USER first")?,
            Some(user) => match Credential::password(&user, password) {
                Ok(credential) => return Ok(Some(credential)),
                Err(sasl::Malformed) => {
                    record.misplaced(client, "no login and password can look like this")?;
                }
            },
        },
        Command::Auth {
            mechanism,
            initial_response,
        } => return auth(&mechanism, initial_response, client, record, progress.offer).await,
        Command::Noop
        | Command::Stat
        | Command::List(_)
        | Command::Retr(_)
        | Command::Dele(_)
        | Command::Rset
        | Command::Top { .. }
        | Command::Uidl(_)
        | Command::Last
        | Command::Quit => {
            record.misplaced(client, "log in first")?;
        }
    }
    Ok(None)
}

/// STLS (RFC 2595 §4): what was said before TLS is forgotten.
async fn stls(
    client: &mut Client,
    gateway: &Gateway,
    record: &mut Record,
    progress: &mut Progress,
) -> Result<(), SessionEnd> {
    match &gateway.tls {
        None => record.misplaced(client, "there is no certificate for TLS"),
        Some(_) if client.secure => {
            record.misplaced(client, "TLS protects this connection already")
        }
        Some(acceptor) => {
            reply::ok(client.lines.output(), "begin TLS");
            progress.user = None;
            progress.utf8 = false;
            let trace = record.trace.as_ref();
            client.start_tls(acceptor, &gateway.timeouts, trace).await
        }
    }
}

/// AUTH with a mechanism (RFC 5034 §4)
async fn auth(
    mechanism: &[u8],
    initial_response: Option<Secret>,
    client: &mut Client,
    record: &mut Record,
    offer: Offer,
) -> Result<Option<Credential>, SessionEnd> {
    // What no upstream has said yet is not listed, but it may well be there.
    let is_taken = |mechanism: &Mechanism| match mechanism {
        Mechanism::Plain | Mechanism::Login => true,
        Mechanism::Xoauth2 | Mechanism::OauthBearer => offer.tokens != Some(false),
    };
    let Some(mechanism) = Mechanism::parse(mechanism).filter(is_taken) else {
        record.misplaced(client, "no such mechanism here; AUTH alone lists them")?;
        return Ok(None);
    };
    let credential = exchange(mechanism, initial_response, client, reply::continuation).await?;
    if credential.is_none() {
        record.misplaced(client, "that AUTH exchange was cancelled or malformed")?;
    }
    Ok(credential)
}
