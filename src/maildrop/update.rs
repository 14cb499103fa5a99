//! What the UPDATE state (RFC 1939 §6) must do upstream: [`Update`] and [`DeletePolicy`].

use crate::imap::ids::UidSet;

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

impl std::str::FromStr for DeletePolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "expunge" => Self::Expunge,
            "trash" => Self::Trash,
            "archive" => Self::Archive,
            "flag" => Self::Flag,
            "keep" => Self::Keep,
            _ => match text.strip_prefix("move:") {
                Some(folder) if !folder.is_empty() => Self::Move(folder.to_owned()),
                _ => {
                    return Err(format!(
                        "{text:?} is none of expunge, trash, archive, flag, keep, move:FOLDER"
                    ));
                }
            },
        })
    }
}

/// What is to be done upstream once QUIT has been said: RFC 1939 §6, as UID sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Marked by DELE.
    pub deleted: UidSet,
    /// Delivered by RETR in full, deleted or not.
    pub retrieved: UidSet,
}
