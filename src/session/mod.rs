//! The conversations; the only place where client and upstream meet.

pub mod pop3;
mod sasl_exchange;
pub mod submission;
pub mod survey;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug_span};

use crate::account::{Accounts, Attempt};
use crate::config::{CleartextLogin, ClientWorkaround, Limits, Service, Timeouts};
use crate::failure::{Failure, FailureKind};
use crate::imap::capability::{Capabilities, Capability};
use crate::line_stream::{LineError, LineStream};
use crate::metrics::Metrics;
use crate::sasl::Credential;
use crate::state::{Listings, Memory};
use crate::tls::{self, Certificates, TlsAcceptor};
use crate::trace::{SessionTrace, Trace};
use crate::upstream::Upstream;

/// What all sessions share; nobody writes to it but through its parts.
pub struct Gateway {
    /// Routes, upstreams and permits.
    pub accounts: Accounts,
    /// What must outlive a session.
    pub memory: Arc<Memory>,
    /// What mailboxes held when somebody last looked.
    pub listings: Arc<Listings>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// Who may log in without TLS.
    pub cleartext_login: CleartextLogin,
    /// What clients are shown; `None` without a certificate.
    pub certificates: Option<Arc<Certificates>>,
    /// For POP3; `None` without a certificate.
    pub tls: Option<TlsAcceptor>,
    /// How many clients there may be.
    pub limits: Limits,
    /// Whose connections begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// How much may be asked of an upstream before the client wants it.
    pub read_ahead_octets: u64,
    /// For clients that hang on what others take.
    pub client_workarounds: Vec<ClientWorkaround>,
    /// What those share that send mail.
    pub submission: submission::Service,
    /// For one login whose sessions are written down.
    pub trace: Option<Arc<Trace>>,
    /// No new logins any more.
    pub draining: CancellationToken,
    /// No transaction any more either.
    pub drained: CancellationToken,
}

/// What clients are told before it is known who they are: what every upstream has, and our own rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// XOAUTH2 and OAUTHBEARER; `None` while an upstream has not told.
    pub tokens: Option<bool>,
    /// RFC 6856
    pub utf8: bool,
    /// RFC 2449 §6.5; zero for none.
    pub login_delay: Duration,
}

impl Gateway {
    /// As far as the upstreams have told by now.
    pub fn offer(&self) -> Offer {
        let every = |can: fn(Capabilities) -> bool| {
            let mut told = self.accounts.upstreams().map(|upstream| {
                let seen = upstream.seen();
                let after_login = seen.after_login.is_some_and(can);
                seen.before_login
                    .map(|before_login| can(before_login) || after_login)
            });
            told.try_fold(true, |every, can| Some(every && can?))
        };
        Offer {
            tokens: every(|capabilities| {
                capabilities.has(Capability::AuthXoauth2)
                    || capabilities.has(Capability::AuthOauthBearer)
            }),
            utf8: every(|capabilities| capabilities.has(Capability::Utf8Accept)) == Some(true),
            login_delay: self.accounts.login_delay(),
        }
    }

    /// Whether the operator wants this.
    fn works_around(&self, what: ClientWorkaround) -> bool {
        self.client_workarounds.contains(&what)
    }

    /// The credential that a client would have sent, had it been able to.
    fn as_meant(&self, typed: Credential) -> Credential {
        let readable = match self.works_around(ClientWorkaround::Latin1Logins) {
            true => typed.read_as_latin1(),
            false => typed,
        };
        readable.with_at_sign(|login| self.accounts.delimiter(login))
    }

    /// Leave to ask the upstream once whether this credential is right. Who has to wait for it until the login
    /// is over hears what is said of an upstream that takes that long, so that nobody learns which it was.
    async fn attempt(
        &self,
        upstream: &Upstream,
        service: Service,
        credential: &Credential,
        address: IpAddr,
        login_ends: Instant,
    ) -> Result<Attempt<'_>, Failure> {
        let attempt = self
            .accounts
            .attempt(upstream, service, credential, address);
        let attempt = timeout_at(login_ends, attempt).await.unwrap_or_else(|_| {
            let cause = "the login had to wait until timeouts.login had passed";
            Err(FailureKind::UpstreamUnreachable.because(cause))
        });
        if let Err(failure) = &attempt {
            let name = &upstream.settings().name;
            self.metrics.auth_withheld(name, failure.kind);
        }
        attempt
    }

    /// Whether this client may send a password now.
    fn permits_login(&self, client: &Client) -> bool {
        client.secure
            || match &self.cleartext_login {
                CleartextLogin::Never => false,
                CleartextLogin::Loopback => client.own_address().is_some_and(|it| it.is_loopback()),
                CleartextLogin::Always => true,
                CleartextLogin::From(networks) => client.comes_from(networks),
            }
    }
}

/// One client connection.
pub struct Client {
    /// What it says, and what it is told.
    pub lines: LineStream,
    /// From where it comes, for limits and the log; what is granted to addresses is granted to
    /// [`Self::own_address`].
    pub address: IpAddr,
    /// Whether that is only its balancer's, which did not tell its own.
    pub is_address_of_balancer: bool,
    /// Whether TLS protects it.
    pub secure: bool,
    /// As metrics call the place where it came in.
    pub listener: &'static str,
}

impl Client {
    /// None of a client whose balancer does not tell it.
    fn own_address(&self) -> Option<IpAddr> {
        (!self.is_address_of_balancer).then_some(self.address)
    }

    /// Whether it is known to be in one of these. What a balancer may do is not for whoever comes through it.
    fn comes_from(&self, networks: &[IpNet]) -> bool {
        let is_in = |address: IpAddr| networks.iter().any(|network| network.contains(&address));
        self.own_address().is_some_and(is_in)
    }

    /// What is logged within it, by whatever part, names the session. There is none at INFO, where each line
    /// of a session says so by itself.
    fn span(&self, session: SessionId) -> Span {
        debug_span!("session", id = %session, listener = self.listener)
    }

    /// The server's half of STLS or STARTTLS, after the client was told to begin. What it sent before is
    /// discarded, whatever it was (RFC 2595 §4, RFC 3207 §4.2).
    ///
    /// # Errors
    /// When the handshake fails.
    async fn start_tls(
        &mut self,
        acceptor: &TlsAcceptor,
        timeouts: &Timeouts,
        trace: Option<&SessionTrace>,
    ) -> Result<(), SessionEnd> {
        self.lines.flush().await?;
        let clear = std::mem::replace(&mut self.lines, LineStream::closed());
        let secured = tls::accept(acceptor, clear.into_transport())
            .await
            .map_err(|error| SessionEnd::TlsFailed(error.to_string()))?;
        self.lines = LineStream::new(secured, timeouts.login);
        if let Some(trace) = trace {
            self.lines.tap(trace.client_leg());
        }
        self.secure = true;
        Ok(())
    }
}

/// What a client's user can quote to the operator, who finds it in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId(u32);

impl SessionId {
    /// The next one; the first of a process is random, so that two restarts do not share theirs.
    #[allow(clippy::new_without_default, reason = "every call gives another")]
    pub fn new() -> Self {
        static NEXT: std::sync::LazyLock<AtomicU32> = std::sync::LazyLock::new(|| {
            #[allow(clippy::cast_possible_truncation, reason = "any 32 bits will do")]
            AtomicU32::new(RandomState::new().hash_one(0) as u32)
        });
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// How a session ended, when not by a QUIT that was obeyed.
#[derive(Debug)]
pub enum SessionEnd {
    /// The client closed without QUIT.
    ClientClosed,
    /// The client neither spoke nor read for its limit.
    ClientIdle,
    /// The client's connection failed.
    ClientLost(String),
    /// The client sent an endless line.
    LineTooLong,
    /// The login was not finished within `timeouts.login`.
    LoginTimeout,
    /// Too many commands that were none.
    TooManyMistakes,
    /// Too many senders and recipients that were refused.
    TooManyRefusals,
    /// The client speaks HTTP.
    ForeignProtocol,
    /// Too many logins that were refused.
    TooManyLogins,
    /// The client sends a message without end.
    MessageEndless,
    /// Nobody can tell any more what of the client's octets are commands.
    OutOfStep,
    /// The TLS handshake failed.
    TlsFailed(String),
    /// The upstream failed, so that there is nothing more to be done.
    Upstream(Failure),
    /// QUIT could not do all that it had to.
    UpdateIncomplete(Failure),
    /// We are ending.
    ShuttingDown,
}

impl SessionEnd {
    /// All labels of [`SessionEnd::label`], and `quit`.
    pub const LABELS: [&'static str; 16] = [
        "quit",
        "client_closed",
        "client_idle",
        "client_lost",
        "line_too_long",
        "login_timeout",
        "too_many_mistakes",
        "too_many_refusals",
        "foreign_protocol",
        "too_many_logins",
        "message_endless",
        "out_of_step",
        "tls_failed",
        "upstream_failed",
        "update_incomplete",
        "shutting_down",
    ];

    /// The metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientIdle => "client_idle",
            Self::ClientLost(_) => "client_lost",
            Self::LineTooLong => "line_too_long",
            Self::LoginTimeout => "login_timeout",
            Self::TooManyMistakes => "too_many_mistakes",
            Self::TooManyRefusals => "too_many_refusals",
            Self::ForeignProtocol => "foreign_protocol",
            Self::TooManyLogins => "too_many_logins",
            Self::MessageEndless => "message_endless",
            Self::OutOfStep => "out_of_step",
            Self::TlsFailed(_) => "tls_failed",
            Self::Upstream(_) => "upstream_failed",
            Self::UpdateIncomplete(_) => "update_incomplete",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// What the log adds to the label.
    pub fn cause(&self) -> String {
        match self {
            Self::ClientLost(cause) | Self::TlsFailed(cause) => cause.clone(),
            Self::Upstream(failure) | Self::UpdateIncomplete(failure) => failure.to_string(),
            _ => String::new(),
        }
    }
}

/// For a client's connection; the upstream's failures are [`Failure`]s.
impl From<LineError> for SessionEnd {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Closed => Self::ClientClosed,
            LineError::Stalled => Self::ClientIdle,
            LineError::TooLong => Self::LineTooLong,
            LineError::Transport(error) => Self::ClientLost(error.to_string()),
        }
    }
}

impl From<Failure> for SessionEnd {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::ShuttingDown => Self::ShuttingDown,
            _ => Self::Upstream(failure),
        }
    }
}
