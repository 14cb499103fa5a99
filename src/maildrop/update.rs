//! What the UPDATE state (RFC 1939 §6) must do upstream: [`Update`] and [`DeletePolicy`].

use std::fmt;

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

/// What an upstream lets us do with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// UID EXPUNGE (RFC 4315): removal of our own messages alone.
    pub expunge_own: bool,
    /// UID MOVE (RFC 6851).
    pub move_messages: bool,
    /// `\Deleted` can be set for good.
    pub deleted_flag: bool,
    /// The keyword that hides a message can be set for good.
    pub hidden_keyword: bool,
    /// Nothing can be changed.
    pub read_only: bool,
}

/// How a policy is carried out at an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// `\Deleted`, then UID EXPUNGE.
    Expunge,
    /// `\Deleted`, and no more.
    Flag,
    /// UID MOVE.
    Move,
    /// UID COPY, then as [`Removal::Expunge`].
    CopyThenExpunge,
    /// UID COPY, then as [`Removal::Flag`].
    CopyThenFlag,
    /// The keyword that hides from POP3.
    HideByKeyword,
    /// Hidden in the memory of popgate.
    HideInMemory,
}

impl DeletePolicy {
    /// How this is carried out here. A plain EXPUNGE, which would take the mail of others, is never
    /// among the ways. `None`: not at all.
    pub fn removal(&self, abilities: Abilities) -> Option<Removal> {
        let removal = match self {
            Self::Keep if abilities.hidden_keyword && !abilities.read_only => {
                return Some(Removal::HideByKeyword);
            }
            Self::Keep => return Some(Removal::HideInMemory),
            Self::Flag => Removal::Flag,
            Self::Expunge if abilities.expunge_own => Removal::Expunge,
            Self::Expunge => Removal::Flag,
            Self::Trash | Self::Archive | Self::Move(_) => {
                match (abilities.move_messages, abilities.expunge_own) {
                    (true, _) => Removal::Move,
                    (false, true) => Removal::CopyThenExpunge,
                    (false, false) => Removal::CopyThenFlag,
                }
            }
        };
        let possible = !abilities.read_only && (removal == Removal::Move || abilities.deleted_flag);
        possible.then_some(removal)
    }

    /// What an operator should know when a policy cannot be carried out as it is meant.
    pub fn downgrade(&self, removal: Removal) -> Option<&'static str> {
        match (self, removal) {
            (Self::Expunge, Removal::Flag) => Some(
                "without UIDPLUS, deleted messages are only marked \\Deleted; another client has to expunge them",
            ),
            (_, Removal::CopyThenFlag) => Some(
                "without MOVE and UIDPLUS, deleted messages are copied, and the originals only marked \\Deleted",
            ),
            (_, Removal::HideInMemory) => {
                Some("without keywords, what was deleted is hidden only until popgate restarts")
            }
            _ => None,
        }
    }
}

impl fmt::Display for DeletePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expunge => f.write_str("expunge"),
            Self::Trash => f.write_str("trash"),
            Self::Archive => f.write_str("archive"),
            Self::Flag => f.write_str("flag"),
            Self::Keep => f.write_str("keep"),
            Self::Move(folder) => write!(f, "move:{folder}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_carried_out_without_touching_the_mail_of_others() {
        let all = Abilities {
            expunge_own: true,
            move_messages: true,
            deleted_flag: true,
            hidden_keyword: true,
            read_only: false,
        };
        let no_move = Abilities {
            move_messages: false,
            ..all
        };
        let bare = Abilities {
            expunge_own: false,
            hidden_keyword: false,
            ..no_move
        };
        let read_only = Abilities {
            read_only: true,
            ..all
        };
        let flag = Some(Removal::Flag);
        let [expunge, keyword, memory] = [
            Some(Removal::Expunge),
            Some(Removal::HideByKeyword),
            Some(Removal::HideInMemory),
        ];
        let moved = [
            Some(Removal::Move),
            Some(Removal::CopyThenExpunge),
            Some(Removal::CopyThenFlag),
            None,
        ];
        for (policy, [with_all, without_move, with_neither, when_read_only]) in [
            ("expunge", [expunge, expunge, flag, None]),
            ("trash", moved),
            ("archive", moved),
            ("move:Old", moved),
            ("flag", [flag, flag, flag, None]),
            ("keep", [keyword, keyword, memory, memory]),
        ] {
            let parsed: DeletePolicy = policy.parse().expect(policy);
            assert_eq!(parsed.to_string(), policy);
            for (abilities, removal) in [
                (all, with_all),
                (no_move, without_move),
                (bare, with_neither),
                (read_only, when_read_only),
            ] {
                assert_eq!(parsed.removal(abilities), removal, "{policy} {abilities:?}");
            }
        }
        assert!(
            "move:".parse::<DeletePolicy>().is_err() && "delete".parse::<DeletePolicy>().is_err()
        );
    }
}
