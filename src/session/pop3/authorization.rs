//! The AUTHORIZATION state (RFC 1939 §4, RFC 5034, RFC 2595): from greeting to an open maildrop.

use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{LoggedIn, Record, capa, mechanisms};
use crate::account::MailboxKey;
use crate::config::Sessions;
use crate::failure::{Failure, FailureKind};
use crate::imap::capability::Capability;
use crate::imap::command::ListingIdentity;
use crate::imap::fetch::Fetch;
use crate::maildrop::{
    FetchWindow, Identities, ListingBuilder, Maildrop, UniqueIdFormat, UniqueIds,
};
use crate::pop3::command::{AUTHORIZATION_LINE_OCTETS_MAX, Command, CommandName};
use crate::pop3::reply;
use crate::sasl::{self, Credential, Mechanism};
use crate::secret::Secret;
use crate::session::sasl_exchange::exchange;
use crate::session::{Client, Gateway, Offer, SessionEnd};
use crate::upstream::{ImapClient, Selected, Upstream};

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
) -> Result<Option<LoggedIn>, SessionEnd> {
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
        record.login = Some(credential.login().escape_ascii().to_string());
        // What was said so far must not wait for the upstream.
        client.lines.flush().await?;
        let opened = open_maildrop(credential, progress.utf8, login_ends, gateway, record).await;
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
            client.start_tls(acceptor, &gateway.timeouts).await
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

/// One attempt at the upstream for one attempt of the client.
async fn open_maildrop(
    credential: Credential,
    utf8: bool,
    login_ends: Instant,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<LoggedIn, Failure> {
    let upstream = gateway.accounts.upstream(credential.login())?;
    let name = upstream.settings().name.clone();
    record.upstream = Some(name.clone());
    let settings = upstream.settings().maildrop.clone();
    let open = gateway.metrics.upstream_connection(&name);
    let authenticated = timeout_at(login_ends, authenticate(upstream, &credential))
        .await
        .unwrap_or_else(|_| {
            let cause = "the upstream did not finish the login within timeouts.login";
            Err(FailureKind::UpstreamUnreachable.because(cause))
        });
    let refused = authenticated.as_ref().err().map(|failure| failure.kind);
    gateway.metrics.auth_attempt(&name, refused);
    let mut imap = authenticated?;
    // Only who has proved to be somebody may take somebody's place.
    let key = MailboxKey {
        upstream: name,
        owner: credential.mailbox_owner().to_vec(),
        folder: settings.folder.clone(),
    };
    let mut permits: Vec<Box<dyn Send + Sync>> = Vec::with_capacity(2);
    permits.push(Box::new(
        gateway
            .accounts
            .connection(upstream, credential.mailbox_owner())?,
    ));
    if settings.sessions == Sessions::Exclusive {
        permits.push(Box::new(gateway.accounts.maildrop(key.clone())?));
    }
    if utf8 {
        imap.enable_utf8().await?;
    }
    let selected = imap.select(&imap.mailbox(&settings.folder)).await?;
    let maildrop = list(&mut imap, &selected, settings.unique_id, gateway, &key).await?;
    debug!(
        session = %record.id,
        login = record.login.as_deref().unwrap_or_default(),
        upstream = %key.upstream,
        messages = maildrop.numbers(),
        "logged in"
    );
    Ok(LoggedIn {
        imap,
        selected,
        maildrop,
        window: FetchWindow::new(match upstream.settings().quirks.one_command_at_a_time {
            true => 0,
            false => gateway.read_ahead_octets,
        }),
        key,
        settings,
        _permits: permits,
        _open: open,
    })
}

async fn authenticate(
    upstream: &std::sync::Arc<Upstream>,
    credential: &Credential,
) -> Result<ImapClient, Failure> {
    let mut imap = upstream.connect().await?;
    imap.authenticate(credential).await?;
    Ok(imap)
}

/// The snapshot that this session will see: what is there, less what others marked `\Deleted` and
/// what POP3 shows no more.
async fn list(
    imap: &mut ImapClient,
    selected: &Selected,
    format: UniqueIdFormat,
    gateway: &Gateway,
    key: &MailboxKey,
) -> Result<Maildrop, Failure> {
    let identity = identity_for(format, imap)?;
    let mut builder = ListingBuilder::default();
    let mut identities = Identities::new();
    imap.list_messages(selected, identity, |fetch| {
        let Some(uid) = fetch.uid else {
            return; // Flags that somebody changed just now, by sequence number.
        };
        let hidden = fetch.flags.map(|flags| flags.deleted || flags.hidden);
        builder.add(uid, fetch.octets, hidden);
        if let Some(name) = upstream_name(format, fetch) {
            identities.insert(uid, name);
        }
    })
    .await?;
    let remembered = gateway.memory.remembered(key, selected.validity);
    let listing = builder.build(&remembered.octets, &remembered.hidden, &remembered.shown);
    let unique_ids = match identity {
        ListingIdentity::Uid => UniqueIds::from_uids(format, selected.validity),
        ListingIdentity::GmailMessageId | ListingIdentity::EmailId => {
            UniqueIds::from_names(format, selected.validity, &listing, identities)
        }
    };
    Ok(Maildrop::new(listing, unique_ids))
}

/// To give other unique-ids than the configured ones would make every client fetch everything again.
fn identity_for(format: UniqueIdFormat, imap: &ImapClient) -> Result<ListingIdentity, Failure> {
    let needs = |capability, identity, name: &str| match imap.has(capability) {
        true => Ok(identity),
        false => Err(FailureKind::Misconfigured.because(format!(
            "maildrop.unique_id needs {name}, which the upstream does not have"
        ))),
    };
    match format {
        UniqueIdFormat::Gmail => needs(
            Capability::GmailExtensions,
            ListingIdentity::GmailMessageId,
            "X-GM-EXT-1",
        ),
        UniqueIdFormat::EmailId => {
            needs(Capability::ObjectId, ListingIdentity::EmailId, "OBJECTID")
        }
        UniqueIdFormat::Dovecot
        | UniqueIdFormat::Uid
        | UniqueIdFormat::Cyrus
        | UniqueIdFormat::Courier
        | UniqueIdFormat::Uw => Ok(ListingIdentity::Uid),
    }
}

fn upstream_name(format: UniqueIdFormat, fetch: Fetch) -> Option<String> {
    match format {
        UniqueIdFormat::Gmail => fetch.gmail_message_id.map(|id| format!("GmailId{id:x}")),
        _ => fetch.email_id,
    }
}
