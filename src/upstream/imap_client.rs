//! [`ImapClient`]: one connection to an IMAP server, from greeting to LOGOUT.

mod append;
mod body;
mod flight;
mod folders;
mod login;
mod mailbox;
mod pace;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::debug;

pub use append::Appended;
use body::Ahead;
pub(super) use body::Asked;
use flight::Flight;
pub use folders::{Folders, Target};
pub use mailbox::Selected;
use pace::Pace;

use super::Upstream;
use crate::config::Quirks;
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::capability::{Capabilities, Capability};
use crate::imap::command::{Command, CommandName, Literals};
use crate::imap::fetch::{self, BodyHead};
use crate::imap::framing::{self, Ending, LINE_OCTETS_MAX, LITERALS_MAX};
use crate::imap::ids::UidValidity;
use crate::imap::mailbox_name::MailboxName;
use crate::imap::response::{Code, Condition, Response, Status, Tag, Untagged};
use crate::line_stream::{ByteStream, LineStream, Tap};
use crate::metrics::Metrics;
use crate::sasl::Credential;

/// A command must be answered within so many stall limits, however steadily its answer trickles.
/// The listing of a million messages takes 60 MB.
const COMMAND_STALLS_MAX: u32 = 20;

/// Silence after which an upstream is asked whether it is still there; servers log out after 30
/// minutes (RFC 3501 §5.4).
const KEEP_ALIVE: Duration = Duration::from_secs(5 * 60);

/// Time for the last words to an upstream.
const LOGOUT_PATIENCE: Duration = Duration::from_secs(5);

/// A connection that was closed while it waited shows that within a round trip or two.
const UNTRIED_FOR: Duration = Duration::from_secs(5);

/// After fewer octets a connection knows too little of the way to tell others.
const PACE_OCTETS_MIN: u64 = 1024 * 1024;

/// Octets of the upstream's text that go into a log line.
const QUOTED_OCTETS_MAX: usize = 200;

/// One connection to an IMAP server. Dropping it closes the connection at once.
pub struct ImapClient {
    stream: LineStream,
    upstream: Arc<Upstream>,
    metrics: Arc<Metrics>,
    capabilities: Option<Capabilities>,
    utf8: bool,
    tags: u32,
    /// Commands that were or will be sent before their turn.
    flight: Flight,
    /// FETCHes whose answers nobody has read yet, in the order of their tags.
    ahead: VecDeque<Ahead>,
    /// FETCHes whose body has been read and whose tagged response has not.
    unfinished: Vec<Asked>,
    /// The beginning of a body that came before it was wanted; its octets are next in the stream.
    next_body: Option<Box<BodyHead>>,
    pace: Pace,
    /// Since when it is tried after it had waited, and what had come by then.
    untried: Option<(Instant, u64)>,
    last_answer: Instant,
    validity: Option<UidValidity>,
    /// How many messages the selected mailbox has now.
    exists: u32,
    /// So that no text of the upstream which repeats it reaches a log.
    credential: Option<Credential>,
}

/// What came in.
pub(super) enum Received {
    Response(Response),
    Body(BodyHead),
}

impl ImapClient {
    /// Waits for the greeting.
    pub(super) async fn greet(
        stream: LineStream,
        upstream: Arc<Upstream>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Failure> {
        let mut client = Self::resume(stream, upstream, metrics);
        client.limit_command();
        let unreachable = |cause: String| FailureKind::UpstreamUnreachable.because(cause);
        let greeting = match client.receive().await {
            Ok(Received::Response(Response::Untagged(Untagged::Status(status)))) => status,
            Ok(_) => {
                return Err(unreachable(
                    "the upstream's greeting is not IMAP".to_owned(),
                ));
            }
            Err(failure) => {
                return Err(unreachable(format!("no IMAP greeting: {}", failure.cause)));
            }
        };
        match greeting.condition {
            Condition::Ok => {
                if let Some(Code::Capability(capabilities)) = greeting.code {
                    client.capabilities = Some(capabilities);
                }
                Ok(client)
            }
            // Nobody has proved anything yet, so nobody may be logged in.
            Condition::PreAuth => Err(unreachable("the upstream greets with PREAUTH".to_owned())),
            _ => Err(unreachable(format!(
                "the upstream turned us away: {}",
                client.quote(&greeting.text)
            ))),
        }
    }

    /// A connection on which the greeting has been read, before TLS began.
    pub(super) fn resume(
        stream: LineStream,
        upstream: Arc<Upstream>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let octets_on_the_way = upstream.seen().octets_on_the_way;
        Self {
            stream,
            upstream,
            metrics,
            capabilities: None,
            utf8: false,
            tags: 0,
            flight: Flight::default(),
            ahead: VecDeque::new(),
            unfinished: Vec::new(),
            next_body: None,
            pace: Pace::inherited(octets_on_the_way),
            untried: None,
            last_answer: Instant::now(),
            validity: None,
            exists: 0,
            credential: None,
        }
    }

    /// STARTTLS, whatever was advertised: an upstream that does not want it is not spoken to.
    pub(super) async fn start_tls(mut self) -> Result<Box<dyn ByteStream>, Failure> {
        let status = self.run(Command::start_tls(), |_| {}).await?;
        if status.condition != Condition::Ok {
            let text = self.quote(&status.text);
            return Err(FailureKind::UpstreamUnreachable
                .because(format!("the upstream refuses STARTTLS: {text}")));
        }
        if self.stream.has_input() {
            // Somebody in between added clear text that we would take for the upstream's.
            return Err(
                FailureKind::UpstreamGarbled.because("clear text behind the OK to STARTTLS")
            );
        }
        Ok(self.stream.into_transport())
    }

    /// What the upstream can do at this point of the connection.
    ///
    /// # Errors
    /// When it was lost or is no IMAP server.
    pub async fn known_capabilities(&mut self) -> Result<Capabilities, Failure> {
        if let Some(capabilities) = self.capabilities {
            return Ok(capabilities);
        }
        let status = self.run(Command::capability(), |_| {}).await?;
        self.expect_ok(CommandName::Capability, status)?;
        self.capabilities
            .ok_or_else(|| Garbled("OK to CAPABILITY without capabilities").into())
    }

    /// Lets somebody hear what is said.
    pub fn tap(&mut self, tap: Box<dyn Tap>) {
        self.stream.tap(tap);
    }

    /// What was known last, without asking.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities
            .is_some_and(|capabilities| capabilities.has(capability))
    }

    fn literals(&self) -> Literals {
        Literals::from(self.capabilities.unwrap_or_default())
    }

    /// Whether messages come as they are, with UTF-8 in their headers.
    pub fn is_utf8(&self) -> bool {
        self.utf8
    }

    /// A name from the config as this connection spells it.
    pub fn mailbox(&self, name: &str) -> MailboxName {
        MailboxName::spelt_at(self.capabilities.unwrap_or_default(), name, self.utf8)
    }

    /// Whether the upstream has not been asked anything for so long that it, or a firewall, may forget
    /// us.
    pub fn has_been_silent(&self) -> bool {
        self.last_answer.elapsed() >= KEEP_ALIVE
    }

    /// NOOP, for an upstream that has been silent.
    ///
    /// # Errors
    /// When it was lost.
    pub async fn keep_alive(&mut self) -> Result<(), Failure> {
        let status = self.run(Command::noop(), |_| {}).await?;
        self.expect_ok(CommandName::Noop, status)
    }

    /// LOGOUT, without waiting for its answer; nothing depends on it.
    pub async fn logout(mut self) {
        if self.stream.octets_read() > PACE_OCTETS_MIN {
            let octets = self.pace.measured();
            self.upstream.note(|seen| {
                // None where no FETCH was ever alone.
                if octets > 0 {
                    seen.octets_on_the_way = octets;
                }
            });
        }
        self.stream.limit_stalls(LOGOUT_PATIENCE);
        self.send(&Command::logout());
        self.stream.close().await;
    }

    /// Whether the upstream has said nothing since it was last answered, and is still there. After this
    /// the connection counts as untried.
    pub(super) async fn is_quiet(&mut self) -> bool {
        self.untried = Some((Instant::now(), self.stream.octets_read()));
        // One look, and no wait.
        timeout(Duration::ZERO, self.stream.wait_readable())
            .await
            .is_err()
    }

    /// Whether this connection had waited for its use, and was lost at once, without an octet from the
    /// upstream: then it was lost before, and nobody has judged anything. An upstream that says BYE, or
    /// is silent for long, has had its say.
    pub fn is_untried(&self) -> bool {
        self.untried.is_some_and(|(since, octets)| {
            since.elapsed() < UNTRIED_FOR && octets == self.stream.octets_read()
        })
    }

    /// Whether the upstream may have seen a credential.
    pub fn has_shown_credential(&self) -> bool {
        self.credential.is_some()
    }

    /// To whom this is a connection.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Deviations of this provider.
    pub fn quirks(&self) -> &Quirks {
        &self.upstream.settings().quirks
    }

    /// Whether something that the upstream said is here already.
    pub fn has_input(&self) -> bool {
        self.next_body.is_some() || self.stream.has_input()
    }

    /// How many messages the selected mailbox has now, as far as the upstream has told.
    pub fn exists(&self) -> u32 {
        self.exists
    }

    /// Gives back what is needed only while something goes on.
    pub fn rest(&mut self) {
        self.stream.rest();
        // Queues are sized by what was under way at most, and rarely again.
        self.flight.rest();
        self.ahead.shrink_to_fit();
        self.unfinished.shrink_to_fit();
    }

    /// Octets from and to the upstream so far.
    pub fn octets(&self) -> (u64, u64) {
        (self.stream.octets_read(), self.stream.octets_written())
    }

    /// The text of the upstream as a log may show it: short, escaped, without our credential.
    pub(super) fn quote(&self, text: &[u8]) -> String {
        if self
            .credential
            .as_ref()
            .is_some_and(|credential| credential.is_echoed_in(text))
        {
            return "(withheld: it repeats the credential)".to_owned();
        }
        let shown = &text[..text.len().min(QUOTED_OCTETS_MAX)];
        format!("\"{}\"", shown.escape_ascii())
    }

    /// Sends a command, handing every untagged response to `each`, until its tagged one.
    async fn run(
        &mut self,
        command: Command,
        mut each: impl FnMut(Untagged),
    ) -> Result<Status, Failure> {
        if let Some((tag, started)) = self.take_sent(&command).await? {
            self.limit_command();
            let status = self.answer(tag, &mut each).await?;
            self.observe(command.name(), &status, started);
            return Ok(status);
        }
        self.drain_ahead().await?;
        let started = Instant::now();
        let mut parts = command.parts(self.next_tag()).peekable();
        let tag = Tag(self.tags);
        self.limit_command();
        let status = 'answered: loop {
            if let Some(part) = parts.next() {
                self.say(command.name(), &part);
            }
            if parts.peek().is_none() {
                self.send_planned();
            }
            loop {
                match self.receive().await? {
                    Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                        break 'answered status;
                    }
                    Received::Response(Response::Continuation(_)) if parts.peek().is_some() => {
                        break;
                    }
                    other => self.other(other, &mut each).await?,
                }
            }
        };
        self.observe(command.name(), &status, started);
        Ok(status)
    }

    /// Sends a command that has no synchronizing literal, with the next wait for an answer.
    fn send(&mut self, command: &Command) -> Tag {
        for part in command.parts(self.next_tag()) {
            self.say(command.name(), &part);
        }
        self.limit_command();
        Tag(self.tags)
    }

    /// Of a login, all but its tag, its name and its last line end is secret.
    fn say(&mut self, name: CommandName, part: &[u8]) {
        if !matches!(name, CommandName::Login | CommandName::Authenticate) {
            return self.stream.output_beside_secret(part);
        }
        let beginning = format!("{} {} ", Tag(self.tags), name.label().to_uppercase());
        let shown = match part.starts_with(beginning.as_bytes()) {
            true => beginning.len(),
            false => 0,
        };
        let end = part.len() - 2;
        self.stream.output_beside_secret(&part[..shown]);
        self.stream.output_secret(&part[shown..end]);
        self.stream.output_beside_secret(&part[end..]);
    }

    fn next_tag(&mut self) -> Tag {
        self.tags = self.tags.wrapping_add(1);
        Tag(self.tags)
    }

    pub(super) fn limit_command(&mut self) {
        let limit = self.upstream.stall_limit * COMMAND_STALLS_MAX;
        self.stream.set_deadline(Some(Instant::now() + limit));
    }

    /// One response, or as much of one as comes before a body.
    pub(super) async fn receive(&mut self) -> Result<Received, Failure> {
        if let Some(head) = self.next_body.take() {
            return Ok(Received::Body(*head));
        }
        let line = self.stream.line(LINE_OCTETS_MAX).await?;
        self.last_answer = Instant::now();
        match framing::ending_of_first(line)? {
            Ending::Complete => Ok(Received::Response(Response::parse(line)?)),
            Ending::Body(head) => Ok(Received::Body(head)),
            Ending::Literal { octets } => {
                let mut logical = line.to_vec();
                self.splice(&mut logical, octets).await?;
                match self.complete_line(&mut logical).await? {
                    Some(head) => Ok(Received::Body(head)),
                    None => Ok(Received::Response(Response::parse(&logical)?)),
                }
            }
        }
    }

    /// Reads on until a logical line is complete, or comes to a body.
    pub(super) async fn complete_line(
        &mut self,
        logical: &mut Vec<u8>,
    ) -> Result<Option<BodyHead>, Failure> {
        for _ in 0..LITERALS_MAX {
            let line_start = logical.len();
            let line = self.stream.line(LINE_OCTETS_MAX).await?;
            logical.extend_from_slice(line);
            match framing::ending_of_next(logical, line_start)? {
                Ending::Complete => return Ok(None),
                Ending::Body(head) => return Ok(Some(head)),
                Ending::Literal { octets } => self.splice(logical, octets).await?,
            }
        }
        Err(Garbled("too many literals in one response").into())
    }

    async fn splice(&mut self, logical: &mut Vec<u8>, octets: usize) -> Result<(), Failure> {
        framing::splice(logical);
        self.read_octets(logical, octets as u64).await
    }

    async fn read_octets(&mut self, into: &mut Vec<u8>, octets: u64) -> Result<(), Failure> {
        let mut left = octets;
        while left > 0 {
            let chunk = self
                .stream
                .chunk(usize::try_from(left).unwrap_or(usize::MAX))
                .await?;
            into.extend_from_slice(chunk);
            left -= chunk.len() as u64;
        }
        Ok(())
    }

    pub(super) fn stream(&mut self) -> &mut LineStream {
        &mut self.stream
    }

    /// What came in although nobody waited for it: noted, handed on, or skipped.
    pub(super) async fn other(
        &mut self,
        received: Received,
        each: &mut impl FnMut(Untagged),
    ) -> Result<(), Failure> {
        match received {
            Received::Response(Response::Untagged(untagged)) => {
                self.note(&untagged)?;
                if let Untagged::Fetch(fetch) = &untagged
                    && fetch.body.is_some()
                {
                    self.note_skipped(fetch.uid);
                }
                each(untagged);
                Ok(())
            }
            Received::Response(Response::Tagged { tag, status }) => self.end_of_fetch(tag, status),
            Received::Response(Response::Continuation(_)) => {
                Err(Garbled("a continuation that we did not ask for").into())
            }
            Received::Body(head) => self.skip_body(head).await,
        }
    }

    /// A body that nobody asked for is never shown to anybody.
    async fn skip_body(&mut self, head: BodyHead) -> Result<(), Failure> {
        let mut left = head.octets;
        while left > 0 {
            let octets_max = usize::try_from(left).unwrap_or(usize::MAX);
            left -= self.stream.chunk(octets_max).await?.len() as u64;
        }
        let mut tail = Vec::new();
        if self.complete_line(&mut tail).await?.is_some() {
            return Err(Garbled("two bodies in one response").into());
        }
        let uid = fetch::body_tail(&tail, head.items).map_or(None, |items| items.uid);
        self.note_skipped(uid);
        Ok(())
    }

    fn note(&mut self, untagged: &Untagged) -> Result<(), Failure> {
        match untagged {
            Untagged::Capability(capabilities) => self.capabilities = Some(*capabilities),
            Untagged::Exists(exists) => self.exists = *exists,
            Untagged::Expunge => self.exists = self.exists.saturating_sub(1),
            Untagged::Vanished {
                earlier: false,
                uids,
            } => {
                let gone = u32::try_from(uids.len()).unwrap_or(u32::MAX);
                self.exists = self.exists.saturating_sub(gone);
            }
            Untagged::Status(status) => {
                if status.condition == Condition::Bye {
                    let text = self.quote(&status.text);
                    return Err(FailureKind::UpstreamLost.because(format!("BYE {text}")));
                }
                if let (Some(Code::UidValidity(said)), Some(known)) = (&status.code, self.validity)
                    && *said != known
                {
                    return Err(Garbled("UIDVALIDITY changed in mid-session").into());
                }
                if let Some(Code::Capability(capabilities)) = status.code {
                    self.capabilities = Some(capabilities);
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn observe(&mut self, name: CommandName, status: &Status, started: Instant) {
        self.stream.set_deadline(None);
        self.untried = None;
        if let Some(Code::Capability(capabilities)) = status.code {
            self.capabilities = Some(capabilities);
        }
        let upstream = &self.upstream.settings().name;
        self.metrics
            .imap_command(upstream, name, status.condition, started.elapsed());
        debug!(
            command = name.label(),
            status = ?status.condition,
            milliseconds = started.elapsed().as_millis(),
            "upstream command"
        );
    }

    /// NO and BAD to a command that should work.
    pub(super) fn expect_ok(&self, name: CommandName, status: Status) -> Result<(), Failure> {
        let kind = match status.condition {
            Condition::Ok => return Ok(()),
            Condition::Bad if !is_exchange_trouble(&status.text) => FailureKind::OurMistake,
            _ => FailureKind::UpstreamRefused,
        };
        let text = self.quote(&status.text);
        Err(kind.because(format!("{}: {text}", name.label())))
    }
}

/// What Exchange Online reports as a syntax error although it will pass: since 2016 (MailKit#1494) that
/// the mailbox behind the login is unreachable, since 2020 that it is asked too often.
fn is_exchange_trouble(text: &[u8]) -> bool {
    [
        &b"authenticated but not connected"[..],
        b"request is throttled",
        b"server unavailable",
    ]
    .iter()
    .any(|phrase| contains(text, phrase))
}

fn contains(text: &[u8], phrase: &[u8]) -> bool {
    memchr::memmem::find(&text.to_ascii_lowercase(), phrase).is_some()
}
