//! APPEND: a message goes into a mailbox, out of a [`Spool`].

use tokio::time::Instant;

use super::{ImapClient, Received};
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::capability::Capabilities;
use crate::imap::command::{AppendedHeader, Command, CommandName};
use crate::imap::mailbox_name::MailboxName;
use crate::imap::response::{Condition, Response, Status, Tag, Untagged};
use crate::spool::Spool;

impl ImapClient {
    /// Puts a message into a mailbox, with `\Seen`. With a header in UTF-8 that needs
    /// [`ImapClient::enable_utf8`] to have been successful.
    ///
    /// # Errors
    /// `Misconfigured` when it is larger than the upstream takes; otherwise when the upstream refuses
    /// or is lost.
    pub async fn append(
        &mut self,
        mailbox: &MailboxName,
        message: &mut Spool,
        header: AppendedHeader,
    ) -> Result<(), Failure> {
        let octets = message.octets();
        let limit = self.capabilities.and_then(Capabilities::append_limit);
        if limit.is_some_and(|limit| octets > limit) {
            return Err(FailureKind::Misconfigured.because(format!(
                "APPENDLIMIT is smaller than the {octets} octets of the message"
            )));
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
                return self.expect_ok(CommandName::Append, status);
            }
            self.stream.output().extend_from_slice(&part);
        }
        self.send_message(message).await?;
        self.stream.output().extend_from_slice(header.end());
        self.limit_command();
        let status = loop {
            match self.receive().await? {
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    break status;
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        };
        self.observe(CommandName::Append, &status, started);
        self.expect_ok(CommandName::Append, status)
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

    /// Whether the selected mailbox has a message with this Message-ID.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn has_message_id(&mut self, id: &[u8]) -> Result<bool, Failure> {
        let mut is_there = false;
        let command = Command::search_message_id(id);
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
