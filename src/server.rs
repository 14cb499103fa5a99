//! Accepting clients: permits, the PROXY header, implicit TLS, one task a session, and an orderly end.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::account::{Counts, Permit, network};
use crate::failure::FailureKind;
use crate::line_stream::{ByteStream, LineStream};
use crate::metrics::{OpenGuard, Rejection};
use crate::proxy_protocol::{self, Source};
use crate::session::{Client, Gateway, SessionId, pop3, submission};
use crate::tls::{self, TlsAcceptor};

/// Pause after accept failed, as it does when descriptors run out: long enough not to spin, short
/// enough to recover at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The log hears of that no more often.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// Time in which a client that is turned away may read why.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// Clients that are being told why they are turned away; further ones are only dropped.
const REFUSALS_MAX: usize = 64;

/// Descriptors that no session gets: listeners, admin requests, clients that are turned away,
/// connections that wait for a login, copies of sent mail, the runtime's own.
const DESCRIPTORS_RESERVED: u64 = 256;

/// What a session takes: its client's and its upstream's.
const DESCRIPTORS_PER_SESSION: u64 = 2;

/// What is spoken with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// They read mail.
    Pop3,
    /// They send mail.
    Submission,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pop3 => "POP3",
            Self::Submission => "submission",
        })
    }
}

/// How TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// By STLS or STARTTLS, if the client wants it.
    Upgrade,
    /// With the first octet.
    Implicit,
}

/// An open socket for clients.
pub struct Listener {
    socket: TcpListener,
    protocol: Protocol,
    security: Security,
}

impl Listener {
    /// Where these clients come in.
    pub fn new(socket: TcpListener, protocol: Protocol, security: Security) -> Self {
        Self {
            socket,
            protocol,
            security,
        }
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How TLS begins there.
    pub fn security(&self) -> Security {
        self.security
    }

    /// Where clients find it, also when port 0 was asked for.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// As metrics call it.
    pub fn label(&self) -> &'static str {
        match (self.protocol, self.security) {
            (Protocol::Pop3, Security::Implicit) => "pop3s",
            (Protocol::Pop3, Security::Upgrade) => "pop3",
            (Protocol::Submission, Security::Implicit) => "smtps",
            (Protocol::Submission, Security::Upgrade) => "smtp",
        }
    }

    /// For the first octet; `None` where the client has to ask for it.
    fn acceptor(&self, gateway: &Gateway) -> Option<TlsAcceptor> {
        match (self.security, self.protocol) {
            (Security::Upgrade, _) => None,
            (Security::Implicit, Protocol::Pop3) => gateway.tls.clone(),
            (Security::Implicit, Protocol::Submission) => gateway.submission.tls.clone(),
        }
    }
}

/// Opens a socket.
///
/// # Errors
/// With the address in the text.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// What new sessions go by; those that have begun keep what they began with.
pub struct Current(RwLock<Arc<Gateway>>);

impl Current {
    /// Until it is replaced, this.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self(RwLock::new(gateway))
    }

    /// For a session that begins now.
    pub fn gateway(&self) -> Arc<Gateway> {
        let current = self.0.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For all sessions to come.
    pub fn replace(&self, gateway: Arc<Gateway>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = gateway;
    }
}

/// How many clients there may be, all listeners together.
struct Door {
    current: Arc<Current>,
    draining: CancellationToken,
    connections: Counts<()>,
    per_address: Counts<IpAddr>,
    refusals: Arc<Semaphore>,
    sessions: TaskTracker,
}

/// Serves clients until `draining` is cancelled and `timeouts.shutdown_delay` has passed, in which those
/// who come are told to come again. The sessions end: those in TRANSACTION within `timeouts.drain` of the
/// cancellation, those in UPDATE when they are done.
///
/// Says when `timeouts.drain` is over.
pub async fn run(
    listeners: Vec<Listener>,
    current: Arc<Current>,
    draining: CancellationToken,
) -> Instant {
    let sessions = TaskTracker::new();
    let door = Arc::new(Door {
        current: current.clone(),
        draining: draining.clone(),
        connections: Counts::default(),
        per_address: Counts::default(),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        sessions: sessions.clone(),
    });
    let accepting = TaskTracker::new();
    for listener in listeners {
        accepting.spawn(accept(listener, door.clone()));
    }
    accepting.close();
    draining.cancelled().await;
    let gateway = current.gateway();
    let drained = Instant::now() + gateway.timeouts.drain;
    accepting.wait().await;
    sessions.close();
    if timeout_at(drained, sessions.wait()).await.is_err() {
        gateway.drained.cancel();
        sessions.wait().await;
    }
    drained
}

/// As many of those that are wanted as there are descriptors for, of which we take all that we may.
pub fn connections_max(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let descriptors = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    let max = descriptors.map_or(usize::MAX, sessions_within);
    if max < wanted {
        warn!(
            descriptors,
            connections = max,
            "limits.connections is {wanted}, which takes more descriptors than there may be; raise \
             LimitNOFILE or ulimit -n"
        );
    }
    max.min(wanted)
}

fn sessions_within(descriptors: u64) -> usize {
    let reserved = DESCRIPTORS_RESERVED.min(descriptors / 2);
    let sessions = (descriptors - reserved) / DESCRIPTORS_PER_SESSION;
    usize::try_from(sessions).unwrap_or(usize::MAX).max(1)
}

async fn accept(listener: Listener, door: Arc<Door>) {
    let closing = async {
        door.draining.cancelled().await;
        sleep(door.current.gateway().timeouts.shutdown_delay).await;
    };
    tokio::pin!(closing);
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            () = &mut closing => return,
        };
        match accepted {
            Ok((socket, address)) => {
                // A client of 192.0.2.1 is that also where the listener is IPv6.
                admit(socket, address.ip().to_canonical(), &listener, &door);
            }
            Err(error) => {
                if complained.is_none_or(|at| at.elapsed() > COMPLAINT_PAUSE) {
                    complained = Some(Instant::now());
                    warn!(listener = listener.label(), %error, "no client can be accepted for now");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts a session, if there is room for it.
fn admit(socket: TcpStream, address: IpAddr, listener: &Listener, door: &Arc<Door>) {
    let gateway = door.current.gateway();
    let mut arrival = Arrival {
        accepted: Instant::now(),
        address,
        is_address_of_balancer: false,
        label: listener.label(),
        protocol: listener.protocol,
        acceptor: listener.acceptor(&gateway),
        places: Places::default(),
        gateway,
        door: door.clone(),
    };
    if listener.security == Security::Implicit && arrival.acceptor.is_none() {
        // Settings without a certificate are refused, so that this does not happen.
        return;
    }
    let is_proxied = arrival.is_proxied();
    let admitted = arrival.take_place().and_then(|()| match is_proxied {
        // Who it is about is not known yet.
        true => Ok(()),
        false => arrival.take_place_of_address(),
    });
    match admitted {
        Ok(()) => {
            // What is done once is in boxes, so that a session that waits is small.
            let entry = Box::pin(arrival.enter(socket, is_proxied));
            door.sessions.spawn(session(entry));
        }
        Err(reason) => arrival.turn_away(socket, reason),
    }
}

/// A connection on its way to a session.
struct Arrival {
    accepted: Instant,
    /// The client's, as far as it is known.
    address: IpAddr,
    /// Whether that is its balancer's.
    is_address_of_balancer: bool,
    label: &'static str,
    protocol: Protocol,
    acceptor: Option<TlsAcceptor>,
    places: Places,
    gateway: Arc<Gateway>,
    door: Arc<Door>,
}

/// Leave to be here, until it is dropped.
#[derive(Default)]
struct Places {
    any: Option<Permit<()>>,
    of_address: Option<Permit<IpAddr>>,
    open: Option<OpenGuard>,
}

/// A client that a session can begin with.
struct Entered {
    client: Client,
    accepted: Instant,
    protocol: Protocol,
    gateway: Arc<Gateway>,
    places: Places,
}

async fn session(entry: Pin<Box<impl Future<Output = Option<Entered>>>>) {
    // The places are given back last.
    let Some(Entered {
        places: _places,
        gateway,
        protocol,
        accepted,
        mut client,
    }) = entry.await
    else {
        return;
    };
    match protocol {
        Protocol::Pop3 => pop3::serve(&mut client, &gateway, accepted).await,
        // That takes several times as much.
        Protocol::Submission => Box::pin(submission::serve(client, &gateway, accepted)).await,
    }
}

impl Arrival {
    fn is_proxied(&self) -> bool {
        let mut networks = self.gateway.proxy_protocol_from.iter();
        networks.any(|network| network.contains(&self.address))
    }

    fn take_place(&mut self) -> Result<(), Rejection> {
        let max = self.gateway.limits.connections;
        let permit = self.door.connections.take((), max);
        let permit = permit.ok_or(Rejection::Connections)?;
        self.places.any = Some(permit);
        self.places.open = Some(self.gateway.metrics.connection(self.label));
        Ok(())
    }

    fn take_place_of_address(&mut self) -> Result<(), Rejection> {
        let max = self.gateway.limits.connections_per_address;
        let permit = self.door.per_address.take(network(self.address), max);
        let permit = permit.ok_or(Rejection::ConnectionsPerAddress)?;
        self.places.of_address = Some(permit);
        Ok(())
    }

    /// What comes before a session; `None`: there is none.
    async fn enter(mut self, mut socket: TcpStream, is_proxied: bool) -> Option<Entered> {
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY");
        }
        if is_proxied {
            match self.in_time(proxy_protocol::read(&mut socket)).await {
                Some(Ok(Some(Source::Client(address)))) => self.address = address,
                Some(Ok(Some(Source::Unknown))) => self.is_address_of_balancer = true,
                Some(Ok(None)) => {
                    debug!(balancer = %self.address, "it has looked whether it is accepted");
                    return None;
                }
                Some(Err(error)) => {
                    let balancer = self.address;
                    warn!(%balancer, %error, "a connection of security.proxy_protocol_from is closed");
                    self.rejected(Rejection::ProxyHeader);
                    return None;
                }
                None => {
                    self.rejected(Rejection::ProxyHeader);
                    return None;
                }
            }
            if let Err(reason) = self.take_place_of_address() {
                self.turn_away(socket, reason);
                return None;
            }
        }
        let mut transport: Box<dyn ByteStream> = Box::new(socket);
        let secure = self.acceptor.is_some();
        if let Some(acceptor) = self.acceptor.take() {
            transport = match self.in_time(tls::accept(&acceptor, transport)).await {
                Some(Ok(transport)) => transport,
                Some(Err(error)) => {
                    debug!(client = %self.address, %error, "TLS handshake failed");
                    self.rejected(Rejection::TlsHandshake);
                    return None;
                }
                None => {
                    self.rejected(Rejection::TlsHandshake);
                    return None;
                }
            };
        }
        let client = Client {
            lines: LineStream::new(transport, self.gateway.timeouts.login),
            address: self.address,
            is_address_of_balancer: self.is_address_of_balancer,
            secure,
            listener: self.label,
        };
        Some(Entered {
            client,
            accepted: self.accepted,
            protocol: self.protocol,
            gateway: self.gateway,
            places: self.places,
        })
    }

    /// What must be done before a session, within `timeouts.login`; when popgate ends, soon.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let hurry = async {
            self.gateway.draining.cancelled().await;
            sleep(REFUSAL_PATIENCE).await;
        };
        tokio::select! {
            done = timeout_at(self.accepted + self.gateway.timeouts.login, work) => done.ok(),
            () = hurry => None,
        }
    }

    fn rejected(&self, reason: Rejection) {
        self.gateway.metrics.connection_rejected(self.label, reason);
    }

    /// Says why, where that is possible without a handshake, and where not too many wait for it.
    fn turn_away(self, socket: TcpStream, reason: Rejection) {
        self.rejected(reason);
        let Ok(permit) = self.door.refusals.clone().try_acquire_owned() else {
            return;
        };
        if self.acceptor.is_some() {
            return;
        }
        let reply = match self.protocol {
            Protocol::Pop3 => FailureKind::reply,
            Protocol::Submission => FailureKind::smtp_reply,
        };
        let sessions = self.door.sessions.clone();
        // Its place is for others.
        drop(self);
        sessions.spawn(async move {
            let mut lines = LineStream::new(Box::new(socket), REFUSAL_PATIENCE);
            reply(FailureKind::Overloaded, lines.output(), SessionId::new());
            lines.close().await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand of them take 13 MB.
    const SESSION_OCTETS_MAX: usize = 1_280;

    /// The futures that this makes.
    fn octets_of<T, F: Future>(_: impl FnOnce(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_that_waits_is_small() {
        let entry = || Box::pin(async { None::<Entered> });
        let octets = octets_of(|()| session(entry()));
        assert!(octets <= SESSION_OCTETS_MAX, "{octets}");
    }

    #[test]
    fn descriptors_are_left_for_the_rest() {
        for (descriptors, sessions) in [(0, 1), (64, 16), (1024, 384), (524_288, 262_016)] {
            assert_eq!(sessions_within(descriptors), sessions, "{descriptors}");
        }
    }
}
