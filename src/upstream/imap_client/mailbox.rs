//! A selected mailbox: what is in it, and what is done to its messages, by UID alone.

use super::ImapClient;
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::command::{
    Command, CommandName, FlagChange, Literals, MESSAGES_MAX, SearchAnswer, SearchedState,
    StoredFlag,
};
use crate::imap::ids::{ModSeq, Uid, UidSet, UidValidity};
use crate::imap::mailbox_name::MailboxName;
use crate::imap::response::{Code, Condition, PermanentFlags, Status, Untagged};

/// How often a message may vanish just when its UID is asked for.
const VANISHINGS_MAX: u32 = 3;

/// What SELECT said.
#[derive(Debug, Clone)]
pub struct Selected {
    /// Under which the UIDs of this session count.
    pub validity: UidValidity,
    /// How many messages there are.
    pub exists: u32,
    /// From which UID on nothing is there yet, if the upstream says.
    pub uid_next: Option<Uid>,
    /// The last modification of the mailbox, if the upstream counts them.
    pub mod_seq: Option<ModSeq>,
    /// Whether a message may bear the keyword that hides it, as far as the upstream says.
    pub may_hide: bool,
    /// Whether nothing can be changed.
    pub read_only: bool,
    /// Which flags can be changed for good.
    pub permanent_flags: PermanentFlags,
}

impl ImapClient {
    /// Opens a mailbox for reading and writing.
    ///
    /// # Errors
    /// `Misconfigured` when there is no such mailbox, `MaildropInUse` when it is locked.
    pub async fn select(&mut self, mailbox: &MailboxName) -> Result<Selected, Failure> {
        let mut validity = None;
        let (mut uid_next, mut mod_seq, mut may_hide) = (None, None, false);
        // RFC 3501 §6.3.1: without PERMANENTFLAGS all flags can be changed; of keywords we do not
        // believe it.
        let mut permanent_flags = PermanentFlags {
            seen: true,
            deleted: true,
            hidden: false,
        };
        self.validity = None;
        self.exists = 0;
        let command = Command::select(mailbox, self.capabilities.unwrap_or_default());
        let status = self
            .run(command, |untagged| match untagged {
                Untagged::Flags { hidden } => may_hide = hidden,
                Untagged::Status(status) => match status.code {
                    Some(Code::UidValidity(said)) => validity = Some(said),
                    Some(Code::UidNext(said)) => uid_next = Some(said),
                    Some(Code::HighestModSeq(said)) => mod_seq = Some(said),
                    Some(Code::PermanentFlags(said)) => permanent_flags = said,
                    _ => {}
                },
                _ => {}
            })
            .await?;
        let read_only = status.code == Some(Code::ReadOnly);
        match &status {
            Status {
                code: Some(Code::InUse),
                ..
            } => {
                let text = self.quote(&status.text);
                return Err(FailureKind::MaildropInUse.because(format!("SELECT: {text}")));
            }
            Status {
                code: Some(Code::NonExistent | Code::TryCreate),
                condition: Condition::No,
                ..
            } => {
                let text = self.quote(&status.text);
                return Err(FailureKind::Misconfigured
                    .because(format!("maildrop.folder cannot be opened: {text}")));
            }
            _ => self.expect_ok(CommandName::Select, status)?,
        }
        let validity = validity.ok_or_else(|| {
            FailureKind::Misconfigured
                .because("the upstream has no UIDVALIDITY, so its UIDs name nothing")
        })?;
        self.validity = Some(validity);
        Ok(Selected {
            validity,
            exists: self.exists,
            uid_next,
            mod_seq,
            may_hide,
            read_only,
            permanent_flags,
        })
    }

    /// Asks several things about the messages of a selected mailbox, in one flight where the upstream
    /// bears that, and hands every answer to `each`. The answers to one command may come among those to
    /// another (RFC 3501 §5.5 lets a server do that, and Dovecot does). What was anticipated and is not
    /// asked for is heard as well; it is no less true.
    ///
    /// Where the upstream stopped at some UID (RFC 9738), what is below must be asked for again.
    ///
    /// # Errors
    /// When it tells of more messages than a listing may have, refuses or is lost; what came before is not
    /// to be trusted then.
    pub async fn inquire(
        &mut self,
        commands: Vec<Command>,
        mut each: impl FnMut(Untagged),
    ) -> Result<Option<Uid>, Failure> {
        // An upstream that repeats itself without end must not fill our memory.
        let responses_max = 2 * self.exists.min(MESSAGES_MAX) + 1000;
        let mut responses = 0;
        let mut each = |untagged| {
            responses += u32::from(matches!(untagged, Untagged::Fetch(_)));
            if responses <= responses_max {
                each(untagged);
            }
        };
        let mut answers = Vec::new();
        match self.upstream.takes_flights() {
            true => self.run_together(commands, &mut each, &mut answers).await?,
            false => {
                for command in commands {
                    let name = command.name();
                    answers.push((name, self.run(command, &mut each).await?));
                }
            }
        }
        if responses > responses_max {
            return Err(Garbled("far more FETCH responses than messages").into());
        }
        let mut stopped_at = None;
        for (name, status) in answers {
            if let Some(Code::MessageLimit(lowest)) = status.code {
                stopped_at = Some(lowest);
            }
            self.expect_ok(name, status)?;
        }
        Ok(stopped_at)
    }

    /// The lowest UID of the newest so many messages.
    ///
    /// # Errors
    /// When the upstream does not tell it, refuses or is lost.
    pub async fn first_of_newest(&mut self, messages: u32) -> Result<Uid, Failure> {
        for _ in 0..VANISHINGS_MAX {
            let number = match self.exists.checked_sub(messages) {
                None | Some(0) => return Ok(Uid::FIRST),
                Some(older) => older + 1,
            };
            let mut first = None;
            let status = self.run(Command::fetch_uid(number), |untagged| match untagged {
                Untagged::Fetch(fetch) if fetch.number == Some(number) => {
                    first = fetch.uid.or(first);
                }
                _ => {}
            });
            let status = status.await?;
            match (status.condition, first) {
                (Condition::Ok, Some(first)) => return Ok(first),
                // RFC 2180 §4.1: somebody has removed it, of which the upstream may tell us now.
                (Condition::Ok | Condition::No, _) => self.keep_alive().await?,
                _ => self.expect_ok(CommandName::FetchListing, status)?,
            }
        }
        let cause = "the upstream does not tell which messages are the newest";
        Err(FailureKind::UpstreamRefused.because(cause))
    }

    /// Which of these messages are in the mailbox, and as `state` says.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn search(&mut self, set: &UidSet, state: SearchedState) -> Result<UidSet, Failure> {
        let mut found = UidSet::default();
        let command = Command::search(set, state, SearchAnswer::Numbers);
        let status = self
            .run(command, |untagged| {
                if let Untagged::Search(uids) = untagged {
                    // Ours alone, so that a set of four billion cannot be walked through.
                    for uid in set.iter().filter(|uid| uids.contains(*uid)) {
                        found.insert_range(uid, uid);
                    }
                }
            })
            .await?;
        self.expect_ok(CommandName::Search, status)?;
        Ok(found)
    }

    /// Sets or clears a flag on each of these messages that is still there; at most [`UIDS_MAX`].
    ///
    /// # Errors
    /// When the upstream refuses or is lost; some may have changed then.
    ///
    /// [`UIDS_MAX`]: crate::imap::command::UIDS_MAX
    pub async fn store(
        &mut self,
        set: &UidSet,
        change: FlagChange,
        flag: StoredFlag,
    ) -> Result<(), Failure> {
        let status = self.run(Command::store(set, change, flag), |_| {}).await?;
        self.expect_ok(CommandName::Store, status)
    }

    /// Removes those of these messages that bear `\Deleted`, and no others (RFC 4315).
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn expunge(&mut self, set: &UidSet) -> Result<(), Failure> {
        let status = self.run(Command::expunge(set), |_| {}).await?;
        self.expect_ok(CommandName::Expunge, status)
    }

    /// UID MOVE (RFC 6851); creates the folder if the upstream says that this would help.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn move_to(&mut self, set: &UidSet, mailbox: &MailboxName) -> Result<(), Failure> {
        self.transfer(set, mailbox, CommandName::Move, Command::move_to)
            .await
    }

    /// UID COPY; creates the folder if the upstream says that this would help.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn copy(&mut self, set: &UidSet, mailbox: &MailboxName) -> Result<(), Failure> {
        self.transfer(set, mailbox, CommandName::Copy, Command::copy)
            .await
    }

    async fn transfer(
        &mut self,
        set: &UidSet,
        mailbox: &MailboxName,
        name: CommandName,
        command: fn(&UidSet, &MailboxName, Literals) -> Command,
    ) -> Result<(), Failure> {
        let literals = self.literals();
        let mut status = self.run(command(set, mailbox, literals), |_| {}).await?;
        if status.condition == Condition::No && status.code == Some(Code::TryCreate) {
            self.create(mailbox).await?;
            status = self.run(command(set, mailbox, literals), |_| {}).await?;
        }
        self.expect_ok(name, status)
    }

    /// CREATE
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn create(&mut self, mailbox: &MailboxName) -> Result<(), Failure> {
        let status = self
            .run(Command::create(mailbox, self.literals()), |_| {})
            .await?;
        self.expect_ok(CommandName::Create, status)
    }
}
