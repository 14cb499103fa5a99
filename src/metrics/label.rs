//! What became of things: the label values that are closed sets of our own.

/// Why a connection was turned away before a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// `limits.connections`
    Connections,
    /// `limits.connections_per_address`
    ConnectionsPerAddress,
    /// The TLS handshake failed or took too long.
    TlsHandshake,
    /// There was no PROXY header where one has to be.
    ProxyHeader,
}

impl Rejection {
    pub(super) const ALL: [Self; 4] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::TlsHandshake,
        Self::ProxyHeader,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::TlsHandshake => "tls_handshake",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

/// What became of reading ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAhead {
    /// A message had been asked for when the client wanted it.
    Hit,
    /// It had not.
    Miss,
    /// A message was asked for, and the client did not want it.
    Dropped,
}

impl ReadAhead {
    pub(super) const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::Dropped];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Dropped => "dropped",
        }
    }
}

/// What a login had to ask of the mailbox's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListingCache {
    /// Nothing: SELECT said that all is as it was.
    Hit,
    /// What had changed.
    Updated,
    /// Everything.
    Miss,
}

impl ListingCache {
    pub(super) const ALL: [Self; 3] = [Self::Hit, Self::Updated, Self::Miss];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Updated => "updated",
            Self::Miss => "miss",
        }
    }
}

/// What became of deleted messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteAction {
    /// Removed for good.
    Expunged,
    /// In another folder.
    Moved,
    /// Marked `\Deleted`.
    Flagged,
    /// Hidden from POP3.
    Hidden,
    /// Still there, although QUIT asked for it.
    Refused,
}

impl DeleteAction {
    pub(super) const ALL: [Self; 5] = [
        Self::Expunged,
        Self::Moved,
        Self::Flagged,
        Self::Hidden,
        Self::Refused,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Expunged => "expunged",
            Self::Moved => "moved",
            Self::Flagged => "flagged",
            Self::Hidden => "hidden",
            Self::Refused => "refused",
        }
    }
}

/// What became of a message that a client began to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmissionResult {
    /// The upstream took it.
    Accepted,
    /// The upstream refused it, or we did.
    Refused,
    /// The upstream was lost.
    Failed,
    /// The client did not finish it.
    Aborted,
}

impl SubmissionResult {
    pub(super) const ALL: [Self; 4] = [Self::Accepted, Self::Refused, Self::Failed, Self::Aborted];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// What became of the copy of a sent message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentCopyResult {
    /// It is in the folder of sent mail.
    Stored,
    /// The provider had put one there already.
    Duplicate,
    /// There is none.
    Failed,
}

impl SentCopyResult {
    pub(super) const ALL: [Self; 3] = [Self::Stored, Self::Duplicate, Self::Failed];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Failed => "failed",
        }
    }
}
