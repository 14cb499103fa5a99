//! Other settings and other certificates in the place of those before, for the sessions to come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::assembly::{following, upstream_names};
use crate::config::{Config, Service};
use crate::failure::Failure;
use crate::server::{Current, Listener, Security};
use crate::session::Gateway;
use crate::supervisor::{self, Notice};
use crate::tls::Certificates;
use crate::upstream::Upstream;

/// Pause between two attempts to get to know an upstream that cannot be reached.
const ACQUAINTANCE_PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// Pause between two looks at the files of certificates.
const CERTIFICATES_PAUSE: Duration = Duration::from_secs(2);

/// The listeners that show certificates.
#[derive(Clone)]
pub(crate) struct Shown {
    labels: Vec<&'static str>,
    /// Whether one of them can do nothing without.
    pub(crate) is_needed: bool,
}

impl Shown {
    pub(crate) fn by(listeners: &[Listener]) -> Self {
        let mut secure = listeners.iter().map(Listener::security);
        Self {
            labels: listeners.iter().map(Listener::label).collect(),
            is_needed: secure.any(|security| security == Security::Implicit),
        }
    }

    pub(crate) fn expiry(&self, gateway: &Gateway) {
        let expires = gateway.certificates.as_ref().map(|it| it.expires());
        for label in &self.labels {
            match expires {
                Some(expires) => gateway.metrics.certificate_expiry(label, expires),
                None => gateway.metrics.no_certificate(label),
            }
        }
    }
}

/// Reads certificates again when their files change.
pub(crate) async fn watch_certificates(current: Arc<Current>, shown: Shown) {
    // A file that stays as it is is complained of once.
    let mut complaint = None;
    loop {
        sleep(CERTIFICATES_PAUSE).await;
        let Some(certificates) = current.gateway().certificates.clone() else {
            continue;
        };
        let reread = spawn_blocking({
            let certificates = certificates.clone();
            move || certificates.reread_if_changed()
        });
        let reread = reread.await;
        // Settings that were read meanwhile may have others, which were read with them.
        let gateway = current.gateway();
        let are_shown = |now: &Arc<Certificates>| Arc::ptr_eq(now, &certificates);
        if !gateway.certificates.as_ref().is_some_and(are_shown) {
            complaint = None;
            continue;
        }
        match reread {
            Ok(Some(Ok(()))) => {
                info!("certificates have been read again");
                complaint = None;
                gateway.metrics.certificates_reread(true);
                shown.expiry(&gateway);
            }
            Ok(Some(Err(problem))) => {
                gateway.metrics.certificates_reread(false);
                if complaint.as_ref() != Some(&problem) {
                    error!(%problem, "certificates cannot be used; those before stay");
                    complaint = Some(problem);
                }
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// Puts settings in the place of others.
pub(crate) struct Reloading {
    current: Arc<Current>,
    config: Arc<Config>,
    shown: Shown,
    /// What ends the tasks that go with an upstream.
    acquaintances: HashMap<Arc<str>, (Arc<Upstream>, CancellationToken)>,
}

impl Reloading {
    /// Of these, which are in force; gets acquainted with their upstreams.
    pub(crate) fn new(current: Arc<Current>, config: Config, shown: Shown) -> Self {
        let mut reloading = Self {
            current,
            config: Arc::new(config),
            shown,
            acquaintances: HashMap::new(),
        };
        reloading.get_acquainted();
        reloading
    }

    /// Each time that settings come, until none can.
    pub(crate) async fn run(mut self, mut reloads: mpsc::Receiver<Result<Config, String>>) {
        while let Some(read) = reloads.recv().await {
            let replaced = match read {
                Ok(config) => self.replace(config).await,
                Err(problem) => Err(problem),
            };
            let succeeded = match replaced {
                Ok(()) => {
                    info!("the settings have been read again; new sessions go by them");
                    true
                }
                Err(problem) => {
                    error!(%problem, "the settings cannot be used; those before stay");
                    false
                }
            };
            let metrics = &self.current.gateway().metrics;
            metrics.config_reread(succeeded);
            if succeeded {
                metrics.certificates_reread(true);
            }
            supervisor::notify(Notice::Ready);
        }
    }

    /// All of it or nothing.
    async fn replace(&mut self, config: Config) -> Result<(), String> {
        if self.shown.is_needed && config.tls.is_empty() {
            return Err(
                "[tls] is missing, but there are listeners for TLS; restart popgate without them"
                    .to_owned(),
            );
        }
        let before = self.current.gateway();
        let config = Arc::new(config);
        let assembled = spawn_blocking({
            let config = config.clone();
            move || following(&before, &config).map_err(|error| error.to_string())
        });
        let gateway = assembled.await.map_err(|error| error.to_string())??;
        let differs = [
            (
                "[pop3] listen",
                config.pop3.listeners != self.config.pop3.listeners,
            ),
            (
                "[smtp] listen",
                config.smtp.listeners != self.config.smtp.listeners,
            ),
            ("[admin] listen", config.admin != self.config.admin),
            (
                "[listing_cache]",
                config.listing_cache_octets != self.config.listing_cache_octets,
            ),
            (
                "[limits] spool_octets",
                config.limits.spool_octets != self.config.limits.spool_octets,
            ),
        ];
        for (key, _) in differs.iter().filter(|(_, differs)| *differs) {
            warn!(key, "this setting takes effect with a restart only");
        }
        let upstreams = upstream_names(&config);
        gateway.metrics.replace_upstreams(&upstreams);
        self.current.replace(gateway.clone());
        self.shown.expiry(&gateway);
        self.config = config;
        self.get_acquainted();
        Ok(())
    }

    /// With upstreams that are new, and no longer with those that are gone.
    fn get_acquainted(&mut self) {
        let gateway = self.current.gateway();
        let mut before = std::mem::take(&mut self.acquaintances);
        for upstream in gateway.accounts.upstreams() {
            let name = upstream.settings().name.clone();
            let known = before.remove(&name);
            let acquaintance = match known {
                Some((known, ended)) if Arc::ptr_eq(&known, upstream) => (known, ended),
                other => {
                    if let Some((_, ended)) = other {
                        ended.cancel();
                    }
                    let ended = gateway.draining.child_token();
                    accompany(upstream, &gateway, &ended);
                    (upstream.clone(), ended)
                }
            };
            self.acquaintances.insert(name, acquaintance);
        }
        for (_, ended) in before.into_values() {
            ended.cancel();
        }
    }
}

/// What goes on beside the sessions.
fn accompany(upstream: &Arc<Upstream>, gateway: &Arc<Gateway>, ended: &CancellationToken) {
    let services = [
        Some(Service::Imap),
        upstream.settings().smtp.as_ref().map(|it| it.service),
    ];
    for service in services.into_iter().flatten() {
        let hostname = gateway.submission.settings.hostname.clone();
        tokio::spawn(get_to_know(
            upstream.clone(),
            service,
            hostname,
            ended.clone(),
        ));
        let (upstream, ended) = (upstream.clone(), ended.clone());
        let hostname = gateway.submission.settings.hostname.clone();
        tokio::spawn(async move { upstream.probe(service, &hostname, &ended).await });
    }
    tokio::spawn(upstream.clone().keep_warm(ended.clone()));
}

/// Asks a service of an upstream what it can do, until it has told, so that the first client is offered
/// all of it, and the operator reads at once whether it can be reached.
async fn get_to_know(
    upstream: Arc<Upstream>,
    service: Service,
    hostname: String,
    ended: CancellationToken,
) {
    let name = upstream.settings().name.clone();
    let mut pause = Duration::from_secs(1);
    loop {
        match upstream.counted(ask(&upstream, service, &hostname).await) {
            Ok(names) => {
                let capabilities = names.join(" ");
                info!(upstream = %name, %service, capabilities, "upstream reached");
                return;
            }
            Err(failure) => {
                warn!(upstream = %name, %service, %failure, "upstream not reached; clients are told to try again");
            }
        }
        tokio::select! {
            () = sleep(pause) => pause = (2 * pause).min(ACQUAINTANCE_PAUSE_MAX),
            () = ended.cancelled() => return,
        }
    }
}

async fn ask(
    upstream: &Arc<Upstream>,
    service: Service,
    hostname: &str,
) -> Result<Vec<&'static str>, Failure> {
    match service {
        Service::Imap => {
            let mut client = upstream.connect_anew().await?;
            let capabilities = client.known_capabilities().await?;
            client.logout().await;
            Ok(capabilities.names().collect())
        }
        Service::Submission => {
            let client = upstream.connect_submission(hostname).await?;
            let extensions = client.extensions();
            client.quit().await;
            Ok(extensions.names().collect())
        }
    }
}
