//! I/O with the provider: [`Upstream`] dials, [`ImapClient`] and [`SubmissionClient`] converse.

mod dial;
mod imap_client;
mod literal;
mod reachability;
mod submission_client;
mod warm;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

pub use dial::{Dial, Dialling, TcpDialer};
pub use imap_client::{Appended, Folders, ImapClient, Selected, Target};
pub use literal::LiteralReader;
use reachability::Reachability;
pub use submission_client::{Awaited, SubmissionClient};
use warm::Warm;

use crate::config::{self, Endpoint, EndpointSecurity, Service};
use crate::failure::{Failure, FailureKind};
use crate::imap::capability::Capabilities;
use crate::line_stream::{ByteStream, LineStream};
use crate::metrics::Metrics;
use crate::smtp::extension::Extensions;
use crate::tls;

/// For so long, an upstream that did not bear several commands at once is sent one at a time. It may be another
/// server by then, and it may have been the network that was silent.
const DISTRUST_LASTS: Duration = Duration::from_secs(60 * 60);

/// One configured upstream, shared by all sessions.
pub struct Upstream {
    settings: Arc<config::Upstream>,
    /// No octet moved for so long: the upstream is lost.
    stall_limit: Duration,
    dialer: Arc<dyn Dial>,
    tls: TlsConnector,
    metrics: Arc<Metrics>,
    seen: Mutex<Seen>,
    reachability: Reachability,
    warm: Warm,
}

/// What the upstream said that it can do, when it was last asked.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Before login, under TLS: the mechanisms are here.
    pub before_login: Option<Capabilities>,
    /// After login, when some upstreams tell more.
    pub after_login: Option<Capabilities>,
    /// Whether it told them with its OK to the login, without being asked.
    pub volunteers_capabilities: bool,
    /// How many octets the way from it holds, as the last connection with much traffic found.
    pub octets_on_the_way: u64,
    /// When it last lost what was sent together with AUTHENTICATE.
    pub lost_what_follows_authenticate: Option<Instant>,
    /// When it last answered commands in another order than that in which they were sent, or not at all.
    pub answered_out_of_order: Option<Instant>,
    /// Of its submission service, under TLS.
    pub submission: Option<Extensions>,
}

impl Seen {
    /// Whether more may go out together with AUTHENTICATE.
    pub fn takes_more_with_authenticate(&self) -> bool {
        !is_recent(self.lost_what_follows_authenticate)
    }

    /// Whether several commands may be under way at once.
    pub fn takes_flights(&self) -> bool {
        !is_recent(self.answered_out_of_order)
    }
}

fn is_recent(incident: Option<Instant>) -> bool {
    incident.is_some_and(|incident| incident.elapsed() < DISTRUST_LASTS)
}

impl Upstream {
    /// # Errors
    /// When the roots that its certificate is to be checked against cannot be read.
    pub fn new(
        settings: Arc<config::Upstream>,
        stall_limit: Duration,
        dialer: Arc<dyn Dial>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let tls = tls::connector(settings.ca_file.as_deref())?;
        Ok(Self {
            warm: Warm::new(settings.warm_connections),
            settings,
            stall_limit,
            dialer,
            tls,
            metrics,
            seen: Mutex::default(),
            reachability: Reachability::default(),
        })
    }

    /// The same, of which nothing is known yet.
    pub fn anew(&self) -> Self {
        self.anew_over(self.dialer.clone())
    }

    /// The same, whose connections come from elsewhere.
    pub fn anew_over(&self, dialer: Arc<dyn Dial>) -> Self {
        Self {
            settings: self.settings.clone(),
            stall_limit: self.stall_limit,
            dialer,
            tls: self.tls.clone(),
            metrics: self.metrics.clone(),
            seen: Mutex::default(),
            reachability: Reachability::default(),
            warm: Warm::new(self.settings.warm_connections),
        }
    }

    /// Its section of the config.
    pub fn settings(&self) -> &config::Upstream {
        &self.settings
    }

    /// What it said that it can do, on any connection so far.
    pub fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether several commands may be under way at once.
    pub fn takes_flights(&self) -> bool {
        !self.settings.quirks.one_command_at_a_time && self.seen().takes_flights()
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A connection through TLS and greeting, ready to log in; its capabilities are known. It may have
    /// waited for that, and the upstream may have closed it just now: [`ImapClient::is_untried`].
    ///
    /// # Errors
    /// As [`Self::connect_anew`].
    pub async fn connect(self: &Arc<Self>) -> Result<ImapClient, Failure> {
        match self.warm.take().await {
            Some(client) => Ok(client),
            None => self.connect_anew().await,
        }
    }

    /// The same, on a connection that is opened now.
    ///
    /// # Errors
    /// `UpstreamUnreachable` for what may pass, `Misconfigured` for a certificate that does not fit.
    pub async fn connect_anew(self: &Arc<Self>) -> Result<ImapClient, Failure> {
        let result = self.connect_untold().await;
        self.tried(Service::Imap, result.as_ref().map(|_| ()));
        result
    }

    /// Counts the failure of what no client waits for. A session counts what it tells its client, whatever
    /// has failed, so that each failure is counted once.
    ///
    /// # Errors
    /// The failure that was counted.
    pub fn counted<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.inspect_err(|failure| {
            self.metrics
                .upstream_error(&self.settings.name, failure.kind);
        })
    }

    async fn connect_untold(self: &Arc<Self>) -> Result<ImapClient, Failure> {
        let endpoint = &self.settings.imap;
        let mut transport = self.dial(endpoint).await?;
        if endpoint.security == EndpointSecurity::Implicit {
            transport = self.secure(endpoint, transport).await?;
        }
        let stream = LineStream::new(transport, self.stall_limit);
        let mut client = ImapClient::greet(stream, self.clone(), self.metrics.clone()).await?;
        if endpoint.security == EndpointSecurity::StartTls {
            let transport = client.start_tls().await?;
            let transport = self.secure(endpoint, transport).await?;
            client = ImapClient::resume(
                LineStream::new(transport, self.stall_limit),
                self.clone(),
                self.metrics.clone(),
            );
        }
        let capabilities = client.known_capabilities().await?;
        self.note(|seen| seen.before_login = Some(capabilities));
        Ok(client)
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<Box<dyn ByteStream>, Failure> {
        let unreachable = |cause: String| {
            let (host, port) = (&endpoint.host, endpoint.port);
            FailureKind::UpstreamUnreachable.because(format!("{host}:{port}: {cause}"))
        };
        match timeout(
            self.stall_limit,
            self.dialer.dial(endpoint, self.stall_limit),
        )
        .await
        {
            Ok(Ok(transport)) => Ok(transport),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("no answer within timeouts.upstream".to_owned())),
        }
    }

    async fn secure(
        &self,
        endpoint: &Endpoint,
        transport: Box<dyn ByteStream>,
    ) -> Result<Box<dyn ByteStream>, Failure> {
        let handshake = tls::connect(&self.tls, &endpoint.host, transport);
        let (host, port) = (&endpoint.host, endpoint.port);
        match timeout(self.stall_limit, handshake).await {
            Ok(Ok(transport)) => Ok(transport),
            Ok(Err(error)) if tls::is_certificate_trouble(&error) => {
                Err(FailureKind::Misconfigured.because(format!(
                    "the certificate of {host}:{port} is not accepted: {error}"
                )))
            }
            Ok(Err(error)) => Err(FailureKind::UpstreamUnreachable
                .because(format!("TLS with {host}:{port} failed: {error}"))),
            Err(_) => Err(FailureKind::UpstreamUnreachable.because(format!(
                "TLS with {host}:{port}: no answer within timeouts.upstream"
            ))),
        }
    }
}
