//! Fetching a message: up to the first octet of its body, which a [`LiteralReader`] then lends.

use tokio::time::Instant;

use super::flight::UNKNOWN_END;
use super::{ImapClient, Received};
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::command::{Command, CommandName, SearchedState, Section};
use crate::imap::fetch::{self, BodyHead, BodyPlace, Fetch};
use crate::imap::ids::{Uid, UidSet};
use crate::imap::response::{Condition, Response, Status, Tag, Untagged};
use crate::metrics::ReadAhead;
use crate::upstream::LiteralReader;

/// Octets of a body that is held until its UID is known. Of a longer one the UID is checked behind it,
/// before its terminator is said.
const UNNAMED_BODY_OCTETS_MAX: u64 = 64 * 1024;

/// A FETCH of a body that was sent.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct Asked {
    tag: Tag,
    started: Instant,
    /// Octets that had come from the upstream by then.
    octets_before: u64,
    /// Whether nothing else was under way.
    alone: bool,
}

/// A FETCH that the client has not asked for yet.
pub(super) struct Ahead {
    asked: Asked,
    uid: Uid,
    section: Section,
    /// As many as its body is expected to have.
    octets: u64,
    /// Whether its body has come while another was wanted, and is gone.
    is_skipped: bool,
}

/// How the answer to a FETCH of a body begins.
enum BodyStart {
    /// With the literal, whose octets are next.
    Streamed(BodyHead),
    /// With all of it.
    Held(Vec<u8>),
    /// There is no such message.
    Absent,
    /// NO, BAD, or NIL for a body.
    Refused(Status),
}

impl ImapClient {
    /// The messages that were asked for ahead and not fetched yet, each with the octets that it is
    /// expected to take.
    pub fn under_way(&self) -> impl Iterator<Item = (Uid, u64)> {
        self.ahead.iter().map(|ahead| (ahead.uid, ahead.octets))
    }

    /// Octets that the way from the upstream holds, as far as was seen; 0 before that.
    pub fn octets_on_the_way(&self) -> u64 {
        self.pace.octets_under_way()
    }

    /// Begins to fetch a message, or part of it, and asks in the same flight for the same of the
    /// messages that will be fetched next. `None`: there is no such message any more.
    ///
    /// # Errors
    /// When the upstream refuses, is lost, or has a message without showing it.
    pub async fn fetch_body(
        &mut self,
        uid: Uid,
        section: Section,
        next: &[(Uid, u64)],
    ) -> Result<Option<LiteralReader<'_>>, Failure> {
        let asked = self.ask(uid, section).await?;
        for (uid, octets) in next {
            let asked = self.send_fetch(*uid, section);
            self.ahead.push_back(Ahead {
                asked,
                uid: *uid,
                section,
                octets: *octets,
                is_skipped: false,
            });
        }
        self.limit_command();
        // Also when the answer is here already: what was asked for ahead must not wait for it.
        self.stream.flush().await?;
        let start = self.body_start(asked.tag, uid, section).await?;
        if asked.alone {
            self.pace.answered(asked.started.elapsed());
        }
        let status = match start {
            BodyStart::Streamed(head) => {
                return Ok(Some(LiteralReader::streamed(self, asked, uid, head)));
            }
            BodyStart::Held(content) => {
                return Ok(Some(LiteralReader::inline(self, asked, uid, content)));
            }
            BodyStart::Absent => return Ok(None),
            BodyStart::Refused(status) => status,
        };
        self.observe(CommandName::FetchBody, &status, asked.started);
        let failure = match self.expect_ok(CommandName::FetchBody, status) {
            Ok(()) => FailureKind::UpstreamRefused.because("the upstream says NIL for a body"),
            Err(failure) if failure.kind != FailureKind::UpstreamRefused => return Err(failure),
            Err(failure) => failure,
        };
        // That may be how the upstream says that the message is gone (Dovecot: `BODY[] NIL` and
        // EXPUNGEISSUED); then it will not come back, and there is no failure.
        let left = self
            .search(&UidSet::from_iter([uid]), SearchedState::Present)
            .await?;
        match left.is_empty() {
            true => Ok(None),
            false => Err(failure),
        }
    }

    /// Asks for a body, unless that was done ahead. What was asked for ahead of it is not wanted.
    async fn ask(&mut self, uid: Uid, section: Section) -> Result<Asked, Failure> {
        let is_it =
            |ahead: &Ahead| ahead.uid == uid && ahead.section == section && !ahead.is_skipped;
        while let Some(place) = self.ahead.iter().position(is_it) {
            let has_come = self.next_body.as_ref();
            let has_come = has_come.is_some_and(|head| is_body_of(head, uid, section));
            if place == 0 || has_come {
                let ahead = self.ahead.remove(place);
                self.metrics.read_ahead(ReadAhead::Hit, 1);
                return ahead.map(|ahead| ahead.asked).ok_or(UNKNOWN_END.into());
            }
            self.limit_command();
            self.drain_front(Some((uid, section))).await?;
        }
        self.drain_ahead().await?;
        if !matches!(section, Section::Part { first: 1.., .. }) {
            self.metrics.read_ahead(ReadAhead::Miss, 1);
        }
        Ok(self.send_fetch(uid, section))
    }

    fn send_fetch(&mut self, uid: Uid, section: Section) -> Asked {
        let alone = self.ahead.is_empty() && self.unfinished.is_empty();
        Asked {
            tag: self.send(&Command::fetch_body(uid, section)),
            started: Instant::now(),
            octets_before: self.stream.octets_read(),
            alone,
        }
    }

    /// Reads and drops all that was asked for ahead, as every other command must.
    pub(super) async fn drain_ahead(&mut self) -> Result<(), Failure> {
        self.drain_flight().await?;
        self.limit_command();
        while !(self.ahead.is_empty() && self.unfinished.is_empty()) {
            self.drain_front(None).await?;
        }
        Ok(())
    }

    /// Reads on until one FETCH less is under way, or the wanted body begins: of FETCHes that are ended
    /// together it comes before the end of what was asked for ahead of it.
    async fn drain_front(&mut self, wanted: Option<(Uid, Section)>) -> Result<(), Failure> {
        let under_way = |client: &Self| client.ahead.len() + client.unfinished.len();
        let before = under_way(self);
        while under_way(self) == before {
            match self.receive().await? {
                Received::Body(head)
                    if wanted.is_some_and(|(uid, section)| is_body_of(&head, uid, section)) =>
                {
                    self.next_body = Some(Box::new(head));
                    return Ok(());
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        }
        Ok(())
    }

    /// A body has come that nobody waited for: when its message is wanted, it has to be asked for again.
    pub(super) fn note_skipped(&mut self, uid: Option<Uid>) {
        for ahead in &mut self.ahead {
            ahead.is_skipped |= uid.is_none_or(|uid| uid == ahead.uid);
        }
    }

    /// The tagged response of a FETCH that nobody waits for.
    pub(super) fn end_of_fetch(&mut self, tag: Tag, status: Status) -> Result<(), Failure> {
        if let Some(garbled) = self.is_out_of_order(tag) {
            return Err(garbled.into());
        }
        if let Some(place) = self.unfinished.iter().position(|asked| asked.tag == tag) {
            let asked = self.unfinished.swap_remove(place);
            self.observe(CommandName::FetchBody, &status, asked.started);
            // The message went to the client as complete. If it was not, nothing more may happen in
            // this session, least of all its removal.
            return match status.condition {
                Condition::Ok => Ok(()),
                _ => Err(Garbled("the upstream takes back a message that it has sent").into()),
            };
        }
        // What was read ahead is not there, or came in another order than asked for (RFC 3501 §5.5)
        // and was skipped: the client will ask again.
        match self.ahead.iter().position(|ahead| ahead.asked.tag == tag) {
            Some(place) => {
                self.ahead.remove(place);
                self.metrics.read_ahead(ReadAhead::Dropped, 1);
                Ok(())
            }
            None => Err(UNKNOWN_END.into()),
        }
    }

    /// Behind a body, waits for the end of its FETCH, or for the next body that was asked for:
    /// Dovecot answers up to four FETCHes together, and ends them together.
    pub(in crate::upstream) async fn end_body(&mut self, asked: Asked) -> Result<(), Failure> {
        let octets = self.stream.octets_read() - asked.octets_before;
        self.pace.delivered(octets, asked.started.elapsed());
        let Asked { tag, started, .. } = asked;
        self.limit_command();
        loop {
            match self.receive().await? {
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    self.observe(CommandName::FetchBody, &status, started);
                    return self.expect_ok(CommandName::FetchBody, status);
                }
                Received::Body(head) if self.is_ahead(&head) => {
                    self.next_body = Some(Box::new(head));
                    self.unfinished.push(asked);
                    return Ok(());
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        }
    }

    fn is_ahead(&self, head: &BodyHead) -> bool {
        match head.items.uid {
            Some(uid) => self.ahead.iter().any(|ahead| ahead.uid == uid),
            None => !self.ahead.is_empty(),
        }
    }

    /// Reads up to the first octet of the body, or the end of the command.
    async fn body_start(
        &mut self,
        tag: Tag,
        uid: Uid,
        section: Section,
    ) -> Result<BodyStart, Failure> {
        let mut withheld = false;
        loop {
            match self.receive().await? {
                Received::Body(head) if is_ours(&head.items, uid) && fits(head.place, section) => {
                    if head.items.uid.is_some() || head.octets > UNNAMED_BODY_OCTETS_MAX {
                        return Ok(BodyStart::Streamed(head));
                    }
                    if let Some(content) = self.unnamed_body(head, uid).await? {
                        return Ok(BodyStart::Held(content));
                    }
                }
                Received::Response(Response::Untagged(Untagged::Fetch(mut fetch)))
                    if fetch.uid == Some(uid)
                        && fetch
                            .body
                            .as_ref()
                            .is_some_and(|body| fits(body.place, section)) =>
                {
                    match fetch.body.take().and_then(|body| body.content) {
                        Some(content) => return Ok(BodyStart::Held(content)),
                        None => withheld = true,
                    }
                }
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    let ok = status.condition == Condition::Ok;
                    return Ok(match ok && !withheld {
                        true => BodyStart::Absent,
                        false => BodyStart::Refused(status),
                    });
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        }
    }

    /// A body whose UID comes behind it (Exchange Online): held until it is clear whose it is.
    async fn unnamed_body(&mut self, head: BodyHead, uid: Uid) -> Result<Option<Vec<u8>>, Failure> {
        let mut content = Vec::new();
        self.read_octets(&mut content, head.octets).await?;
        let mut tail = Vec::new();
        if self.complete_line(&mut tail).await?.is_some() {
            return Err(Garbled("two bodies in one response").into());
        }
        let items = fetch::body_tail(&tail, head.items)?;
        if items.uid == Some(uid) {
            return Ok(Some(content));
        }
        self.note_skipped(items.uid);
        Ok(None)
    }
}

fn is_body_of(head: &BodyHead, uid: Uid, section: Section) -> bool {
    head.items.uid == Some(uid) && fits(head.place, section)
}

fn is_ours(items: &Fetch, uid: Uid) -> bool {
    // Where the UID comes behind the body, the tail of the response decides.
    items.uid.is_none_or(|said| said == uid)
}

/// Whether these are octets that we asked for. A server that knows no partial fetch sends the whole
/// message; from its beginning that is as good.
fn fits(place: BodyPlace, section: Section) -> bool {
    place.whole_message
        && match section {
            Section::Whole => place.origin.is_none(),
            Section::Part { first, .. } => place.origin.unwrap_or(0) == first,
        }
}
