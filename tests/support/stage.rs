//! [`Stage`]: a gateway, the clients in front of it and the upstream connections behind it, all in
//! memory.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use popgate::config::{Config, Endpoint, EndpointSecurity, Flags};
use popgate::line_stream::{ByteStream, LineStream};
use popgate::session::{Client, Gateway, pop3};
use popgate::upstream::{Dial, Dialling};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::script::{Dialled, Transcript};
use super::tls::CERTIFICATES;
use super::wire::{Fault, Wire, wire};

pub(crate) struct Stage {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) clients: Vec<ClientLeg>,
    /// Hears of everything that popgate does.
    pub(crate) activity: Arc<Notify>,
    dialer: Arc<Dialer>,
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

impl Stage {
    pub(crate) fn set(transcript: &Transcript, faults: Faults) -> Self {
        let config = config(transcript);
        let activity = Arc::new(Notify::new());
        let dialer = Arc::new(Dialer {
            outcomes: transcript.dials.clone(),
            faults,
            activity: activity.clone(),
            dialled: Mutex::default(),
        });
        let gateway = popgate::gateway(&config, dialer.clone(), CancellationToken::new());
        Self {
            gateway: gateway.expect("a gateway"),
            clients: Vec::new(),
            activity,
            dialer,
        }
    }

    /// The next client connects.
    pub(crate) fn connect(&mut self, transcript: &Transcript) {
        let fault = self.dialer.faults.on_client(self.clients.len());
        let (wire, end) = wire(fault, self.activity.clone());
        let gateway = self.gateway.clone();
        let client = Client {
            lines: LineStream::new(Box::new(end), gateway.timeouts.login),
            address: transcript.address,
            secure: transcript.secure,
            listener: if transcript.secure { "pop3s" } else { "pop3" },
        };
        let session =
            tokio::spawn(async move { pop3::serve(client, &gateway, Instant::now()).await });
        self.clients.push(ClientLeg { wire, session });
    }

    /// As popgate does when it starts.
    pub(crate) fn get_to_know(&self) {
        for upstream in self.gateway.accounts.upstreams().cloned() {
            tokio::spawn(async move {
                if let Ok(client) = upstream.connect().await {
                    client.logout().await;
                }
            });
        }
    }

    /// The connections that popgate has asked for so far; `None` where there is none.
    pub(crate) fn dials(&self) -> Vec<Option<Wire>> {
        self.dialer.dialled().clone()
    }

    pub(crate) fn dial(&self, number: usize) -> Option<Wire> {
        self.dialer.dialled().get(number).cloned().flatten()
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
    faults: Faults,
    activity: Arc<Notify>,
    dialled: Mutex<Vec<Option<Wire>>>,
}

impl Dialer {
    fn dialled(&self) -> MutexGuard<'_, Vec<Option<Wire>>> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Dialer {
    fn dial<'a>(&'a self, _: &'a Endpoint, _: Duration) -> Dialling<'a> {
        let mut dialled = self.dialled();
        let number = dialled.len();
        let outcome = self.outcomes.get(number).copied();
        self.activity.notify_one();
        if matches!(outcome, Some(Dialled::Refused | Dialled::Silent)) {
            dialled.push(None);
        }
        match outcome {
            Some(Dialled::Silent) => Box::pin(std::future::pending()),
            Some(Dialled::Refused) => {
                Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
            }
            Some(Dialled::Accepted) | None => {
                let (wire, end) = wire(self.faults.on_dial(number), self.activity.clone());
                dialled.push(Some(wire));
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
    for (name, value) in &mut variables {
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
        debug_assert!(name.starts_with("POPGATE__"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("popgate.toml");
    let file = (!transcript.toml.is_empty()).then(|| {
        std::fs::write(&file, &transcript.toml).expect("written");
        file
    });
    let mut config = Config::load(file.as_deref(), variables, &Flags::default())
        .unwrap_or_else(|problems| panic!("{}: {:?}", transcript.name, problems.lines()));
    for upstream in &mut config.upstreams {
        let upstream = Arc::make_mut(upstream);
        if transcript.without_tls {
            upstream.imap.security = EndpointSecurity::Clear;
        }
        // Reading the system's roots for every session of a sweep would take most of its time.
        upstream
            .ca_file
            .get_or_insert(CERTIFICATES.authority.clone());
    }
    config
}
