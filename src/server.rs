//! Accepting clients: permits, implicit TLS, one task a session, and an orderly end.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::account::{Counts, network};
use crate::config::Limits;
use crate::failure::FailureKind;
use crate::line_stream::{ByteStream, LineStream};
use crate::metrics::Rejection;
use crate::session::{Client, Gateway, SessionId, pop3, submission};
use crate::tls::{self, TlsAcceptor};

/// Pause after accept failed, as it does when descriptors run out: long enough not to spin, short
/// enough to recover at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time in which a client that is turned away may read why.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// Clients that are being told why they are turned away; further ones are only dropped.
const REFUSALS_MAX: usize = 64;

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

/// An open socket for clients.
pub struct Listener {
    socket: TcpListener,
    protocol: Protocol,
    /// For TLS with the first octet; `None` for clear text.
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Opens a socket.
    ///
    /// # Errors
    /// With the address in the text.
    pub async fn bind(
        address: SocketAddr,
        protocol: Protocol,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<Self> {
        let socket = bind(address).await?;
        Ok(Self {
            socket,
            protocol,
            tls,
        })
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where clients find it, also when port 0 was asked for.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn label(&self) -> &'static str {
        match (self.protocol, &self.tls) {
            (Protocol::Pop3, Some(_)) => "pop3s",
            (Protocol::Pop3, None) => "pop3",
            (Protocol::Submission, Some(_)) => "smtps",
            (Protocol::Submission, None) => "smtp",
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

/// How many clients there may be, all listeners together.
struct Door {
    gateway: Arc<Gateway>,
    connections: Arc<Semaphore>,
    per_address: Counts<IpAddr>,
    per_address_max: usize,
    refusals: Arc<Semaphore>,
    sessions: TaskTracker,
}

/// Serves clients until `gateway.draining` is cancelled, then lets the sessions end: those in
/// TRANSACTION within `timeouts.drain`, those in UPDATE when they are done.
pub async fn run(listeners: Vec<Listener>, gateway: Arc<Gateway>, limits: &Limits) {
    let sessions = TaskTracker::new();
    let door = Arc::new(Door {
        gateway: gateway.clone(),
        connections: Arc::new(Semaphore::new(limits.connections)),
        per_address: Counts::default(),
        per_address_max: limits.connections_per_address,
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        sessions: sessions.clone(),
    });
    let accepting = TaskTracker::new();
    for listener in listeners {
        accepting.spawn(accept(listener, door.clone()));
    }
    accepting.close();
    accepting.wait().await;
    sessions.close();
    if timeout(gateway.timeouts.drain, sessions.wait())
        .await
        .is_err()
    {
        gateway.drained.cancel();
        sessions.wait().await;
    }
}

async fn accept(listener: Listener, door: Arc<Door>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            () = door.gateway.draining.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                // A client of 192.0.2.1 is that also where the listener is IPv6.
                admit(socket, address.ip().to_canonical(), &listener, &door);
            }
            Err(error) => {
                warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts a session, if there is room for it.
fn admit(socket: TcpStream, address: IpAddr, listener: &Listener, door: &Arc<Door>) {
    let metrics = &door.gateway.metrics;
    let label = listener.label();
    let Ok(connection) = door.connections.clone().try_acquire_owned() else {
        metrics.connection_rejected(label, Rejection::Connections);
        return turn_away(socket, listener, door);
    };
    let Some(place) = door
        .per_address
        .take(network(address), door.per_address_max)
    else {
        metrics.connection_rejected(label, Rejection::ConnectionsPerAddress);
        return turn_away(socket, listener, door);
    };
    let open = metrics.connection(label);
    let (gateway, tls) = (door.gateway.clone(), listener.tls.clone());
    let protocol = listener.protocol;
    door.sessions.spawn(async move {
        session(socket, address, label, protocol, tls, &gateway).await;
        drop((connection, place, open));
    });
}

async fn session(
    socket: TcpStream,
    address: IpAddr,
    listener: &'static str,
    protocol: Protocol,
    acceptor: Option<TlsAcceptor>,
    gateway: &Gateway,
) {
    let accepted = Instant::now();
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
    let mut transport: Box<dyn ByteStream> = Box::new(socket);
    let secure = acceptor.is_some();
    if let Some(acceptor) = acceptor {
        let handshake = timeout_at(
            accepted + gateway.timeouts.login,
            tls::accept(&acceptor, transport),
        );
        let handshaken = tokio::select! {
            handshaken = handshake => handshaken,
            () = gateway.draining.cancelled() => return,
        };
        transport = match handshaken {
            Ok(Ok(transport)) => transport,
            Ok(Err(error)) => {
                debug!(client = %address, %error, "TLS handshake failed");
                return gateway
                    .metrics
                    .connection_rejected(listener, Rejection::TlsHandshake);
            }
            Err(_) => {
                return gateway
                    .metrics
                    .connection_rejected(listener, Rejection::TlsHandshake);
            }
        };
    }
    let client = Client {
        lines: LineStream::new(transport, gateway.timeouts.login),
        address,
        secure,
        listener,
    };
    match protocol {
        Protocol::Pop3 => pop3::serve(client, gateway, accepted).await,
        Protocol::Submission => submission::serve(client, gateway, accepted).await,
    }
}

/// Says why, where that is possible without a handshake, and where not too many wait for it.
fn turn_away(socket: TcpStream, listener: &Listener, door: &Arc<Door>) {
    let Ok(permit) = door.refusals.clone().try_acquire_owned() else {
        return;
    };
    if listener.tls.is_some() {
        return;
    }
    let reply = match listener.protocol {
        Protocol::Pop3 => FailureKind::reply,
        Protocol::Submission => FailureKind::smtp_reply,
    };
    door.sessions.spawn(async move {
        let mut lines = LineStream::new(Box::new(socket), REFUSAL_PATIENCE);
        reply(FailureKind::Overloaded, lines.output(), SessionId::new());
        lines.close().await;
        drop(permit);
    });
}
