//! A whole session between two scripted ends in memory, for the targets that fuzz conversations.
//!
//! A script is text, of which each line means something or nothing, as in tests/transcripts: `C: ` a client
//! says, `s: ` the upstream says, where `TAG` is the oldest command that it has not answered, `s| ` likewise
//! without that, `eof client`, `eof upstream`, `set on_delete = …`. Everything that is said is written down in
//! its order.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use popgate::account::Accounts;
use popgate::config::{Config, Endpoint, Flags};
use popgate::line_stream::{ByteStream, LineStream};
use popgate::session::submission::{self, SentCopies};
use popgate::session::{Client, Gateway, pop3};
use popgate::state::Listings;
use popgate::upstream::{Dial, Dialling};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Octets that may wait on each way: more than any reply to a script of 4096 octets.
const WAY_OCTETS: usize = 256 * 1024;

/// Lines of a script that are played.
const LINES_MAX: usize = 400;

/// What the client's service is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Pop3,
    Submission,
}

/// Something that was said.
#[derive(Debug)]
pub enum Event {
    /// Octets, of a line, some lines or a part of one.
    ClientSays(Vec<u8>),
    ClientHears(Vec<u8>),
    /// A line, on the connection of this number.
    UpstreamSays(usize, Vec<u8>),
    /// On the connection of this number.
    UpstreamHears(usize, Vec<u8>),
}

/// Plays a script; whatever it is, the session ends.
pub fn play(script: &[u8], service: Service) -> Vec<Event> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(Play::run(script, service))
}

struct Play {
    service: Service,
    client: Option<DuplexStream>,
    dialer: Arc<Dialer>,
    upstreams: Vec<Option<DuplexStream>>,
    /// Commands that the upstream has not answered.
    tags: VecDeque<Vec<u8>>,
    /// The last line that the upstream heard of which the end has not come.
    unfinished: Vec<u8>,
    events: Vec<Event>,
}

impl Play {
    async fn run(script: &[u8], service: Service) -> Vec<Event> {
        let lines: Vec<&[u8]> = script
            .split(|octet| *octet == b'\n')
            .take(LINES_MAX)
            .collect();
        let policy = lines
            .iter()
            .find_map(|line| line.strip_prefix(b"set on_delete = "));
        let model = &MODELS[POLICIES
            .iter()
            .position(|it| Some(it.as_bytes()) == policy)
            .unwrap_or(0)];
        let dialer = Arc::new(Dialer::default());
        let gateway = Arc::new(model.gateway(dialer.clone()));
        let (client, end) = duplex(WAY_OCTETS);
        let mut client_of_popgate = Client {
            lines: LineStream::new(Box::new(end), gateway.timeouts.login),
            address: [127, 0, 0, 1].into(),
            is_address_of_balancer: false,
            secure: true,
            listener: "pop3s",
        };
        let session = tokio::spawn(async move {
            match service {
                Service::Pop3 => {
                    pop3::serve(&mut client_of_popgate, &gateway, Instant::now()).await
                }
                Service::Submission => {
                    submission::serve(client_of_popgate, &gateway, Instant::now()).await
                }
            }
        });
        let mut play = Self {
            service,
            client: Some(client),
            dialer,
            upstreams: Vec::new(),
            tags: VecDeque::new(),
            unfinished: Vec::new(),
            events: Vec::new(),
        };
        play.settle().await;
        for line in lines {
            play.act(line).await;
        }
        // Whoever waits now learns that nothing more will come.
        play.client = None;
        play.settle().await;
        play.upstreams.clear();
        // Longer than any limit.
        for _ in 0..60 {
            play.settle().await;
            if session.is_finished() {
                break;
            }
            play.upstreams.clear();
            sleep(Duration::from_secs(60)).await;
        }
        assert!(session.is_finished(), "the session does not end");
        session.await.expect("no panic");
        play.events
    }

    async fn act(&mut self, line: &[u8]) {
        if let Some(said) = line.strip_prefix(b"C: ") {
            let octets = client_octets(said);
            self.events.push(Event::ClientSays(octets.clone()));
            if let Some(client) = &mut self.client {
                let _ = client.write_all(&octets).await;
            }
        } else if let Some(said) = line.strip_prefix(b"s: ") {
            let said = match said.strip_prefix(b"TAG ") {
                Some(rest) => [&self.tags.pop_front().unwrap_or_default()[..], b" ", rest].concat(),
                None => said.to_vec(),
            };
            self.upstream_says(said).await;
        } else if let Some(said) = line.strip_prefix(b"s| ") {
            self.upstream_says(said.to_vec()).await;
        } else if line == b"eof client" {
            self.client = None;
        } else if line == b"eof upstream" {
            if let Some(upstream) = self.upstreams.last_mut() {
                *upstream = None;
            }
        } else {
            return;
        }
        self.settle().await;
    }

    async fn upstream_says(&mut self, said: Vec<u8>) {
        let octets = [said.as_slice(), b"\r\n"].concat();
        let number = self.upstreams.len().wrapping_sub(1);
        if let Some(Some(upstream)) = self.upstreams.last_mut() {
            self.events.push(Event::UpstreamSays(number, said));
            let _ = upstream.write_all(&octets).await;
        }
    }

    /// Lets popgate do all that it can do without time passing, and hears what it says.
    async fn settle(&mut self) {
        loop {
            // The paused clock moves only when nobody can do anything else.
            sleep(Duration::from_millis(1)).await;
            let mut has_heard = false;
            for end in std::mem::take(&mut *self.dialer.opened.lock().expect("no panic")) {
                self.upstreams.push(Some(end));
                self.tags.clear();
                self.unfinished.clear();
                has_heard = true;
            }
            // What happened at once is told in the order of its causes: a reply to POP3 may precede the next
            // command's work, one to SMTP follows what was passed on.
            has_heard |= match self.service {
                Service::Pop3 => self.hear_client().await | self.hear_upstreams().await,
                Service::Submission => self.hear_upstreams().await | self.hear_client().await,
            };
            if !has_heard {
                return;
            }
        }
    }

    async fn hear_client(&mut self) -> bool {
        let Some(client) = &mut self.client else {
            return false;
        };
        let octets = heard(client).await;
        let has_heard = octets.is_some();
        self.events.extend(octets.map(Event::ClientHears));
        has_heard
    }

    async fn hear_upstreams(&mut self) -> bool {
        let mut has_heard = false;
        for number in 0..self.upstreams.len() {
            if let Some(upstream) = &mut self.upstreams[number]
                && let Some(octets) = heard(upstream).await
            {
                self.note_tags(&octets);
                self.events.push(Event::UpstreamHears(number, octets));
                has_heard = true;
            }
        }
        has_heard
    }

    fn note_tags(&mut self, octets: &[u8]) {
        self.unfinished.extend_from_slice(octets);
        while let Some(line) = next_line(&mut self.unfinished) {
            let mut words = line.split(|octet| *octet == b' ');
            if let (Some(tag), Some(_)) = (words.next(), words.next()) {
                self.tags.push_back(tag.to_vec());
            }
        }
    }
}

/// A client may say a bare LF, spelt `\n`, and with a backslash at the end no line end.
fn client_octets(said: &[u8]) -> Vec<u8> {
    let (mut rest, line_end): (&[u8], &[u8]) = match said.strip_suffix(b"\\") {
        Some(said) => (said, b""),
        None => (said, b"\r\n"),
    };
    let mut octets = Vec::with_capacity(said.len() + 2);
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\\n") {
        octets.extend_from_slice(&rest[..at]);
        octets.push(b'\n');
        rest = &rest[at + 2..];
    }
    octets.extend_from_slice(rest);
    octets.extend_from_slice(line_end);
    octets
}

async fn heard(end: &mut DuplexStream) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(length @ 1..)) = timeout(Duration::ZERO, end.read(&mut chunk)).await {
        octets.extend_from_slice(&chunk[..length]);
    }
    (!octets.is_empty()).then_some(octets)
}

#[derive(Default)]
struct Dialer {
    opened: Mutex<Vec<DuplexStream>>,
}

impl Dial for Dialer {
    fn dial<'a>(&'a self, _: &'a Endpoint, _: Duration) -> Dialling<'a> {
        let (ours, theirs) = duplex(WAY_OCTETS);
        self.opened.lock().expect("no panic").push(ours);
        let end: Box<dyn ByteStream> = Box::new(theirs);
        Box::pin(async { io::Result::Ok(end) })
    }
}

const POLICIES: [&str; 5] = ["expunge", "trash", "archive", "flag", "keep"];

/// What takes long to make, and remembers nothing of a session.
struct Model {
    config: Config,
    gateway: Arc<Gateway>,
}

static MODELS: LazyLock<Vec<Model>> =
    LazyLock::new(|| POLICIES.iter().map(|policy| Model::new(policy)).collect());

impl Model {
    fn new(policy: &str) -> Self {
        let variables = [
            ("UPSTREAM__DEFAULT__IMAP", "imap://127.0.0.1"),
            ("UPSTREAM__DEFAULT__SMTP", "smtp://127.0.0.1"),
            ("UPSTREAM__DEFAULT__WARM_CONNECTIONS", "0"),
            ("SMTP__RECEIVED", "false"),
            ("SMTP__SENT_COPY", "never"),
            ("READ_AHEAD__OCTETS", "0"),
            ("MAILDROP__ON_DELETE", policy),
        ];
        let variables =
            variables.map(|(name, value)| (format!("POPGATE__{name}"), value.to_owned()));
        let config = Config::load(None, variables, &Flags::default());
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        popgate::tls::install_provider();
        let gateway = popgate::gateway(
            &config,
            Arc::new(Dialer::default()),
            CancellationToken::new(),
        );
        Self {
            config,
            gateway: gateway.expect("a gateway"),
        }
    }

    fn gateway(&self, dialer: Arc<Dialer>) -> Gateway {
        let upstreams = self.gateway.accounts.upstreams();
        let upstreams: Vec<_> = upstreams
            .map(|known| Arc::new(known.anew_over(dialer.clone())))
            .collect();
        Gateway {
            accounts: Accounts::new(
                self.config.routes.clone(),
                upstreams,
                self.config.pop3.logins.clone(),
                self.config.limits.upstream_connections_per_account,
            ),
            memory: Arc::default(),
            listings: Arc::new(Listings::new(self.config.listing_cache_octets)),
            metrics: self.gateway.metrics.clone(),
            timeouts: self.gateway.timeouts.clone(),
            cleartext_login: self.gateway.cleartext_login.clone(),
            certificates: None,
            tls: None,
            limits: self.config.limits.clone(),
            proxy_protocol_from: Vec::new(),
            read_ahead_octets: 0,
            client_workarounds: Vec::new(),
            submission: submission::Service {
                copies: SentCopies::new(self.config.limits.spool_octets),
                ..self.gateway.submission.clone()
            },
            trace: None,
            draining: CancellationToken::new(),
            drained: CancellationToken::new(),
        }
    }
}

/// All that an upstream heard on one connection.
pub fn heard_by_upstream(events: &[Event], connection: usize) -> Vec<u8> {
    let heard = events.iter().filter_map(|event| match event {
        Event::UpstreamHears(number, octets) if *number == connection => Some(octets.as_slice()),
        _ => None,
    });
    heard.collect::<Vec<_>>().concat()
}

/// How many connections there were on which anything was heard.
pub fn connections(events: &[Event]) -> usize {
    let numbers = events.iter().filter_map(|event| match event {
        Event::UpstreamHears(number, _) => Some(number + 1),
        _ => None,
    });
    numbers.max().unwrap_or(0)
}

/// Takes a line with its end from what has come of a stream.
pub fn next_line(octets: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = octets.iter().position(|octet| *octet == b'\n')?;
    Some(octets.drain(..=end).collect())
}

/// Complains about CR and LF outside of CRLF.
pub fn has_only_crlf(octets: &[u8]) {
    for (at, octet) in octets.iter().enumerate() {
        match octet {
            b'\r' => assert!(
                octets.get(at + 1).is_none_or(|next| *next == b'\n'),
                "a bare CR"
            ),
            b'\n' => assert!(at > 0 && octets[at - 1] == b'\r', "a bare LF"),
            _ => {}
        }
    }
}
