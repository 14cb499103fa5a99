//! What the UPDATE state (RFC 1939 §6) must do upstream.

/// What DELE followed by QUIT does to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeletePolicy {
    /// Removed for good.
    Expunge,
    /// Moved to the trash folder.
    Trash,
    /// Moved to the archive folder.
    Archive,
    /// Marked `\Deleted` and left for another client to expunge.
    Flag,
    /// Left alone; only POP3 does not show it again.
    Keep,
    /// Moved to this folder (UTF-8).
    Move(String),
}
