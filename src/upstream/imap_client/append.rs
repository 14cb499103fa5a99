//! APPEND: a message goes into a mailbox, out of a [`Spool`].

use tokio::time::Instant;

use super::{COMMAND_STALLS_MAX, ImapClient, Received};
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::capability::{Capabilities, Capability};
use crate::imap::command::{AppendedHeader, Command, CommandName, SoughtCopy};
use crate::imap::mailbox_name::MailboxName;
use crate::imap::response::{Condition, Response, Status, Tag, Untagged};
use crate::spool::Spool;

/// What became of a message that the upstream was sent.
#[derive(Debug)]
pub enum Appended {
    /// It is in the mailbox.
    Stored,
    /// The upstream was lost when it had all of it: it may be there, or not.
    Unknown(Failure),
}

impl ImapClient {
    /// Puts a message into a mailbox, with `\Seen`. With a header in UTF-8 that needs
    /// [`ImapClient::enable_utf8`] to have been successful.
    ///
    /// # Errors
    /// `Misconfigured` when the upstream does not take it, being too large or with a NUL in it; otherwise
    /// when the upstream refuses, or is lost before it has all of it. It has stored nothing then.
    pub async fn append(
        &mut self,
        mailbox: &MailboxName,
        message: &mut Spool,
        header: AppendedHeader,
    ) -> Result<Appended, Failure> {
        let octets = message.octets();
        let limit = self.capabilities.and_then(Capabilities::append_limit);
        if limit.is_some_and(|limit| octets > limit) {
            return Err(FailureKind::Misconfigured.because(format!(
                "APPENDLIMIT is smaller than the {octets} octets of the message"
            )));
        }
        // RFC 9051 §9: no literal but that of BINARY holds one.
        if message.has_nul() {
            let cause = "the message has a NUL, which IMAP has no way to carry";
            return Err(FailureKind::Misconfigured.because(cause));
        }
        let started = Instant::now();
        let command = Command::append(mailbox, octets, header, self.literals());
        let mut parts = command.parts(self.next_tag());
        let tag = Tag(self.tags);
        self.limit_command();
        if let Some(part) = parts.next() {
            self.stream.output().extend_from_slice(&part);
        }
        for part in parts {
            if let Some(status) = self.wait_to_go_on(tag).await? {
                self.observe(CommandName::Append, &status, started);
                self.expect_ok(CommandName::Append, status)?;
                // It is never OK.
                return Err(Garbled("OK to half of a command").into());
            }
            self.stream.output().extend_from_slice(&part);
        }
        self.send_message(message).await?;
        self.stream.output().extend_from_slice(header.end());
        let status = match self.answer_to_message(tag).await {
            Ok(status) => status,
            Err(failure) => return Ok(Appended::Unknown(failure)),
        };
        self.observe(CommandName::Append, &status, started);
        self.expect_ok(CommandName::Append, status)?;
        Ok(Appended::Stored)
    }

    async fn answer_to_message(&mut self, tag: Tag) -> Result<Status, Failure> {
        self.limit_command();
        // A large message takes its time to be stored, without a word.
        let stall_limit = self.upstream.stall_limit;
        self.stream.limit_stalls(stall_limit * COMMAND_STALLS_MAX);
        let status = loop {
            match self.receive().await? {
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    break status;
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        };
        self.stream.limit_stalls(stall_limit);
        Ok(status)
    }

    /// Until the upstream asks for more, or ends the command.
    async fn wait_to_go_on(&mut self, tag: Tag) -> Result<Option<Status>, Failure> {
        loop {
            match self.receive().await? {
                Received::Response(Response::Continuation(_)) => return Ok(None),
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    return match status.condition {
                        Condition::Ok => Err(Garbled("OK to half of a command").into()),
                        _ => Ok(Some(status)),
                    };
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        }
    }

    async fn send_message(&mut self, message: &mut Spool) -> Result<(), Failure> {
        // A message may take as long as it moves.
        self.stream.set_deadline(None);
        let unreadable = |error: std::io::Error| {
            FailureKind::Misconfigured.because(format!("smtp.spool_folder: {error}"))
        };
        message.rewind().await.map_err(unreadable)?;
        let mut left = message.octets();
        while left > 0 {
            let chunk = message.chunk().await.map_err(unreadable)?;
            if chunk.is_empty() {
                return Err(unreadable(std::io::ErrorKind::UnexpectedEof.into()));
            }
            left = left.saturating_sub(chunk.len() as u64);
            self.stream.output().extend_from_slice(chunk);
            self.stream.relieve().await?;
        }
        Ok(())
    }

    /// Whether a search for what is [`Younger`](crate::imap::command::StoredSince::Seconds) can be made.
    pub fn knows_ages(&self) -> bool {
        let capabilities = self.capabilities.unwrap_or_default();
        capabilities.has(Capability::Within)
    }

    /// Whether the selected mailbox has such a copy.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn has_copy(&mut self, sought: &SoughtCopy<'_>) -> Result<bool, Failure> {
        let mut is_there = false;
        let command = Command::search_copy(sought);
        let status = self
            .run(command, |untagged| {
                if let Untagged::Search(uids) = untagged {
                    is_there |= !uids.is_empty();
                }
            })
            .await?;
        self.expect_ok(CommandName::Search, status)?;
        Ok(is_there)
    }
}
