//! Fetching a message: up to the first octet of its body, which a [`LiteralReader`] then lends.

use tokio::time::Instant;

use super::{ImapClient, Received};
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::command::{Command, CommandName, SearchedState, Section};
use crate::imap::fetch::{self, BodyHead, BodyPlace, Fetch};
use crate::imap::ids::{Uid, UidSet};
use crate::imap::response::{Condition, Response, Status, Tag, Untagged};
use crate::upstream::LiteralReader;

/// Octets of a body that is held until its UID is known. Of a longer one the UID is checked behind it,
/// before its terminator is said.
const UNNAMED_BODY_OCTETS_MAX: u64 = 64 * 1024;

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
    /// Begins to fetch a message, or part of it. `None`: there is no such message any more.
    ///
    /// # Errors
    /// When the upstream refuses, is lost, or has a message without showing it.
    pub async fn fetch_body(
        &mut self,
        uid: Uid,
        section: Section,
    ) -> Result<Option<LiteralReader<'_>>, Failure> {
        let started = Instant::now();
        let tag = self.send(&Command::fetch_body(uid, section)).await?;
        let status = match self.body_start(tag, uid, section).await? {
            BodyStart::Streamed(head) => {
                return Ok(Some(LiteralReader::streamed(self, tag, uid, head, started)));
            }
            BodyStart::Held(content) => {
                return Ok(Some(LiteralReader::inline(
                    self, tag, uid, content, started,
                )));
            }
            BodyStart::Absent => return Ok(None),
            BodyStart::Refused(status) => status,
        };
        self.observe(CommandName::FetchBody, &status, started);
        let failure = match self.expect_ok(CommandName::FetchBody, status) {
            Ok(()) => FailureKind::UpstreamRefused.because("the upstream says NIL for a body"),
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
        Ok((items.uid == Some(uid)).then_some(content))
    }
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
