//! A login at the upstream: one attempt for one attempt of the client, up to an open maildrop.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::opening::{self, Known, Opened};
use super::{LoggedIn, Record};
use crate::account::{Attempt, MailboxKey};
use crate::config::{ClientWorkaround, MaildropSettings, Sessions};
use crate::failure::{Failure, FailureKind};
use crate::imap::command::ListingIdentity;
use crate::imap::ids::UidValidity;
use crate::maildrop::snapshot::Remembered;
use crate::maildrop::{FetchWindow, Listing, Maildrop, Snapshot, UniqueIds};
use crate::sasl::Credential;
use crate::session::Gateway;
use crate::trace::SessionTrace;
use crate::upstream::{ImapClient, Upstream};

/// Logs in, and opens the maildrop.
///
/// # Errors
/// `AuthRejected` only when the upstream said that the credential is wrong.
pub(super) async fn run(
    credential: Credential,
    utf8: bool,
    login_ends: Instant,
    address: IpAddr,
    gateway: &Gateway,
    record: &mut Record,
) -> Result<Box<LoggedIn>, Failure> {
    let upstream = gateway.accounts.upstream(credential.login())?;
    let name = upstream.settings().name.clone();
    record.upstream = Some(name.clone());
    let settings = upstream.settings().maildrop.clone();
    let key = MailboxKey {
        upstream: name.clone(),
        endpoint: upstream.settings().imap.address(),
        owner: credential.mailbox_owner().to_vec(),
        folder: settings.folder.clone(),
    };
    gateway.accounts.check_delay(upstream, &credential)?;
    let attempt = gateway.attempt(upstream, &credential, address).await?;
    let known = match gateway.listings.known(&key) {
        Some(known) if !utf8 => Known::Snapshot(known),
        // With UTF8 a message may be another one than without, and so may its size.
        Some(known) if !known.is_whole() => Known::TooLarge,
        Some(_) | None => Known::Nothing,
    };
    let open = gateway.metrics.upstream_connection(&name, "in_use");
    let trace = record.trace.clone();
    let trace = trace.as_ref();
    let authentication = authenticate(upstream, &credential, utf8, &settings, &known, trace);
    let mut imap = in_time(authentication, login_ends, Some(attempt), gateway, &name).await?;
    // Only who has proved to be somebody may take somebody's place.
    let permits = permits(upstream, &credential, &settings, &key, gateway)?;
    let remembered = |validity| gateway.memory.remembered(&key, validity);
    let was_known = matches!(&known, Known::Snapshot(known) if known.is_whole());
    let mut opened = open_folder(&mut imap, utf8, &settings, known, remembered).await;
    if matches!(&opened, Err(failure) if failure.kind == FailureKind::UpstreamGarbled) {
        // The short questions may have had an answer too long for us; the long one comes in short lines.
        gateway.listings.forget(&key);
    }
    if let Err(failure) = &opened
        && let Some(known) = another_way(&imap, failure, was_known)
    {
        // The credential was accepted, so that this is no second guess. It happens once.
        drop(imap);
        let authentication = authenticate(upstream, &credential, utf8, &settings, &known, trace);
        let authentication = async { authentication.await.map_err(although_accepted) };
        imap = in_time(authentication, login_ends, None, gateway, &name).await?;
        opened = open_folder(&mut imap, utf8, &settings, known, remembered).await;
    }
    let Opened {
        selected,
        snapshot,
        shown,
        cache,
    } = opened?;
    gateway.metrics.listing_cache(cache);
    record.older = snapshot.older(&shown, settings.newest_messages);
    let mut maildrop = maildrop(&snapshot, shown.clone(), &settings);
    if gateway.works_around(ClientWorkaround::EudoraStatus)
        && let Some((first, _)) = shown.message(0)
    {
        let seen = opening::seen(&mut imap, &snapshot.listing, first).await?;
        maildrop = maildrop.with_status_header(seen);
    }
    gateway.accounts.note_login(upstream, &credential);
    note(snapshot, imap.is_utf8(), gateway, &key);
    // What the listing came through is not needed by a client that will only wait.
    imap.rest();
    debug!(
        session = %record.id,
        login = record.login.as_deref().unwrap_or_default(),
        upstream = %key.upstream,
        messages = maildrop.numbers(),
        older_not_shown = record.older,
        "logged in"
    );
    Ok(Box::new(LoggedIn {
        imap,
        selected,
        maildrop,
        window: FetchWindow::new(match upstream.takes_flights() {
            true => gateway.read_ahead_octets,
            false => 0,
        }),
        key,
        settings,
        _permits: permits,
        _open: open,
    }))
}

/// What becomes of an authentication within `timeouts.login`.
async fn in_time(
    authentication: impl Future<Output = Result<ImapClient, Failure>>,
    login_ends: Instant,
    attempt: Option<Attempt<'_>>,
    gateway: &Gateway,
    upstream: &str,
) -> Result<ImapClient, Failure> {
    let authenticated = timeout_at(login_ends, authentication)
        .await
        .unwrap_or_else(|_| {
            let cause = "the upstream did not finish the login within timeouts.login";
            Err(FailureKind::UpstreamUnreachable.because(cause))
        });
    let refused = authenticated.as_ref().err().map(|failure| failure.kind);
    gateway.metrics.auth_attempt(upstream, refused);
    if let Some(attempt) = attempt {
        attempt.conclude(refused);
    }
    authenticated
}

/// SELECT and what it holds. Some proxies lose what comes together with a login, and then wait for ever.
async fn open_folder(
    imap: &mut ImapClient,
    utf8: bool,
    settings: &MaildropSettings,
    known: Known,
    remembered: impl FnOnce(UidValidity) -> Remembered,
) -> Result<Opened, Failure> {
    let opened = async {
        if utf8 {
            imap.enable_utf8().await?;
        }
        opening::open(imap, settings, known, remembered).await
    };
    let opened = opened.await;
    if let Err(failure) = &opened {
        imap.distrust_flights(failure);
    }
    opened
}

/// Whether all that was wrong is what went out together with the login, or what was asked because something
/// was known; then the same may go well on another connection, beginning with what is known now.
fn another_way(imap: &ImapClient, failure: &Failure, was_known: bool) -> Option<Known> {
    if failure.kind == FailureKind::UpstreamRefused && imap.has_asked_too_much() {
        return Some(Known::TooLarge);
    }
    let asked_shortly = was_known && failure.kind == FailureKind::UpstreamGarbled;
    (asked_shortly || lost_its_flight(imap, failure)).then_some(Known::Nothing)
}

/// Whether all that was wrong is that several commands went out together. An upstream that is silent has
/// taken its time already, and so has the client.
fn lost_its_flight(imap: &ImapClient, failure: &Failure) -> bool {
    failure.kind == FailureKind::UpstreamGarbled && imap.has_lost_its_flight()
}

/// What was accepted a moment ago is right, so that the user is not asked for another password.
fn although_accepted(failure: Failure) -> Failure {
    match failure.kind {
        FailureKind::AuthRejected => FailureKind::AuthUnavailable.because(failure.cause),
        _ => failure,
    }
}

/// Leave to have this connection, and where it must be, to have the maildrop alone.
fn permits(
    upstream: &Arc<Upstream>,
    credential: &Credential,
    settings: &MaildropSettings,
    key: &MailboxKey,
    gateway: &Gateway,
) -> Result<Vec<Box<dyn Send + Sync>>, Failure> {
    let accounts = &gateway.accounts;
    let connection = accounts.connection(upstream, credential.mailbox_owner())?;
    let mut permits: Vec<Box<dyn Send + Sync>> = vec![Box::new(connection)];
    if settings.sessions == Sessions::Exclusive {
        permits.push(Box::new(accounts.maildrop(key.clone())?));
    }
    Ok(permits)
}

/// Everything that is known to follow the login goes out with it.
async fn authenticate(
    upstream: &Arc<Upstream>,
    credential: &Credential,
    utf8: bool,
    settings: &MaildropSettings,
    known: &Known,
    trace: Option<&SessionTrace>,
) -> Result<ImapClient, Failure> {
    let mut imap = upstream.connect().await?;
    let mut was_accepted = false;
    loop {
        if let Some(trace) = trace {
            imap.tap(trace.upstream_leg());
        }
        imap.anticipate_login(utf8, |capabilities, utf8| {
            opening::commands(capabilities, utf8, settings, known)
        });
        match imap.authenticate(credential).await {
            Ok(()) => return Ok(imap),
            // It was closed while it waited. The upstream has not judged anything, so that this is
            // no second attempt.
            Err(failure) if failure.kind == FailureKind::UpstreamLost && imap.is_untried() => {
                imap = upstream.connect_anew().await?;
            }
            // The upstream has accepted the credential, once.
            Err(failure) if !was_accepted && lost_its_flight(&imap, &failure) => {
                was_accepted = true;
                drop(imap);
                imap = upstream.connect_anew().await?;
            }
            Err(failure) if was_accepted => return Err(although_accepted(failure)),
            Err(failure) => return Err(failure),
        }
    }
}

/// For the next login. Of UTF8 only that there are too many messages, if there are and it is news.
fn note(snapshot: Snapshot, utf8: bool, gateway: &Gateway, key: &MailboxKey) {
    let listings = &gateway.listings;
    if !utf8 {
        listings.note(key, snapshot);
    } else if !snapshot.is_whole() && listings.known(key).is_none_or(|known| known.is_whole()) {
        listings.note(key, snapshot.emptied());
    }
}

/// The maildrop that this session will see: what is there, less what others marked `\Deleted`, what POP3
/// shows no more, and what is older than the newest that it is to show.
fn maildrop(snapshot: &Snapshot, listing: Arc<Listing>, settings: &MaildropSettings) -> Maildrop {
    let validity = snapshot.validity;
    let unique_ids = match snapshot.identity {
        ListingIdentity::Uid => UniqueIds::from_uids(settings.unique_id, validity),
        ListingIdentity::GmailMessageId | ListingIdentity::EmailId => {
            // Which of two copies bears their name must not depend on how much is shown.
            UniqueIds::from_names(settings.unique_id, validity, &snapshot.listing)
        }
    };
    Maildrop::new(listing, unique_ids)
}
