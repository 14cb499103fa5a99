//! What an operator decided, validated: file, environment and flags in, [`Config`] out.
//!
//! This is the only reader of settings in the environment and of the files that they name, apart
//! from `POPGATE_LOG`, which belongs to the edge of the process. Nothing below needs to check a
//! setting again. It borrows the vocabulary of
//! [`crate::maildrop`] and the PEM files of [`crate::tls`], and knows no other module.
//!
//! The way of a setting: [`layers`] merges file, environment and flags into one tree whose leaves
//! remember where they came from; [`load`] walks that tree through [`section`]s, reads the leaves
//! with [`setting`] and collects what is wrong with them in a [`report`], so that an operator sees
//! every mistake at once.

mod endpoint;
mod layers;
mod load;
mod provider;
mod report;
mod section;
mod setting;
mod submission;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

pub use self::layers::{Flags, environment};
pub use self::load::admin_address;
pub use self::report::Problems;
pub use self::submission::{BareNewlines, SenderPolicy, SentCopy, Submission, Unauthenticated};
use crate::maildrop::{DeletePolicy, MESSAGES_MAX, UniqueIdFormat};
use crate::tls::CertificateFiles;

/// Everything that the daemon needs to know before it binds its first socket.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where POP3 clients connect, and how they are served.
    pub pop3: Pop3,
    /// Where clients connect that send, and how they are served.
    pub smtp: Submission,
    /// Where `/metrics`, `/livez` and `/readyz` are served; `None` switches them off.
    pub admin: Option<SocketAddr>,
    /// The certificates shown to clients, the first where no name fits; without any there is neither
    /// STLS nor implicit TLS.
    pub tls: Vec<CertificateFiles>,
    /// Whose connections begin with a PROXY header that tells the client's address.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Who may send a password over clear text.
    pub cleartext_login: CleartextLogin,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// How much of anything there may be.
    pub limits: Limits,
    /// Octets of messages that may be asked for before a client wants them; 0 turns it off.
    pub read_ahead_octets: u64,
    /// Octets that the listings of mailboxes may take between sessions; 0 turns it off.
    pub listing_cache_octets: u64,
    /// The IMAP servers, by the names of their config sections.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Which login goes to which upstream.
    pub routes: Routes,
    /// One login whose sessions are written down.
    pub trace: Option<TraceSettings>,
}

impl Config {
    /// The defaults, with `upstream` for every login.
    pub fn for_upstream(upstream: Upstream) -> Self {
        let upstream = Arc::new(upstream);
        Self {
            pop3: Pop3 {
                listeners: Listeners {
                    clear: vec![loopback(1110)],
                    tls: Vec::new(),
                },
                ..Pop3::default()
            },
            smtp: Submission::default(),
            admin: Some(loopback(9110)),
            tls: Vec::new(),
            proxy_protocol_from: Vec::new(),
            cleartext_login: CleartextLogin::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            read_ahead_octets: READ_AHEAD_OCTETS,
            listing_cache_octets: LISTING_CACHE_OCTETS,
            upstreams: vec![Arc::clone(&upstream)],
            routes: Routes::to(upstream),
            trace: None,
        }
    }
}

/// As much as a link of 300 Mbit/s carries in 100 ms, or 600 Mbit/s in 50 ms. What is asked for is no more
/// than twice what the way was seen to hold.
const READ_AHEAD_OCTETS: u64 = 4 * 1024 * 1024;

/// Enough for logins that come one after the other.
const WARM_CONNECTIONS: usize = 2;

/// Half of what it takes an alert to be of use; a connection a minute is nothing to any provider.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Some 150 mailboxes of 100,000 messages, or 150,000 of ten.
const LISTING_CACHE_OCTETS: u64 = 64 * 1024 * 1024;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// `[pop3]`
#[derive(Debug, Clone, Default)]
pub struct Pop3 {
    /// Where clients connect.
    pub listeners: Listeners,
    /// For clients that hang on what others take.
    pub client_workarounds: Vec<ClientWorkaround>,
    /// How logins are read, and how often they may come.
    pub logins: Logins,
}

/// The addresses of one protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Clear text, with an upgrade to TLS where there is a certificate.
    pub clear: Vec<SocketAddr>,
    /// TLS from the first octet (RFC 8314).
    pub tls: Vec<SocketAddr>,
}

/// How logins are read, and how often they may come.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    /// What stands for `@` where a client cannot type it, in the order in which it is looked for:
    /// punctuation of ASCII that no domain holds.
    pub delimiters: Vec<u8>,
    /// For so long a credential that was accepted is not let in again; zero for no such rule.
    pub delay: Duration,
}

/// A deviation from what is right for all others, for a client that needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientWorkaround {
    /// NUL becomes 0x80: Outlook and Outlook Express hang on it.
    OutlookNoNuls,
    /// A header without the blank line behind it gets one: Outlook Express and Netscape hang.
    OeNsEoh,
    /// RETR and TOP begin with a `Status:` header, by which Eudora knows what it has read.
    EudoraStatus,
    /// A login or password that is not UTF-8 is read as Latin-1: clients of other times have no UTF-8.
    #[serde(rename = "latin1-logins")]
    Latin1Logins,
}

/// `[trace]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSettings {
    /// Whose sessions, without regard to case.
    pub login: String,
    /// Where they are written; appended to what is there.
    pub file: PathBuf,
    /// How large the file may become.
    pub octets_max: u64,
}

/// Who may log in without TLS.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CleartextLogin {
    /// Nobody.
    Never,
    /// Clients on this machine.
    #[default]
    Loopback,
    /// Everybody: passwords cross the network readable.
    Always,
    /// Clients from these networks: not a word, but a list.
    #[serde(skip)]
    From(Vec<IpNet>),
}

/// All of them are positive, but for `shutdown_delay`, which may be none.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From accept to a finished login, TLS handshake included, whatever trickles in.
    pub login: Duration,
    /// Logged in without a command (RFC 1939 §3: at least ten minutes).
    pub idle: Duration,
    /// No progress from the upstream for so long ends the wait.
    pub upstream: Duration,
    /// After SIGTERM, for sessions in TRANSACTION; one in UPDATE is never cut.
    pub drain: Duration,
    /// After SIGTERM, until the listeners close: so long a balancer may take to hear of it.
    pub shutdown_delay: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(60),
            idle: Duration::from_secs(10 * 60),
            upstream: Duration::from_secs(30),
            drain: Duration::from_secs(45),
            shutdown_delay: Duration::from_secs(3),
        }
    }
}

/// All of them are positive.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections, all listeners together.
    pub connections: usize,
    /// Client connections from one address (IPv6: from one /64).
    pub connections_per_address: usize,
    /// Logged-in upstream connections of one account.
    pub upstream_connections_per_account: usize,
    /// Of a message that is sent.
    pub message_octets: u64,
    /// Of a message that is sent.
    pub recipients: usize,
    /// Octets that sent messages may take on the disk while they wait for their copies; 0 for no copies.
    pub spool_octets: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 100,
            upstream_connections_per_account: 10,
            message_octets: 150 * 1024 * 1024,
            recipients: 1000,
            spool_octets: 1024 * 1024 * 1024,
        }
    }
}

/// One `[upstream.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// NAME; also the label in metrics and logs.
    pub name: Arc<str>,
    /// Where its IMAP service is.
    pub imap: Endpoint,
    /// Where its submission service is, if mail can be sent through it.
    pub smtp: Option<Endpoint>,
    /// As whom its users may send.
    pub sender: SenderPolicy,
    /// A PEM file that replaces the system's roots.
    pub ca_file: Option<PathBuf>,
    /// What this provider needs beyond what its capabilities say.
    pub quirks: Quirks,
    /// Connections that wait for the next login.
    pub warm_connections: usize,
    /// After so long without a connection to a service of it, one is opened to see whether it greets;
    /// `None` for never.
    pub probe_interval: Option<Duration>,
    /// How its mailboxes look to POP3.
    pub maildrop: MaildropSettings,
}

impl Upstream {
    /// An upstream that needs nothing special.
    pub fn new(name: &str, imap: Endpoint) -> Self {
        Self {
            name: name.into(),
            imap,
            smtp: None,
            sender: SenderPolicy::default(),
            ca_file: None,
            quirks: Quirks::default(),
            warm_connections: WARM_CONNECTIONS,
            probe_interval: Some(PROBE_INTERVAL),
            maildrop: MaildropSettings::default(),
        }
    }
}

/// A host, a port, and how TLS begins there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What is spoken there.
    pub service: Service,
    /// A DNS name or an IP address (without brackets); also the name that the certificate must carry.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How TLS begins.
    pub security: EndpointSecurity,
}

/// What an upstream does for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// It has the mailboxes.
    Imap,
    /// It sends mail.
    Submission,
}

/// How TLS begins on a connection to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointSecurity {
    /// With the first octet.
    Implicit,
    /// By STARTTLS, before anything else is said.
    StartTls,
    /// Never: loopback, or `allow_cleartext = true`.
    Clear,
}

/// Deviations of a provider that cannot be detected at run time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quirks {
    /// Several commands at once have ended badly; so nothing is read ahead.
    pub one_command_at_a_time: bool,
    /// The folder that `trash` means, where SPECIAL-USE and well-known names do not find it.
    pub trash_folder: Option<String>,
    /// The folder that `archive` means, likewise.
    pub archive_folder: Option<String>,
    /// The folder of sent mail, likewise.
    pub sent_folder: Option<String>,
    /// What is sent through it is in that folder without anybody else's doing.
    pub keeps_sent_copies: bool,
}

/// `[maildrop]`, `[upstream.NAME.maildrop]`; the nearest wins, key by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaildropSettings {
    /// The IMAP mailbox that POP3 shows, as UTF-8.
    pub folder: String,
    /// What DELE + QUIT does.
    pub on_delete: DeletePolicy,
    /// When `\Seen` is set.
    pub mark_seen: MarkSeen,
    /// The format of UIDL.
    pub unique_id: UniqueIdFormat,
    /// Whether two sessions may have the same maildrop open.
    pub sessions: Sessions,
    /// How many messages POP3 shows, those with the highest UIDs; from 1 to [`MESSAGES_MAX`].
    pub newest_messages: u32,
}

impl Default for MaildropSettings {
    fn default() -> Self {
        Self {
            folder: "INBOX".to_owned(),
            on_delete: DeletePolicy::Trash,
            mark_seen: MarkSeen::Never,
            unique_id: UniqueIdFormat::Dovecot,
            sessions: Sessions::Shared,
            newest_messages: MESSAGES_MAX,
        }
    }
}

/// When popgate sets `\Seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkSeen {
    /// Never.
    Never,
    /// At QUIT, on what RETR delivered in full.
    Retrieved,
}

/// Whether two sessions may have the same maildrop open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sessions {
    /// They may; each has its own snapshot.
    Shared,
    /// The second gets `[IN-USE]`.
    Exclusive,
}

/// `[[route]]`s in the order of the file; the first that matches wins, `default` takes the rest.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    routes: Vec<(globset::GlobMatcher, Arc<Upstream>)>,
    default: Option<Arc<Upstream>>,
}

impl Routes {
    /// Every login to the one upstream.
    pub fn to(upstream: Arc<Upstream>) -> Self {
        Self {
            routes: Vec::new(),
            default: Some(upstream),
        }
    }

    /// The upstream for a login, compared without regard to case.
    pub fn upstream(&self, login: &str) -> Option<&Arc<Upstream>> {
        self.matching(login).or(self.default.as_ref())
    }

    /// The upstream of the `[[route]]` that matches a login, if one does.
    pub fn matching(&self, login: &str) -> Option<&Arc<Upstream>> {
        self.routes
            .iter()
            .find(|(glob, _)| glob.is_match(login))
            .map(|(_, upstream)| upstream)
    }

    /// The routes: the glob as written and its upstream.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Upstream>)> {
        self.routes
            .iter()
            .map(|(glob, upstream)| (glob.glob().glob(), upstream))
    }

    /// What takes the logins that no route matches, if anything does.
    pub fn fallback(&self) -> Option<&Arc<Upstream>> {
        self.default.as_ref()
    }
}
