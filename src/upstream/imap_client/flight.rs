//! Commands that go out before their turn, because it is known that they will come: a login, SELECT and
//! the questions about the mailbox take one round trip together.
//!
//! [`ImapClient::anticipate`] names them. They are sent behind the next command; when their turn comes,
//! [`ImapClient::run`] and [`ImapClient::inquire`] find them sent already and only hear the answer. A
//! command that comes instead of them waits until their answers have been read and dropped. So nothing
//! but time depends on what was anticipated, and each refusal is found where it belongs.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{ImapClient, Received};
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::command::{Command, CommandName, MESSAGES_MAX};
use crate::imap::response::{Response, Status, Tag, Untagged};

/// Commands that may be under way at once: login, ID, SELECT, and the parts of a mailbox of a million
/// messages.
const COMMANDS_MAX: usize = 256;

/// A tagged response that belongs to nothing.
pub(super) const UNKNOWN_END: Garbled = Garbled("the end of a command that we did not send");

/// What was anticipated.
#[derive(Default)]
pub(super) struct Flight {
    /// To be sent behind the next command.
    planned: Vec<Command>,
    /// Sent, in this order, and not answered yet.
    sent: VecDeque<Sent>,
    /// Whether some of it has gone out together with AUTHENTICATE.
    behind_authenticate: bool,
    /// Whether the upstream has shown that it does not bear what was sent together.
    is_lost: bool,
}

impl Flight {
    /// Whether something is to be sent behind the next command.
    pub(super) fn is_planned(&self) -> bool {
        !self.planned.is_empty()
    }

    /// Gives back room that nothing is in.
    pub(super) fn rest(&mut self) {
        self.planned.shrink_to_fit();
        self.sent.shrink_to_fit();
    }

    /// Whether something was sent before its turn and is not answered yet.
    pub(super) fn is_under_way(&self) -> bool {
        !self.sent.is_empty()
    }
}

struct Sent {
    command: Command,
    tag: Tag,
    started: Instant,
}

impl ImapClient {
    /// Names commands that will follow in this order. Nothing happens where the upstream wants one
    /// command at a time.
    pub fn anticipate(&mut self, commands: impl IntoIterator<Item = Command>) {
        if !self.upstream.takes_flights() {
            return;
        }
        for command in commands {
            let known = self.flight.planned.iter();
            let sent = self.flight.sent.iter().map(|sent| &sent.command);
            let is_known = known.chain(sent).any(|known| *known == command);
            let has_room = self.flight.planned.len() + self.flight.sent.len() < COMMANDS_MAX;
            // One that must wait for the upstream in between would hold up the others.
            if !is_known && has_room && command.is_in_one_part() {
                self.flight.planned.push(command);
            }
        }
    }

    /// Sends what was anticipated behind the command that has just been sent.
    pub(super) fn send_planned(&mut self) {
        for command in std::mem::take(&mut self.flight.planned) {
            let tag = self.send(&command);
            self.flight.sent.push_back(Sent {
                command,
                tag,
                started: Instant::now(),
            });
        }
    }

    /// The same behind AUTHENTICATE, for an upstream that bears it; otherwise it waits for the next command.
    pub(super) fn send_behind_authenticate(&mut self) {
        if self.flight.is_planned() && self.upstream.seen().takes_more_with_authenticate() {
            self.flight.behind_authenticate = true;
            self.send_planned();
        }
    }

    /// Whether this command is under way already; what was sent or planned before it is not wanted then.
    pub(super) async fn take_sent(
        &mut self,
        command: &Command,
    ) -> Result<Option<(Tag, Instant)>, Failure> {
        let mut planned = self.flight.planned.iter();
        if let Some(place) = planned.position(|planned| planned == command) {
            self.flight.planned.drain(..=place);
        }
        if !self.flight.sent.iter().any(|sent| sent.command == *command) {
            return Ok(None);
        }
        while let Some(sent) = self.flight.sent.pop_front() {
            if sent.command == *command {
                return Ok(Some((sent.tag, sent.started)));
            }
            self.limit_command();
            self.answer(sent.tag, &mut |_| {}).await?;
        }
        Ok(None)
    }

    /// Reads and drops the answers to what was anticipated and did not come.
    pub(super) async fn drain_flight(&mut self) -> Result<(), Failure> {
        while let Some(sent) = self.flight.sent.pop_front() {
            self.limit_command();
            self.answer(sent.tag, &mut |_| {}).await?;
        }
        Ok(())
    }

    /// Sends those of these commands that are not under way, and hands every untagged response to `each`,
    /// until all that is under way is answered, in any order.
    pub(super) async fn run_together(
        &mut self,
        commands: Vec<Command>,
        each: &mut impl FnMut(Untagged),
        answers: &mut Vec<(CommandName, Status)>,
    ) -> Result<(), Failure> {
        self.flight.planned.clear();
        let mut unasked: Vec<Tag> = self.flight.sent.iter().map(|sent| sent.tag).collect();
        for command in commands {
            let mut sent = self.flight.sent.iter();
            match sent.find(|sent| sent.command == command) {
                Some(sent) => unasked.retain(|tag| *tag != sent.tag),
                None => self.flight.planned.push(command),
            }
        }
        self.send_planned();
        self.limit_command();
        while !self.flight.sent.is_empty() {
            let (tag, status) = match self.receive().await? {
                Received::Response(Response::Tagged { tag, status }) => (tag, status),
                other => {
                    self.other(other, each).await?;
                    continue;
                }
            };
            let place = self.flight.sent.iter().position(|sent| sent.tag == tag);
            let sent = place.and_then(|place| self.flight.sent.remove(place));
            let Some(sent) = sent else {
                return Err(UNKNOWN_END.into());
            };
            self.observe(sent.command.name(), &status, sent.started);
            // What was anticipated in vain may be refused.
            if !unasked.contains(&sent.tag) {
                answers.push((sent.command.name(), status));
            }
            self.limit_command();
        }
        Ok(())
    }

    /// Hands every untagged response to `each`, until the tagged one.
    pub(super) async fn answer(
        &mut self,
        tag: Tag,
        each: &mut impl FnMut(Untagged),
    ) -> Result<Status, Failure> {
        loop {
            match self.receive().await? {
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    return Ok(status);
                }
                other => self.other(other, each).await?,
            }
        }
    }

    /// Whether all messages of the selected mailbox, or what changed among them, were asked for before it was
    /// known that there are more than a listing may have.
    pub fn has_asked_too_much(&self) -> bool {
        self.exists > MESSAGES_MAX && self.flight.is_under_way()
    }

    /// Whether the upstream has accepted the credential, and all that is wrong is that commands were sent
    /// together, which it does not bear: the same one by one, on another connection, may be answered well.
    pub fn has_lost_its_flight(&self) -> bool {
        self.flight.is_lost
    }

    /// The login itself has failed. Whatever the reason, the credential is not to be shown again: it may be
    /// wrong, and an account may be locked for that.
    pub(super) fn give_up_flight(&mut self) {
        self.flight.is_lost = false;
    }

    /// The upstream has accepted AUTHENTICATE, and then failed. Cyrus 3.6 (2022) loses all or a part of
    /// what came in one piece with AUTHENTICATE: it says BAD to what is left, or nothing.
    pub(super) fn distrust_what_follows_authenticate(&mut self, failure: &Failure) {
        if self.flight.behind_authenticate && !self.has_left(failure) {
            self.flight.is_lost = true;
            let now = Instant::now();
            self.upstream
                .note(|seen| seen.lost_what_follows_authenticate = Some(now));
        }
    }

    /// The upstream has failed while a mailbox was opened: what was sent together may be the reason, so
    /// that it goes one by one for a while.
    pub fn distrust_flights(&mut self, failure: &Failure) {
        match failure.kind {
            FailureKind::UpstreamLost | FailureKind::UpstreamGarbled
                if self.flight.behind_authenticate =>
            {
                self.distrust_what_follows_authenticate(failure);
            }
            FailureKind::UpstreamLost if self.flight.is_under_way() && !self.has_left(failure) => {
                self.note_disorder();
            }
            _ => {}
        }
    }

    /// Whether the upstream has closed the connection, which it does when it is restarted, whatever it is asked.
    fn has_left(&self, failure: &Failure) -> bool {
        failure.kind == FailureKind::UpstreamLost && !self.stream.has_stalled()
    }

    fn note_disorder(&self) {
        let now = Instant::now();
        self.upstream
            .note(|seen| seen.answered_out_of_order = Some(now));
    }

    /// An upstream that ends SELECT after what needs a selected mailbox, or a login after SELECT, cannot
    /// be asked several things at once.
    pub(super) fn is_out_of_order(&mut self, tag: Tag) -> Option<Garbled> {
        let is_ours = self.flight.sent.iter().any(|sent| sent.tag == tag);
        is_ours.then(|| {
            self.flight.is_lost = true;
            self.note_disorder();
            Garbled("answers in another order than that of the commands")
        })
    }
}
