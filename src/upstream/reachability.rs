//! [`Reachability`]: whether an upstream can be reached, as the connections for clients tell, and one of
//! our own where there are none.
//!
//! To be reached means connect, TLS, greeting and capabilities; whether it lets anybody in is told by the
//! logins. Nothing is decided by it: it is for those who watch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Upstream;
use crate::config::Service;
use crate::failure::Failure;

/// How the last connection to each service went.
#[derive(Default)]
pub(super) struct Reachability(Mutex<Services>);

#[derive(Default)]
struct Services {
    imap: Option<Attempt>,
    submission: Option<Attempt>,
}

#[derive(Clone, Copy)]
struct Attempt {
    ended: Instant,
    succeeded: bool,
}

impl Services {
    fn of(&mut self, service: Service) -> &mut Option<Attempt> {
        match service {
            Service::Imap => &mut self.imap,
            Service::Submission => &mut self.submission,
        }
    }
}

impl Reachability {
    fn services(&self) -> MutexGuard<'_, Services> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    /// A connection to a service was tried just now, and failed for that reason if it did.
    pub(super) fn tried(&self, service: Service, outcome: Result<(), &Failure>) {
        if service == Service::Submission && self.settings.smtp.is_none() {
            // A login that may not send says nothing about the upstream.
            return;
        }
        let mut services = self.reachability.services();
        let now = Attempt {
            ended: Instant::now(),
            succeeded: outcome.is_ok(),
        };
        let before = services.of(service).replace(now);
        let greeted = |attempt: Option<Attempt>| attempt.map(|it| it.succeeded);
        let submission = match self.settings.smtp {
            Some(_) => greeted(services.submission),
            None => Some(true),
        };
        let up = match (greeted(services.imap), submission) {
            (Some(imap), Some(submission)) => Some(imap && submission),
            (Some(false), None) | (None, Some(false)) => Some(false),
            // What was known of the upstream under other settings stays, until all of it is tried.
            (Some(true) | None, None) | (None, Some(true)) => None,
        };
        if let Some(up) = up {
            self.metrics.set_upstream_up(&self.settings.name, up);
        }
        drop(services);
        let upstream = &self.settings.name;
        match (before.map(|attempt| attempt.succeeded), outcome) {
            (Some(true), Err(failure)) => {
                warn!(%upstream, %service, %failure, "upstream cannot be reached any more");
            }
            (Some(false), Ok(())) => info!(%upstream, %service, "upstream can be reached again"),
            (Some(true) | None, Ok(())) | (Some(false) | None, Err(_)) => {}
        }
    }

    /// Connects to a service whenever nobody has for `probe_interval`, until `draining`; `hostname` is how
    /// we call ourselves. There is never more than one such connection, and it ends behind the greeting.
    pub async fn probe(
        self: &Arc<Self>,
        service: Service,
        hostname: &str,
        draining: &CancellationToken,
    ) {
        let Some(interval) = self.settings.probe_interval else {
            return;
        };
        let began = Instant::now();
        let probe = async {
            loop {
                let connected = self.last_connection(service).unwrap_or(began);
                match interval.checked_sub(connected.elapsed()) {
                    Some(quiet) if !quiet.is_zero() => sleep(quiet).await,
                    Some(_) | None => {
                        // `tried` has told the outcome to whom it concerns.
                        let _ = self.counted(self.probe_now(service, hostname).await);
                    }
                }
            }
        };
        tokio::select! {
            () = probe => {}
            () = draining.cancelled() => {}
        }
    }

    /// When a connection to a service was last tried.
    fn last_connection(&self, service: Service) -> Option<Instant> {
        let attempt = *self.reachability.services().of(service);
        attempt.map(|attempt| attempt.ended)
    }

    async fn probe_now(self: &Arc<Self>, service: Service, hostname: &str) -> Result<(), Failure> {
        match service {
            Service::Imap => self.connect_anew().await?.logout().await,
            Service::Submission => self.connect_submission(hostname).await?.quit().await,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::config::{self, Endpoint, EndpointSecurity};
    use crate::failure::FailureKind;
    use crate::line_stream::ByteStream;
    use crate::metrics::Metrics;
    use crate::upstream::{Dial, Dialling};

    /// An upstream that greets unless it is down.
    #[derive(Default)]
    struct Greeter {
        is_down: AtomicBool,
        connections: AtomicUsize,
    }

    impl Dial for Greeter {
        fn dial<'a>(&'a self, _: &'a Endpoint, _: Duration) -> Dialling<'a> {
            Box::pin(async {
                self.connections.fetch_add(1, Ordering::Relaxed);
                if self.is_down.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                let (ours, mut theirs) = tokio::io::duplex(1024);
                theirs
                    .write_all(b"* OK [CAPABILITY IMAP4rev1] hi\r\n")
                    .await?;
                // Whatever is said to it goes nowhere.
                tokio::spawn(
                    async move { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await },
                );
                let ours: Box<dyn ByteStream> = Box::new(ours);
                Ok(ours)
            })
        }
    }

    fn is_up(metrics: &Metrics) -> bool {
        let families = metrics.registry().gather();
        let family = families
            .iter()
            .find(|it| it.name() == "popgate_upstream_up");
        family.expect("registered").get_metric()[0]
            .get_gauge()
            .get_value()
            > 0.5
    }

    /// How often the upstream could not be reached, as it is counted.
    fn unreachable(metrics: &Metrics) -> f64 {
        let families = metrics.registry().gather();
        let family = (families.iter()).find(|it| it.name() == "popgate_upstream_errors_total");
        let label = FailureKind::UpstreamUnreachable.label();
        let series = (family.expect("registered").get_metric().iter())
            .find(|it| it.get_label().iter().any(|pair| pair.value() == label));
        series
            .expect("there from the start")
            .get_counter()
            .get_value()
    }

    struct Watched {
        greeter: Arc<Greeter>,
        metrics: Arc<Metrics>,
        upstream: Arc<Upstream>,
        draining: CancellationToken,
    }

    fn endpoint(service: Service, port: u16) -> Endpoint {
        Endpoint {
            service,
            host: "localhost".to_owned(),
            port,
            security: EndpointSecurity::Clear,
        }
    }

    fn upstream(
        settings: config::Upstream,
        greeter: &Arc<Greeter>,
        metrics: &Arc<Metrics>,
    ) -> Arc<Upstream> {
        let second = Duration::from_secs(1);
        let upstream = Upstream::new(Arc::new(settings), second, greeter.clone(), metrics.clone());
        Arc::new(upstream.expect("the system's roots"))
    }

    fn watched(probe_interval: Option<Duration>) -> Watched {
        crate::tls::install_provider();
        let greeter = Arc::new(Greeter::default());
        let metrics = Arc::new(Metrics::new(&["default"], &[]).expect("sound families"));
        let mut settings = config::Upstream::new("default", endpoint(Service::Imap, 143));
        settings.probe_interval = probe_interval;
        let upstream = upstream(settings, &greeter, &metrics);
        let draining = CancellationToken::new();
        tokio::spawn({
            let (upstream, draining) = (upstream.clone(), draining.clone());
            async move { upstream.probe(Service::Imap, "popgate", &draining).await }
        });
        Watched {
            greeter,
            metrics,
            upstream,
            draining,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_upstream_is_asked_once_an_interval() {
        let minute = Duration::from_secs(60);
        let Watched {
            greeter,
            metrics,
            upstream,
            draining,
        } = watched(Some(minute));
        assert!(!is_up(&metrics), "nobody has reached it yet");
        sleep(10 * minute + minute / 2).await;
        assert_eq!(greeter.connections.load(Ordering::Relaxed), 10);
        assert!(is_up(&metrics));
        greeter.is_down.store(true, Ordering::Relaxed);
        sleep(minute).await;
        assert!(!is_up(&metrics));
        assert!((unreachable(&metrics) - 1.0).abs() < f64::EPSILON);
        // A client's session counts that itself.
        assert!(upstream.connect_anew().await.is_err());
        assert!((unreachable(&metrics) - 1.0).abs() < f64::EPSILON);
        greeter.is_down.store(false, Ordering::Relaxed);
        // A client's connection tells at once, and spares the next probe.
        drop(upstream.connect_anew().await.expect("it greets"));
        assert!(is_up(&metrics));
        let connections = greeter.connections.load(Ordering::Relaxed);
        sleep(minute - Duration::from_secs(1)).await;
        assert_eq!(greeter.connections.load(Ordering::Relaxed), connections);
        draining.cancel();
        sleep(10 * minute).await;
        assert_eq!(greeter.connections.load(Ordering::Relaxed), connections);
    }

    /// As after a reload that changed something of an upstream which can be reached.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_told_before_all_is_tried_or_some_has_failed() {
        let Watched {
            greeter, metrics, ..
        } = watched(None);
        let before = |up| {
            metrics.set_upstream_up("default", up);
            let mut settings = config::Upstream::new("default", endpoint(Service::Imap, 143));
            settings.smtp = Some(endpoint(Service::Submission, 587));
            upstream(settings, &greeter, &metrics)
        };
        let refused = FailureKind::UpstreamUnreachable.because("connection refused");
        let again = before(true);
        again.tried(Service::Imap, Ok(()));
        assert!(is_up(&metrics));
        again.tried(Service::Submission, Err(&refused));
        assert!(!is_up(&metrics));
        before(true).tried(Service::Submission, Err(&refused));
        assert!(!is_up(&metrics));
        let again = before(false);
        again.tried(Service::Submission, Ok(()));
        assert!(!is_up(&metrics));
        again.tried(Service::Imap, Ok(()));
        assert!(is_up(&metrics));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_interval_only_clients_connect() {
        let Watched { greeter, .. } = watched(None);
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(greeter.connections.load(Ordering::Relaxed), 0);
    }
}
