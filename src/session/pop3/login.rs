//! A login at the upstream: one attempt for one attempt of the client, up to an open maildrop.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::opening::{self, Known, Opened};
use super::{LoggedIn, Permits, Record};
use crate::account::{Attempt, MailboxKey};
use crate::config::{ClientWorkaround, MaildropSettings, Service, Sessions};
use crate::failure::{Failure, FailureKind};
use crate::imap::command::ListingIdentity;
use crate::maildrop::{FetchWindow, Maildrop, Snapshot, UniqueIds};
use crate::sasl::Credential;
use crate::session::Gateway;
use crate::trace::SessionTrace;
use crate::upstream::{ImapClient, Upstream};

/// A login that has leave to ask its upstream.
struct Login<'a> {
    gateway: &'a Gateway,
    upstream: &'a Arc<Upstream>,
    credential: &'a Credential,
    /// Whether the client has said UTF8.
    utf8: bool,
    /// When `timeouts.login` has passed.
    ends: Instant,
    settings: &'a MaildropSettings,
    key: Arc<MailboxKey>,
    trace: Option<SessionTrace>,
}

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
    let name = &upstream.settings().name;
    record.upstream = Some(name.clone());
    gateway.accounts.check_delay(upstream, &credential)?;
    let attempt = gateway
        .attempt(upstream, Service::Imap, &credential, address, login_ends)
        .await?;
    let open = gateway.metrics.upstream_connection(name, "in_use");
    let settings = &upstream.settings().maildrop;
    let login = Login {
        gateway,
        upstream,
        credential: &credential,
        utf8,
        ends: login_ends,
        settings,
        key: Arc::new(MailboxKey {
            upstream: name.clone(),
            endpoint: upstream.settings().imap.address(),
            owner: credential.mailbox_owner().into(),
            folder: settings.folder.clone(),
        }),
        trace: record.trace.clone(),
    };
    let known = login.known();
    let imap = login.authenticate(&known, Some(attempt)).await?;
    // Only who has proved to be somebody may take somebody's place.
    let permits = login.permits()?;
    let (mut imap, opened) = login.open(imap, known).await?;
    gateway.metrics.listing_cache(opened.cache);
    record.older = opened
        .snapshot
        .older(&opened.shown, settings.newest_messages);
    let maildrop = login.maildrop(&mut imap, &opened).await?;
    login.note(opened.snapshot, imap.is_utf8());
    // What the listing came through is not needed by a client that will only wait.
    imap.rest();
    debug!(
        session = %record.id,
        login = record.login.as_deref().unwrap_or_default(),
        upstream = %name,
        messages = maildrop.numbers(),
        older_not_shown = record.older,
        "logged in"
    );
    Ok(Box::new(LoggedIn {
        imap,
        selected: opened.selected,
        maildrop,
        window: FetchWindow::new(match upstream.takes_flights() {
            true => gateway.read_ahead_octets,
            false => 0,
        }),
        key: login.key,
        _permits: permits,
        _open: open,
    }))
}

impl Login<'_> {
    /// What the mailbox held when somebody last looked.
    fn known(&self) -> Known {
        match self.gateway.listings.known(&self.key) {
            Some(known) if !self.utf8 => Known::Snapshot(known),
            // With UTF8 a message may be another one than without, and so may its size.
            Some(known) if !known.is_whole() => Known::TooLarge,
            Some(_) | None => Known::Nothing,
        }
    }

    /// What becomes of an authentication within `timeouts.login`.
    async fn authenticate(
        &self,
        known: &Known,
        attempt: Option<Attempt<'_>>,
    ) -> Result<ImapClient, Failure> {
        let authenticated = timeout_at(self.ends, self.connect(known, attempt))
            .await
            .unwrap_or_else(|_| {
                let cause = "the upstream did not finish the login within timeouts.login";
                Err(FailureKind::UpstreamUnreachable.because(cause))
            });
        let refused = authenticated.as_ref().err().map(|failure| failure.kind);
        let name = &self.key.upstream;
        self.gateway.metrics.auth_attempt(name, refused);
        authenticated
    }

    /// A connection that is logged in; of the `attempt`, what became of it is told, and that it counts if
    /// nobody waits for that. Everything that is known to follow the login goes out with it.
    async fn connect(
        &self,
        known: &Known,
        mut attempt: Option<Attempt<'_>>,
    ) -> Result<ImapClient, Failure> {
        let mut imap = self.upstream.connect().await?;
        // Who needs no leave to ask has been let in before.
        let mut was_accepted = attempt.is_none();
        loop {
            if let Some(trace) = &self.trace {
                imap.tap(trace.upstream_leg());
            }
            imap.anticipate_login(self.utf8, |capabilities, utf8| {
                opening::commands(capabilities, utf8, self.settings, known)
            });
            if let Some(attempt) = &mut attempt {
                attempt.ask();
            }
            let authenticated = imap.authenticate(self.credential).await;
            let authenticated = authenticated.map_err(|failure| match was_accepted {
                true => although_accepted(failure),
                false => failure,
            });
            match &authenticated {
                // It was closed while it waited. The upstream has not judged anything, so that this is
                // no second attempt.
                Err(failure) if failure.kind == FailureKind::UpstreamLost && imap.is_untried() => {
                    if let Some(attempt) = &mut attempt {
                        attempt.take_back();
                    }
                    imap = self.upstream.connect_anew().await?;
                }
                Err(failure) if lost_its_flight(&imap, failure) => {
                    was_accepted = true;
                    drop(imap);
                    imap = self.upstream.connect_anew().await?;
                }
                Ok(()) | Err(_) => {
                    if let Some(mut attempt) = attempt {
                        if !imap.has_shown_credential() {
                            attempt.take_back();
                        }
                        attempt.conclude(authenticated.as_ref().err().map(|failure| failure.kind));
                    }
                    authenticated?;
                    if let Some(trace) = &self.trace {
                        trace.accepted();
                    }
                    return Ok(imap);
                }
            }
        }
    }

    /// Leave to have this connection, and where it must be, to have the maildrop alone.
    fn permits(&self) -> Result<Permits, Failure> {
        let accounts = &self.gateway.accounts;
        let connection = accounts.connection(self.upstream, self.key.owner.clone())?;
        let maildrop = match self.settings.sessions {
            Sessions::Exclusive => Some(accounts.maildrop(&self.key)?),
            Sessions::Shared => None,
        };
        Ok(Permits {
            _connection: connection,
            _maildrop: maildrop,
        })
    }

    /// The folder and what it holds; where that may help, once more on another connection.
    async fn open(
        &self,
        mut imap: ImapClient,
        known: Known,
    ) -> Result<(ImapClient, Opened), Failure> {
        let was_known = matches!(&known, Known::Snapshot(known) if known.is_whole());
        let mut opened = self.open_folder(&mut imap, known).await;
        if matches!(&opened, Err(failure) if failure.kind == FailureKind::UpstreamGarbled) {
            // The short questions may have had an answer too long for us; the long one comes in short
            // lines.
            self.gateway.listings.forget(&self.key);
        }
        if let Err(failure) = &opened
            && let Some(known) = another_way(&imap, failure, was_known)
        {
            // The credential was accepted, so that this is no second guess. It happens once.
            drop(imap);
            imap = self.authenticate(&known, None).await?;
            opened = self.open_folder(&mut imap, known).await;
        }
        Ok((imap, opened?))
    }

    /// SELECT and what it holds. Some proxies lose what comes together with a login, and then wait for
    /// ever.
    async fn open_folder(&self, imap: &mut ImapClient, known: Known) -> Result<Opened, Failure> {
        let remembered = |validity| self.gateway.memory.remembered(&self.key, validity);
        let opened = async {
            if self.utf8 {
                imap.enable_utf8().await?;
            }
            opening::open(imap, self.settings, known, remembered).await
        };
        let opened = opened.await;
        if let Err(failure) = &opened {
            imap.distrust_flights(failure);
        }
        opened
    }

    /// The maildrop that this session will see: what is there, less what others marked `\Deleted`, what
    /// POP3 shows no more, and what is older than the newest that it is to show.
    async fn maildrop(&self, imap: &mut ImapClient, opened: &Opened) -> Result<Maildrop, Failure> {
        let Opened {
            snapshot, shown, ..
        } = opened;
        let (format, validity) = (self.settings.unique_id, snapshot.validity);
        let unique_ids = match snapshot.identity {
            ListingIdentity::Uid => UniqueIds::from_uids(format, validity),
            ListingIdentity::GmailMessageId | ListingIdentity::EmailId => {
                // Which of two copies bears their name must not depend on how much is shown.
                UniqueIds::from_names(format, validity, &snapshot.listing)
            }
        };
        let maildrop = Maildrop::new(shown.clone(), unique_ids);
        if self.gateway.works_around(ClientWorkaround::EudoraStatus)
            && let Some((first, _)) = shown.message(0)
        {
            let seen = opening::seen(imap, &snapshot.listing, first).await?;
            return Ok(maildrop.with_status_header(seen));
        }
        Ok(maildrop)
    }

    /// For the next login. Of UTF8 only that there are too many messages, if there are and it is news.
    fn note(&self, snapshot: Snapshot, utf8: bool) {
        let Gateway {
            accounts, listings, ..
        } = self.gateway;
        accounts.note_login(self.upstream, self.credential);
        let is_news = || {
            let known = listings.known(&self.key);
            known.is_none_or(|known| known.is_whole())
        };
        if !utf8 {
            listings.note(&self.key, snapshot);
        } else if !snapshot.is_whole() && is_news() {
            listings.note(&self.key, snapshot.emptied());
        }
    }
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

/// What was accepted a moment ago is right, so that the user is not asked for another password.
fn although_accepted(failure: Failure) -> Failure {
    match failure.kind {
        FailureKind::AuthRejected => FailureKind::AuthUnavailable.because(failure.cause),
        _ => failure,
    }
}

/// Whether all that was wrong is that several commands went out together. An upstream that is silent has
/// taken its time already, and so has the client.
fn lost_its_flight(imap: &ImapClient, failure: &Failure) -> bool {
    failure.kind == FailureKind::UpstreamGarbled && imap.has_lost_its_flight()
}
