//! [`Stage`]: a gateway, the clients in front of it and the upstream connections behind it, all in
//! memory.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use popgate::account::Accounts;
use popgate::config::{Config, Endpoint, EndpointSecurity, Flags};
use popgate::line_stream::{ByteStream, LineStream};
use popgate::session::submission::{self, SentCopies};
use popgate::session::{Client, Gateway, pop3};
use popgate::state::{Listings, Memory};
use popgate::upstream::{Dial, Dialling, Upstream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::script::{Dialled, Transcript};
use super::tls::CERTIFICATES;
use super::wire::{Fault, Wire, wire};

/// What a transcript asks for, read once and set up as often as it is played.
pub(crate) struct Scenery<'a> {
    pub(crate) transcript: &'a Transcript,
    config: Config,
    dialer: Arc<Dialer>,
    model: Arc<Gateway>,
}

/// One set-up.
pub(crate) struct Stage {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) clients: Vec<ClientLeg>,
    /// Hears of everything that popgate does.
    pub(crate) activity: Arc<Notify>,
    dialer: Arc<Dialer>,
    /// Those who keep connections warm; they end with the stage.
    keepers: JoinSet<()>,
}

pub(crate) struct ClientLeg {
    pub(crate) wire: Wire,
    pub(crate) session: JoinHandle<()>,
}

/// What goes wrong on which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) every_client: Fault,
    pub(crate) every_dial: Fault,
    pub(crate) client: Option<(usize, Fault)>,
    pub(crate) dial: Option<(usize, Fault)>,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        every_client: Fault::None,
        every_dial: Fault::None,
        client: None,
        dial: None,
    };

    fn on_client(&self, number: usize) -> Fault {
        match self.client {
            Some((faulted, fault)) if faulted == number => fault,
            _ => self.every_client,
        }
    }

    fn on_dial(&self, number: usize) -> Fault {
        match self.dial {
            Some((faulted, fault)) if faulted == number => fault,
            _ => self.every_dial,
        }
    }
}

impl<'a> Scenery<'a> {
    pub(crate) fn of(transcript: &'a Transcript) -> Self {
        let config = config(transcript);
        let dialer = Arc::new(Dialer {
            outcomes: transcript.dials.clone(),
            play: Mutex::new(DialerPlay::new(Faults::NONE)),
        });
        let model = popgate::gateway(&config, dialer.clone(), CancellationToken::new());
        Self {
            transcript,
            config,
            dialer,
            model: model.expect("a gateway"),
        }
    }

    /// A gateway as popgate itself makes it.
    pub(crate) fn set(&self, faults: Faults) -> Stage {
        let draining = CancellationToken::new();
        let gateway = popgate::gateway(&self.config, self.dialer.clone(), draining);
        self.stage(gateway.expect("a gateway"), faults)
    }

    /// The same with metrics and TLS set-ups of an earlier one, which would take most of the time of
    /// a sweep. Nothing is known of the upstreams.
    pub(crate) fn reset(&self, faults: Faults) -> Stage {
        let upstreams: Vec<Arc<Upstream>> = match self.transcript.has_tls() {
            // An earlier handshake must not make a later one shorter.
            true => self.new_upstreams(),
            false => {
                let upstreams = self.model.accounts.upstreams();
                upstreams.map(|known| Arc::new(known.anew())).collect()
            }
        };
        let limits = &self.config.limits;
        let gateway = Gateway {
            accounts: Accounts::new(
                self.config.routes.clone(),
                upstreams,
                self.config.pop3.logins.clone(),
                limits.upstream_connections_per_account,
            ),
            memory: Arc::new(Memory::default()),
            listings: Arc::new(Listings::new(self.config.listing_cache_octets)),
            metrics: self.model.metrics.clone(),
            timeouts: self.model.timeouts.clone(),
            cleartext_login: self.model.cleartext_login.clone(),
            certificates: self.model.certificates.clone(),
            tls: self.model.tls.clone(),
            limits: self.model.limits.clone(),
            proxy_protocol_from: Vec::new(),
            read_ahead_octets: self.model.read_ahead_octets,
            client_workarounds: self.model.client_workarounds.clone(),
            submission: submission::Service {
                copies: SentCopies::new(limits.spool_octets),
                ..self.model.submission.clone()
            },
            trace: None,
            draining: CancellationToken::new(),
            drained: CancellationToken::new(),
        };
        self.stage(Arc::new(gateway), faults)
    }

    fn new_upstreams(&self) -> Vec<Arc<Upstream>> {
        let upstreams = self.config.upstreams.iter().map(|settings| {
            Upstream::new(
                settings.clone(),
                self.config.timeouts.upstream,
                self.dialer.clone(),
                self.model.metrics.clone(),
            )
        });
        upstreams
            .map(|upstream| Arc::new(upstream.expect("an upstream")))
            .collect()
    }

    fn stage(&self, gateway: Arc<Gateway>, faults: Faults) -> Stage {
        *self.dialer.play() = DialerPlay::new(faults);
        Stage {
            gateway,
            clients: Vec::new(),
            activity: self.dialer.play().activity.clone(),
            dialer: self.dialer.clone(),
            keepers: JoinSet::new(),
        }
    }
}

impl Stage {
    /// The next client connects.
    pub(crate) fn connect(&mut self, transcript: &Transcript) {
        let number = self.clients.len();
        let fault = self.dialer.play().faults.on_client(number);
        let (wire, end) = wire(fault, self.activity.clone());
        let gateway = self.gateway.clone();
        let is_submission = transcript.submission && !transcript.pop3_clients.contains(&number);
        let mut client = Client {
            lines: LineStream::new(Box::new(end), gateway.timeouts.login),
            address: match transcript.other_addresses.get(&number) {
                Some(address) => *address,
                None => transcript.address,
            },
            is_address_of_balancer: false,
            secure: transcript.secure,
            listener: match (is_submission, transcript.secure) {
                (false, false) => "pop3",
                (false, true) => "pop3s",
                (true, false) => "smtp",
                (true, true) => "smtps",
            },
        };
        let session = tokio::spawn(async move {
            match is_submission {
                false => pop3::serve(&mut client, &gateway, Instant::now()).await,
                true => submission::serve(client, &gateway, Instant::now()).await,
            }
        });
        self.clients.push(ClientLeg { wire, session });
    }

    /// As popgate does when it starts, with the service that the transcript is about.
    pub(crate) fn get_to_know(&self, transcript: &Transcript) {
        let is_submission = transcript.submission;
        let hostname = self.gateway.submission.settings.hostname.clone();
        for upstream in self.gateway.accounts.upstreams() {
            let (upstream, hostname) = (Arc::clone(upstream), hostname.clone());
            tokio::spawn(async move {
                if is_submission {
                    if let Ok(client) = upstream.connect_submission(&hostname).await {
                        client.quit().await;
                    }
                } else if let Ok(client) = upstream.connect().await {
                    client.logout().await;
                }
            });
        }
    }

    /// As popgate does as long as it runs.
    pub(crate) fn keep_warm(&mut self) {
        for upstream in self.gateway.accounts.upstreams() {
            let draining = self.gateway.draining.clone();
            self.keepers.spawn(upstream.clone().keep_warm(draining));
        }
    }

    /// The connections that popgate has asked for so far; `None` where there is none.
    pub(crate) fn dials(&self) -> Vec<Option<Wire>> {
        self.dialer.play().dialled.clone()
    }

    /// Lets popgate do all that it can do without time passing.
    pub(crate) async fn settle(&self) {
        // The paused clock moves only when nobody can do anything else.
        sleep(Duration::from_millis(1)).await;
    }
}

/// Hands out wires as the transcript says.
struct Dialer {
    outcomes: Vec<Dialled>,
    play: Mutex<DialerPlay>,
}

/// What is of one play only.
struct DialerPlay {
    faults: Faults,
    activity: Arc<Notify>,
    dialled: Vec<Option<Wire>>,
}

impl DialerPlay {
    fn new(faults: Faults) -> Self {
        Self {
            faults,
            activity: Arc::new(Notify::new()),
            dialled: Vec::new(),
        }
    }
}

impl Dialer {
    fn play(&self) -> MutexGuard<'_, DialerPlay> {
        self.play.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Dialer {
    fn dial<'a>(&'a self, _: &'a Endpoint, _: Duration) -> Dialling<'a> {
        let mut play = self.play();
        let number = play.dialled.len();
        play.activity.notify_one();
        match self.outcomes.get(number) {
            Some(Dialled::Silent) => {
                play.dialled.push(None);
                Box::pin(std::future::pending())
            }
            Some(Dialled::Refused) => {
                play.dialled.push(None);
                Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
            }
            Some(Dialled::Accepted) | None => {
                let (wire, end) = wire(play.faults.on_dial(number), play.activity.clone());
                play.dialled.push(Some(wire));
                let end: Box<dyn ByteStream> = Box::new(end);
                Box::pin(async { Ok(end) })
            }
        }
    }
}

/// The settings of a transcript over an upstream on loopback.
fn config(transcript: &Transcript) -> Config {
    let mut variables = transcript.settings.clone();
    let has = |prefix: &str, variables: &[(String, String)]| {
        variables.iter().any(|(name, _)| name.starts_with(prefix))
    };
    if transcript.toml.is_empty() && !has("POPGATE__UPSTREAM__", &variables) {
        let name = "POPGATE__UPSTREAM__DEFAULT__IMAP";
        variables.push((name.to_owned(), "imap://127.0.0.1".to_owned()));
    }
    if transcript.submission {
        // Most transcripts are about something else; and a date would be another one each time.
        for (name, value) in [
            ("POPGATE__UPSTREAM__DEFAULT__SMTP", "smtp://127.0.0.1"),
            ("POPGATE__SMTP__RECEIVED", "false"),
            ("POPGATE__SMTP__SENT_COPY", "never"),
        ] {
            if !has(name, &variables) {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    // Most transcripts are about something else.
    if !has("POPGATE__READ_AHEAD__", &variables) {
        variables.push(("POPGATE__READ_AHEAD__OCTETS".to_owned(), "0".to_owned()));
    }
    for (_, value) in &mut variables {
        *value = value
            .replace("$AUTHORITY", &CERTIFICATES.authority.display().to_string())
            .replace(
                "$CERTIFICATE",
                &CERTIFICATES.certificate.display().to_string(),
            )
            .replace(
                "$PRIVATE_KEY",
                &CERTIFICATES.private_key.display().to_string(),
            );
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("popgate.toml");
    let file = (!transcript.toml.is_empty()).then(|| {
        std::fs::write(&file, &transcript.toml).expect("written");
        std::fs::write(folder.path().join("password"), "secret\n").expect("written");
        file
    });
    let mut config = Config::load(file.as_deref(), variables, &Flags::default())
        .unwrap_or_else(|problems| panic!("{}: {:?}", transcript.name, problems.lines()));
    for upstream in &mut config.upstreams {
        let upstream = Arc::make_mut(upstream);
        if transcript.without_tls {
            upstream.imap.security = EndpointSecurity::Clear;
            if let Some(smtp) = &mut upstream.smtp {
                smtp.security = EndpointSecurity::Clear;
            }
        }
        // Reading the system's roots for every session of a sweep would take most of its time.
        upstream
            .ca_file
            .get_or_insert(CERTIFICATES.authority.clone());
    }
    config
}
