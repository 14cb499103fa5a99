//! The copy of a sent message in the account's folder of sent mail, behind the client's back: whatever
//! becomes of it, the message is sent.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::copy_logins::{CopyLogins, may_pass};
use super::{LoggedIn, Session};
use crate::clock::Day;
use crate::config::SentCopy;
use crate::failure::{Failure, FailureKind};
use crate::imap::command::{AppendedHeader, SoughtCopy, StoredSince};
use crate::imap::response::SpecialUse;
use crate::metrics::{Metrics, SentCopyResult};
use crate::sasl::Credential;
use crate::session::{Gateway, SessionId};
use crate::smtp::header::MessageIdFinder;
use crate::spool::{Spool, SpoolShare, SpoolSpace};
use crate::upstream::{Appended, ImapClient, Upstream};

/// Messages that were sent and wait on the disk.
const COPIES_MAX: u64 = 256;

/// Copies that are being put into mailboxes of one upstream; few enough for any account's limit of connections.
const CONNECTIONS_MAX: usize = 8;

/// For so long a copy waits while those of other messages have all of these.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Pauses before the attempts. The first one lets a provider store a copy of its own, which is looked
/// for.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
];

/// Octets by which a copy of the provider's own may differ, which has other lines in its header.
const HEADER_OCTETS_DIFFER: u64 = 16 * 1024;

/// The clocks of a provider's machines may be so far apart.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// What mail programs call the folder when no attribute tells.
const SENT_NAMES: &[&str] = &[
    "Sent",
    "Sent Items",
    "Sent Messages",
    "Sent Mail",
    "Gesendet",
];

/// The copies that are on their way.
#[derive(Clone)]
pub struct SentCopies {
    tasks: TaskTracker,
    by_upstream: Arc<Mutex<HashMap<Arc<str>, Arc<Means>>>>,
    logins: Arc<CopyLogins>,
    space: SpoolSpace,
}

/// What the copies of one upstream take, so that one that hangs does not take it from others.
struct Means {
    connections: Semaphore,
    spools: SpoolShare,
}

impl SentCopies {
    /// None yet; those on the disk may take so many octets.
    pub fn new(spool_octets_max: u64) -> Self {
        Self {
            tasks: TaskTracker::new(),
            by_upstream: Arc::default(),
            logins: Arc::default(),
            space: SpoolSpace::new(spool_octets_max, COPIES_MAX),
        }
    }

    fn means(&self, upstream: &Upstream) -> Arc<Means> {
        let name = &upstream.settings().name;
        let mut by_upstream = (self.by_upstream.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_upstream.get(name) {
            return known.clone();
        }
        // Of those that left the settings, too. Whose means nobody holds has taken nothing.
        by_upstream.retain(|_, means| Arc::strong_count(means) > 1);
        let means = Arc::new(Means {
            connections: Semaphore::new(CONNECTIONS_MAX),
            spools: self.space.share(),
        });
        by_upstream.insert(name.clone(), means.clone());
        means
    }

    /// Waits for those that are on their way, but not for longer than this.
    pub async fn finish(&self, patience: Duration) {
        self.tasks.close();
        if timeout(patience, self.tasks.wait()).await.is_err() {
            let left = self.tasks.len();
            warn!(
                left,
                "messages were sent without a copy in the folder of sent mail"
            );
        }
    }
}

/// A message that is written to disk while it is sent.
pub(super) struct Copying {
    means: Arc<Means>,
    spool: Spool,
    message_id: MessageIdFinder,
    header: AppendedHeader,
    begun: Instant,
    /// The day before, since the upstream's may be another one.
    begun_since: Day,
}

impl Copying {
    /// Begins, if this upstream's sent mail is to be copied.
    pub(super) async fn begin(is_utf8: bool, session: &mut Session<'_>) -> Option<Self> {
        let service = &session.gateway.submission;
        let provider_keeps_one = session
            .logged_in
            .upstream
            .settings()
            .quirks
            .keeps_sent_copies;
        match service.settings.sent_copy {
            SentCopy::Never => return None,
            SentCopy::Auto if provider_keeps_one => return None,
            SentCopy::Auto | SentCopy::Always => {}
        }
        let LoggedIn {
            upstream,
            credential,
            ..
        } = &*session.logged_in;
        if service.copies.logins.is_refused(upstream, credential) {
            no_copy(&"the mailbox has refused this login before", session);
            return None;
        }
        let means = service.copies.means(upstream);
        match Spool::create(&service.settings.spool_folder, &means.spools).await {
            Ok(spool) => Some(Self {
                means,
                spool,
                message_id: MessageIdFinder::default(),
                header: match is_utf8 {
                    true => AppendedHeader::Utf8,
                    false => AppendedHeader::Ascii,
                },
                begun: Instant::now(),
                begun_since: Day::yesterday(),
            }),
            Err(error) => {
                no_copy(&format!("smtp.spool_folder: {error}"), session);
                None
            }
        }
    }

    /// Takes some of the message, as the upstream gets it but for the stuffing.
    pub(super) async fn push(&mut self, octets: &[u8]) -> io::Result<()> {
        self.message_id.push(octets);
        self.spool.push(octets).await
    }

    /// The copy that may be there already, where the message has a Message-ID: stored since the message has begun, and
    /// about as large, since there are devices that give everything one Message-ID.
    fn sought(&self, imap: &ImapClient) -> Option<SoughtCopy<'_>> {
        let octets = self.spool.octets();
        Some(SoughtCopy {
            message_id: self.message_id.found()?,
            octets: octets.saturating_sub(HEADER_OCTETS_DIFFER)..=octets + HEADER_OCTETS_DIFFER,
            since: match imap.knows_ages() {
                true => StoredSince::Seconds((self.begun.elapsed() + CLOCKS_DIFFER).as_secs()),
                false => StoredSince::Day(self.begun_since.to_string()),
            },
        })
    }

    /// There will be no copy.
    pub(super) fn fail(&self, error: &io::Error, session: &Session<'_>) {
        match error.kind() {
            io::ErrorKind::QuotaExceeded => {
                let cause = "limits.spool_octets leaves this upstream no more room";
                no_copy(&cause, session);
            }
            _ => no_copy(&format!("smtp.spool_folder: {error}"), session),
        }
    }

    /// The message was sent; its copy follows.
    pub(super) fn store(mut self, session: &Session<'_>) {
        let Gateway {
            submission,
            metrics,
            draining,
            ..
        } = session.gateway;
        if !self.spool.keep() {
            no_copy(
                &"too many messages to this upstream wait for theirs",
                session,
            );
            return;
        }
        let task = Task {
            copying: self,
            upstream: session.logged_in.upstream.clone(),
            credential: session.logged_in.credential.clone(),
            session: session.record.id,
            metrics: metrics.clone(),
            logins: submission.copies.logins.clone(),
            draining: draining.clone(),
        };
        submission.copies.tasks.spawn(task.run());
    }
}

fn no_copy(cause: &dyn std::fmt::Display, session: &Session<'_>) {
    let name = &session.logged_in.upstream.settings().name;
    session
        .gateway
        .metrics
        .sent_copy(name, SentCopyResult::Failed);
    warn!(session = %session.record.id, %cause, "no copy of a sent message");
}

struct Task {
    copying: Copying,
    upstream: Arc<Upstream>,
    credential: Credential,
    session: SessionId,
    metrics: Arc<Metrics>,
    logins: Arc<CopyLogins>,
    draining: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        let mut result = SentCopyResult::Failed;
        for pause in PAUSES {
            // Who ends now does not wait, but tries.
            tokio::select! {
                () = sleep(pause) => {}
                () = self.draining.cancelled() => {}
            }
            match self.attempt().await {
                Ok(done) => {
                    result = done;
                    break;
                }
                Err(failure) => {
                    let (session, upstream) = (self.session, &self.upstream.settings().name);
                    warn!(%session, %upstream, %failure, "no copy of a sent message yet");
                    if !may_pass(failure.kind) {
                        break;
                    }
                }
            }
        }
        let session = self.session;
        self.metrics
            .sent_copy(&self.upstream.settings().name, result);
        match result {
            SentCopyResult::Failed => warn!(%session, "no copy of a sent message"),
            SentCopyResult::Stored | SentCopyResult::Duplicate => {
                debug!(%session, result = result.label(), "copy of a sent message");
            }
        }
    }

    async fn attempt(&mut self) -> Result<SentCopyResult, Failure> {
        let means = self.copying.means.clone();
        // Who waits for a turn keeps nobody else from connecting, and who waits for a connection keeps nobody from
        // the turn, whose patience is only for an upstream that is being asked.
        let patience_ends = Instant::now() + CONNECTION_PATIENCE;
        let (turn, _connection) = loop {
            let turn = self.logins.turn(&self.upstream, &self.credential).await?;
            if let Ok(connection) = means.connections.try_acquire() {
                break (turn, connection);
            }
            drop(turn);
            let free = timeout_at(patience_ends, means.connections.acquire()).await;
            if free.is_err() {
                let cause = "copies of other messages have all connections to the mailboxes";
                return Err(FailureKind::UpstreamUnreachable.because(cause));
            }
        };
        let name = &self.upstream.settings().name;
        let _open = self.metrics.upstream_connection(name, "in_use");
        let mut imap = turn.log_in(&self.upstream, &self.credential).await?;
        let result = store(&mut self.copying, &mut imap).await;
        if let Ok(SentCopyResult::Stored | SentCopyResult::Duplicate) = result {
            imap.logout().await;
        }
        result
    }
}

async fn store(copying: &mut Copying, imap: &mut ImapClient) -> Result<SentCopyResult, Failure> {
    if copying.header == AppendedHeader::Utf8 {
        imap.enable_utf8().await?;
        if !imap.is_utf8() {
            return Err(FailureKind::Misconfigured
                .because("the mailbox takes no UTF-8 in headers, which the message may have"));
        }
    }
    let of_provider = imap.quirks().sent_folder.clone();
    let names: Vec<&str> = of_provider
        .iter()
        .map(String::as_str)
        .chain(SENT_NAMES.iter().copied())
        .collect();
    let target = imap.folders().await?.find(&[SpecialUse::Sent], &names);
    match target.exists {
        false => imap.create(&target.mailbox).await?,
        true => {
            if let Some(sought) = copying.sought(imap) {
                imap.select(&target.mailbox).await?;
                if imap.has_copy(&sought).await? {
                    return Ok(SentCopyResult::Duplicate);
                }
            }
        }
    }
    let appended = imap
        .append(&target.mailbox, &mut copying.spool, copying.header)
        .await?;
    match (appended, copying.message_id.found()) {
        (Appended::Stored, _) => Ok(SentCopyResult::Stored),
        // The next attempt looks for it.
        (Appended::Unknown(failure), Some(_)) => Err(failure),
        // Nobody could find out, and rather none than two.
        (Appended::Unknown(failure), None) => {
            warn!(%failure, "a message without Message-ID may have no copy");
            Ok(SentCopyResult::Failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Endpoint, EndpointSecurity, Service};
    use crate::secret::Secret;
    use crate::upstream::{Dial, Dialling};

    /// Counts connections by host, of which none comes about.
    #[derive(Default)]
    struct BlackHole(Mutex<HashMap<String, usize>>);

    impl Dial for BlackHole {
        fn dial<'a>(&'a self, endpoint: &'a Endpoint, _: Duration) -> Dialling<'a> {
            let mut dialled = self.0.lock().expect("no panic");
            *dialled.entry(endpoint.host.clone()).or_default() += 1;
            Box::pin(std::future::pending())
        }
    }

    struct Scene {
        dialer: Arc<BlackHole>,
        metrics: Arc<Metrics>,
        copies: SentCopies,
        folder: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            crate::tls::install_provider();
            Self {
                dialer: Arc::default(),
                metrics: Arc::new(Metrics::new(&["hangs", "other"], &[]).expect("sound families")),
                copies: SentCopies::new(1024),
                folder: tempfile::tempdir().expect("a folder"),
            }
        }

        fn upstream(&self, name: &str) -> Arc<Upstream> {
            let endpoint = Endpoint {
                service: Service::Imap,
                host: name.to_owned(),
                port: 143,
                security: EndpointSecurity::Clear,
            };
            let settings = Arc::new(config::Upstream::new(name, endpoint));
            let limit = Duration::from_secs(30);
            let (dialer, metrics) = (self.dialer.clone(), self.metrics.clone());
            let upstream = Upstream::new(settings, limit, dialer, metrics);
            Arc::new(upstream.expect("the system's roots"))
        }

        async fn task(&self, upstream: &Arc<Upstream>, login: &str) -> Task {
            let means = self.copies.means(upstream);
            let spool = Spool::create(self.folder.path(), &means.spools).await;
            let secret = Secret::new(b"secret".to_vec());
            Task {
                copying: Copying {
                    means,
                    spool: spool.expect("created"),
                    message_id: MessageIdFinder::default(),
                    header: AppendedHeader::Ascii,
                    begun: Instant::now(),
                    begun_since: Day::yesterday(),
                },
                upstream: upstream.clone(),
                credential: Credential::password(login.as_bytes(), secret).expect("sound"),
                session: SessionId::new(),
                metrics: self.metrics.clone(),
                logins: self.copies.logins.clone(),
                draining: CancellationToken::new(),
            }
        }

        fn dialled(&self) -> HashMap<String, usize> {
            self.dialer.0.lock().expect("no panic").clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_hangs_keeps_no_copy_from_another() {
        let scene = Scene::new();
        let [hanging, other] = ["hangs", "other"].map(|name| scene.upstream(name));
        for number in 0..=2 * CONNECTIONS_MAX {
            let upstream = match number < 2 * CONNECTIONS_MAX {
                true => &hanging,
                false => &other,
            };
            // One login at a time asks the upstream.
            let task = scene.task(upstream, &format!("user{number}")).await;
            scene.copies.tasks.spawn(task.run());
        }
        sleep(PAUSES[0] + Duration::from_secs(1)).await;
        let expected = [("hangs", CONNECTIONS_MAX), ("other", 1)];
        let expected = expected.map(|(name, dialled)| (name.to_owned(), dialled));
        assert_eq!(scene.dialled(), HashMap::from(expected));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_connection_keeps_nobody_from_the_turn() {
        let scene = Scene::new();
        let upstream = scene.upstream("other");
        let means = scene.copies.means(&upstream);
        let all = means.connections.acquire_many(CONNECTIONS_MAX as u32).await;
        let waiting: Vec<_> = [
            scene.task(&upstream, "joe").await,
            scene.task(&upstream, "joe").await,
        ]
        .into_iter()
        .map(|mut task| tokio::spawn(async move { task.attempt().await.map(drop) }))
        .collect();
        sleep(CONNECTION_PATIENCE / 2).await;
        assert!(waiting.iter().all(|attempt| !attempt.is_finished()));
        drop(all);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.dialled().get("other"), Some(&1), "one asks");
    }
}
