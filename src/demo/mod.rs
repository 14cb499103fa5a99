//! `popgate demo`: a *sample* IMAP and submission upstream on loopback, in memory, and the proxy in front of it.
//!
//! The sample speaks real IMAP and SMTP over real sockets, so that what a first look shows is what popgate
//! does. It also serves tests as a quick upstream. It is no mail server: user and password are
//! public, and everything is gone when it stops.
//!
//! [`mailbox`] has the mail, `imap` and `submission` the conversations, `messages` what a mailbox
//! begins with.

mod date;
mod imap;
pub mod mailbox;
mod messages;
mod rfc822;
mod submission;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::date::InternalDate;
use self::mailbox::SampleStore;
use crate::config::{Config, Endpoint, EndpointSecurity, Service, Upstream};

/// The only user of the sample.
pub const USER: &str = "demo";
/// The password of [`USER`].
pub const PASSWORD: &str = "demo";

/// Enough for a person's clients and a test's, few enough to be of no use to anybody else.
const CONNECTIONS_MAX: usize = 32;
/// Of the demo's own clients: so few that the descriptors of an ordinary shell, 1,024, are plenty.
const CLIENTS_MAX: usize = 100;
/// After that, connections that did not take their BYE are cut.
const FAREWELL: Duration = Duration::from_secs(5);
/// A pause after `accept` failed, as it does without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The sample servers, bound but not yet running.
#[derive(Debug)]
pub struct SampleUpstream {
    listener: TcpListener,
    local_address: SocketAddr,
    submission: TcpListener,
    submission_address: SocketAddr,
    store: SampleStore,
}

impl SampleUpstream {
    /// Takes a loopback address for IMAP, port 0 for any; refuses every other one. Submission gets a
    /// port of its own on the same address.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().to_canonical().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the sample upstream has a public password, so it listens on loopback only, \
                     not on {address}"
                ),
            ));
        }
        let listener = TcpListener::bind(address).await?;
        let local_address = listener.local_addr()?;
        let submission = TcpListener::bind((address.ip(), 0)).await?;
        let submission_address = submission.local_addr()?;
        // The mail of another run is other mail, which its UIDs must not be taken for.
        let now = InternalDate::now().unix_seconds();
        let store = SampleStore::new(u32::try_from(now).unwrap_or(1).max(1));
        messages::deliver(&store);
        Ok(Self {
            listener,
            local_address,
            submission,
            submission_address,
            store,
        })
    }

    /// Where it listens for IMAP.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Where it listens for submission.
    pub fn submission_address(&self) -> SocketAddr {
        self.submission_address
    }

    /// The mail, to look at or to change while it runs.
    pub fn store(&self) -> SampleStore {
        self.store.clone()
    }

    /// Serves until `shutdown`, then says BYE to everybody.
    pub async fn run(self, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let (service, accepted) = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => (Service::Imap, accepted),
                accepted = self.submission.accept() => (Service::Submission, accepted),
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (store, shutdown) = (self.store.clone(), shutdown.clone());
            match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => connections.spawn(async move {
                    serve(service, stream, store, shutdown).await;
                    drop(permit);
                }),
                Err(_) => match service {
                    Service::Imap => connections.spawn(imap::turn_away(stream)),
                    Service::Submission => {
                        connections.spawn(submission::turn_away(Box::new(stream)))
                    }
                },
            };
        }
        let farewell = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        connections.shutdown().await;
    }
}

async fn serve(
    service: Service,
    stream: TcpStream,
    store: SampleStore,
    shutdown: CancellationToken,
) {
    // Replies are written whole; without it they would wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    match service {
        Service::Imap => imap::serve(stream, store, shutdown).await,
        Service::Submission => submission::serve(Box::new(stream), store, shutdown).await,
    }
}

/// Where the parts of the demo are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where the proxy is to listen for POP3 clients.
    pub pop3: SocketAddr,
    /// Where the proxy is to listen for clients that send.
    pub smtp: SocketAddr,
    /// Where the proxy is to serve `/metrics` and the like.
    pub admin: SocketAddr,
    /// Where the sample upstream listens: IMAP in clear text.
    pub upstream: SocketAddr,
    /// Where it takes mail, likewise.
    pub submission_upstream: SocketAddr,
}

/// The settings of the proxy in front of the sample.
pub fn settings(addresses: Addresses) -> Config {
    let endpoint = |service, address: SocketAddr| Endpoint {
        service,
        host: address.ip().to_string(),
        port: address.port(),
        security: EndpointSecurity::Clear,
    };
    let mut sample = Upstream::new("sample", endpoint(Service::Imap, addresses.upstream));
    sample.smtp = Some(endpoint(Service::Submission, addresses.submission_upstream));
    let mut config = Config::for_upstream(sample);
    config.pop3.listeners.clear = vec![addresses.pop3];
    config.smtp.listeners.clear = vec![addresses.smtp];
    config.admin = Some(addresses.admin);
    config.limits.connections = CLIENTS_MAX;
    // There is no balancer that would have to hear of it.
    config.timeouts.shutdown_delay = Duration::ZERO;
    config
}

/// `popgate demo`: the sample upstream, and in front of it the proxy, which `proxy` starts with
/// these addresses and which must end at the token. The upstream outlives it, for whatever
/// sessions have to finish.
pub async fn run<P, F>(port_base: u16, shutdown: CancellationToken, proxy: P) -> io::Result<()>
where
    P: FnOnce(Addresses, CancellationToken) -> F,
    F: Future<Output = io::Result<()>>,
{
    let highest = u16::MAX - Ports::SUBMISSION_OFFSET;
    if !(1..=highest).contains(&port_base) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("--port-base must be from 1 to {highest}, not {port_base}"),
        ));
    }
    let ports = Ports::above(port_base);
    for port in [ports.pop3, ports.smtp, ports.admin] {
        check_free(port).await?;
    }
    let upstream = SampleUpstream::bind(loopback(0)).await?;
    let addresses = Addresses {
        pop3: loopback(ports.pop3),
        smtp: loopback(ports.smtp),
        admin: loopback(ports.admin),
        upstream: upstream.local_address(),
        submission_upstream: upstream.submission_address(),
    };
    print(&instructions(port_base))?;
    let upstream_shutdown = CancellationToken::new();
    let running = tokio::spawn(upstream.run(upstream_shutdown.clone()));
    // Also if the caller drops this future.
    let upstream_end = upstream_shutdown.drop_guard();
    let result = proxy(addresses, shutdown).await;
    drop(upstream_end);
    running.await.map_err(io::Error::other)?;
    result
}

/// What a person at a terminal is told.
pub fn instructions(port_base: u16) -> String {
    let Ports { pop3, smtp, admin } = Ports::above(port_base);
    format!(
        "\
popgate demo: a sample mailbox behind the real proxy, on this machine only.

The sample is an IMAP and submission server with a few messages that live in
memory: what is sent arrives in the sample mailbox and nowhere else, nothing is
kept. User {USER}, password {PASSWORD}.

List the messages:      curl pop3://127.0.0.1:{pop3}/ --user {USER}:{PASSWORD}
Read the first one:     curl pop3://127.0.0.1:{pop3}/1 --user {USER}:{PASSWORD}
Delete the last one:    curl --head --request DELE pop3://127.0.0.1:{pop3}/{last} --user {USER}:{PASSWORD}
Send a message:         printf 'Subject: hello\\n\\nI was sent.\\n' | curl smtp://127.0.0.1:{smtp}/ --user {USER}:{PASSWORD} --mail-from me@example.org --mail-rcpt you@example.org --upload-file - --crlf
See what was counted:   curl http://127.0.0.1:{admin}/metrics

With a mail client: a POP3 account on server 127.0.0.1, port {pop3}, no encryption
(connection security \"None\"), user {USER}, password {PASSWORD} (\"normal password\");
outgoing server (SMTP) 127.0.0.1, port {smtp}, the same.

Ctrl-C stops it.
",
        last = messages::COUNT,
    )
}

/// The ports of the demo, as far from each other as their usual numbers.
struct Ports {
    pop3: u16,
    smtp: u16,
    admin: u16,
}

impl Ports {
    /// 2587 above 2110.
    const SUBMISSION_OFFSET: u16 = 477;
    const ADMIN_OFFSET: u16 = 70;

    fn above(port_base: u16) -> Self {
        Self {
            pop3: port_base,
            smtp: port_base.saturating_add(Self::SUBMISSION_OFFSET),
            admin: port_base.saturating_add(Self::ADMIN_OFFSET),
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The proxy binds later; this is for an error that says what to do.
async fn check_free(port: u16) -> io::Result<()> {
    match TcpListener::bind(loopback(port)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "cannot listen on 127.0.0.1:{port}: {error}; choose other ports with --port-base"
            ),
        )),
    }
}

/// As `print!`, but a closed pipe is an error and no panic.
fn print(text: &str) -> io::Result<()> {
    use std::io::Write;
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

    use super::*;

    #[tokio::test]
    async fn it_listens_on_loopback_only() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
            let address: SocketAddr = address.parse().expect("an address");
            let error = SampleUpstream::bind(address).await.expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(
                error.to_string().contains(&format!("not on {address}")),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so() {
        let upstream = SampleUpstream::bind(loopback(0)).await.expect("a port");
        let address = upstream.local_address();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(upstream.run(shutdown.clone()));

        let mut clients = Vec::new();
        for _ in 0..=CONNECTIONS_MAX {
            let stream = TcpStream::connect(address).await.expect("a connection");
            let mut client = BufReader::new(stream);
            let mut greeting = String::new();
            client.read_line(&mut greeting).await.expect("a greeting");
            clients.push((client, greeting));
        }
        let (_, last) = clients.pop().expect("the last one");
        assert_eq!(last, "* BYE [LIMIT] Too many connections\r\n");
        assert!(
            clients
                .iter()
                .all(|(_, greeting)| greeting.starts_with("* OK "))
        );

        shutdown.cancel();
        for (mut client, _) in clients {
            let mut rest = String::new();
            client.read_to_string(&mut rest).await.expect("a farewell");
            assert_eq!(rest, "* BYE The sample is shutting down\r\n");
        }
        running.await.expect("it ends");
    }

    async fn run_without_proxy(port_base: u16) -> io::Error {
        let proxy = |_, _| async { panic!("must not be started") };
        let running = run(port_base, CancellationToken::new(), proxy);
        running.await.expect_err("refused")
    }

    #[tokio::test]
    async fn a_busy_port_is_named_with_the_way_out() {
        let busy = TcpListener::bind(loopback(0)).await.expect("a port");
        let port = busy.local_addr().expect("an address").port();
        let error = check_free(port).await.expect_err("busy").to_string();
        assert!(
            error.starts_with(&format!("cannot listen on 127.0.0.1:{port}: ")),
            "{error}"
        );
        assert!(
            error.ends_with("choose other ports with --port-base"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn every_port_must_exist() {
        for port_base in [0, 65_059, u16::MAX] {
            let error = run_without_proxy(port_base).await.to_string();
            let expected = format!("--port-base must be from 1 to 65058, not {port_base}");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn the_instructions_can_be_copied() {
        let text = instructions(2110);
        for line in [
            "curl pop3://127.0.0.1:2110/ --user demo:demo\n",
            "curl pop3://127.0.0.1:2110/1 --user demo:demo\n",
            "curl --head --request DELE pop3://127.0.0.1:2110/8 --user demo:demo\n",
            r"printf 'Subject: hello\n\nI was sent.\n' | curl smtp://127.0.0.1:2587/ --user demo:demo --mail-from ",
            "curl http://127.0.0.1:2180/metrics\n",
            "sample",
            "memory",
            "Ctrl-C",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }
}
