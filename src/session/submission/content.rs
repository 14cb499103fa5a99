//! The content of a message (RFC 5321 §4.1.1.4, RFC 3030): octets in, octets on, while they arrive. The
//! upstream gets the end of it only when the client has sent the end, and the client `250` only when the
//! upstream has said so.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::objection::{self, Objection};
use super::sent_copy::Copying;
use super::{Session, received, words};
use crate::config::BareNewlines;
use crate::failure::{Failure, FailureKind};
use crate::metrics::SubmissionResult;
use crate::session::SessionEnd;
use crate::smtp::command::{COMMAND_LINE_OCTETS_MAX, Command, CommandName};
use crate::smtp::data::{DotStuffer, Framing, MessageReader};
use crate::smtp::reply::{self, Class, Reply};

/// Silence within a message after which the client is lost (RFC 5321 §4.5.3.2.7).
const CONTENT_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Time that every message has, however slowly it comes.
const CONTENT_TIME: Duration = Duration::from_secs(10 * 60);

/// Octets a second at which it must come besides: less than any modem's, or any upstream's that is not
/// broken, but more than those of a client that trickles to stay.
const CONTENT_OCTETS_PER_SECOND_MIN: u64 = 512;

pub(super) const TOO_LARGE: Objection = (552, "5.3.4", "the message is too large");

/// A message that the upstream waits for.
pub(super) struct Start {
    pub(super) kind: Kind,
    pub(super) started: Instant,
    /// MAIL said SMTPUTF8.
    pub(super) is_utf8: bool,
    /// The upstream has 8BITMIME.
    pub(super) may_be_eight_bit: bool,
}

/// How it comes.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// By DATA.
    Data,
    /// By BDAT, of which the first has come.
    Chunks { octets: u64, is_last: bool },
}

/// What became of reading it.
pub(super) enum Outcome {
    /// The client has sent all of it.
    Whole(Box<Message>),
    /// The client has begun something else.
    GivenUp,
    /// … which is QUIT.
    Quit,
    /// Nothing comes of it, as the client knows, which may go on with it all the same: the answer to that.
    Failed(Objection),
}

/// A message whose end the upstream has not been told yet.
pub(super) struct Message {
    name: CommandName,
    started: Instant,
    /// When its first octet could come.
    begun: Instant,
    reader: MessageReader,
    stuffer: DotStuffer,
    /// Some octets of it, on their way from here to there.
    octets: Vec<u8>,
    octets_max: u64,
    may_be_eight_bit: bool,
    /// Whether it is counted already how it ended.
    is_concluded: bool,
    copying: Option<Copying>,
    /// Why it will not be sent, which is said when the client has sent all of it.
    trouble: Option<Trouble>,
}

enum Trouble {
    TooLarge,
    BareNewline,
    EightBit,
    /// The upstream has refused it before its end, in these words.
    Refused(Vec<u8>),
    Upstream(Failure),
}

impl Trouble {
    /// An upstream that takes nothing more may have said why.
    async fn with_upstream(lost: Failure, session: &mut Session<'_>) -> Self {
        let refusal = match &mut session.logged_in.connection {
            Some(connection) => connection.refusal().await,
            None => None,
        };
        let trouble = match refusal {
            Some(reply) => Self::Refused(words::of(&reply, session.logged_in)),
            None => Self::Upstream(lost),
        };
        session.logged_in.drop_connection(session.gateway);
        trouble
    }

    /// By what the upstream says before the end of the message, which it gets no more.
    fn with_early(reply: Result<Reply, Failure>, session: &mut Session<'_>) -> Self {
        let trouble = match reply {
            Ok(reply) => match reply.class() {
                Class::NotNow | Class::Never => Self::Refused(words::of(&reply, session.logged_in)),
                Class::Done | Class::GoOn => {
                    let cause = format!("{} before the end of the message", reply.code);
                    Self::Upstream(FailureKind::UpstreamGarbled.because(cause))
                }
            },
            Err(lost) => Self::Upstream(lost),
        };
        session.logged_in.drop_connection(session.gateway);
        trouble
    }

    /// The answer to further chunks of such a message.
    fn objection_to_more(&self) -> Objection {
        match self {
            Self::Upstream(_) => objection::LOST,
            Self::Refused(words) => objection::to_more(words),
            Self::TooLarge | Self::BareNewline | Self::EightBit => objection::REFUSED,
        }
    }
}

/// Reads a message up to its end.
pub(super) async fn read(start: Start, session: &mut Session<'_>) -> Result<Outcome, SessionEnd> {
    let mut message = Message::new(&start, session).await;
    session.client.lines.limit_stalls(CONTENT_PATIENCE);
    let outcome = match start.kind {
        Kind::Data => data(&mut message, session).await.map(|()| Read::Whole),
        Kind::Chunks { octets, is_last } => chunks(octets, is_last, &mut message, session).await,
    };
    let idle = session.gateway.timeouts.idle;
    session.client.lines.limit_stalls(idle);
    session.client.lines.set_deadline(None);
    match outcome {
        Ok(Read::Whole) => Ok(Outcome::Whole(Box::new(message))),
        Ok(given_up) => {
            // What it has of the message comes to nothing.
            session.logged_in.drop_connection(session.gateway);
            if !message.is_concluded {
                session
                    .record
                    .concluded(session.gateway, SubmissionResult::Aborted);
            }
            match given_up {
                Read::Quit => Ok(Outcome::Quit),
                Read::Failed(objection) => Ok(Outcome::Failed(objection)),
                Read::Whole | Read::GivenUp => Ok(Outcome::GivenUp),
            }
        }
        Err(end) => {
            session.logged_in.drop_connection(session.gateway);
            session
                .record
                .concluded(session.gateway, SubmissionResult::Aborted);
            Err(end)
        }
    }
}

enum Read {
    Whole,
    GivenUp,
    Quit,
    Failed(Objection),
}

/// Up to CRLF.CRLF.
async fn data(message: &mut Message, session: &mut Session<'_>) -> Result<(), SessionEnd> {
    while !message.reader.is_complete() {
        session.client.lines.set_deadline(message.deadline());
        let chunk = session.client.lines.peek().await?;
        let octets = message.take(chunk);
        session.client.lines.consume(octets);
        message.forward(session).await?;
    }
    Ok(())
}

/// Up to the end of the chunk that is the last one; between them, few commands have a place.
async fn chunks(
    mut octets: u64,
    mut is_last: bool,
    message: &mut Message,
    session: &mut Session<'_>,
) -> Result<Read, SessionEnd> {
    loop {
        let chunk_octets = octets;
        while octets > 0 {
            let octets_max = usize::try_from(octets).unwrap_or(usize::MAX);
            session.client.lines.set_deadline(message.deadline());
            let chunk = session.client.lines.peek().await?;
            let chunk = &chunk[..chunk.len().min(octets_max)];
            let taken = message.take(chunk);
            session.client.lines.consume(taken);
            octets -= taken as u64;
            message.forward(session).await?;
        }
        if is_last {
            message.reader.end(&mut message.octets);
            message.forward(session).await?;
            return Ok(Read::Whole);
        }
        if let Some(trouble) = message.trouble.take() {
            let objection = trouble.objection_to_more();
            message.explain(trouble, session);
            return Ok(Read::Failed(objection));
        }
        let out = session.client.lines.output();
        reply::say(out, 250, "2.0.0", format!("{chunk_octets} octets are here"));
        match between_chunks(session).await? {
            Between::Chunk(next_octets, next_is_last) => {
                (octets, is_last) = (next_octets, next_is_last);
            }
            Between::GivenUp => return Ok(Read::GivenUp),
            Between::Quit => return Ok(Read::Quit),
        }
    }
}

enum Between {
    Chunk(u64, bool),
    GivenUp,
    Quit,
}

async fn between_chunks(session: &mut Session<'_>) -> Result<Between, SessionEnd> {
    loop {
        // Who says more than it hears must not make its replies pile up.
        session.client.lines.relieve().await?;
        let line = session.client.lines.line(COMMAND_LINE_OCTETS_MAX).await?;
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(mistake) => {
                session
                    .record
                    .mistaken(session.client, session.gateway, mistake)?;
                continue;
            }
        };
        let out = session.client.lines.output();
        match command {
            Command::Bdat { octets, is_last } => return Ok(Between::Chunk(octets, is_last)),
            Command::Noop => reply::say(out, 250, "2.0.0", "still here"),
            Command::Rset => {
                reply::say(out, 250, "2.0.0", "forgotten");
                return Ok(Between::GivenUp);
            }
            Command::Quit => {
                reply::say(out, 221, "2.0.0", "bye");
                return Ok(Between::Quit);
            }
            Command::Ehlo(_)
            | Command::Helo(_)
            | Command::StartTls
            | Command::Auth { .. }
            | Command::Mail(..)
            | Command::Rcpt(..)
            | Command::Data
            | Command::Vrfy
            | Command::Help => {
                let text = "BDAT goes on, or RSET gives up";
                session
                    .record
                    .misplaced(session.client, 503, "5.5.1", text)?;
            }
        }
    }
}

/// Reads the octets of a chunk that nobody takes.
pub(super) async fn discard(octets: u64, session: &mut Session<'_>) -> Result<(), SessionEnd> {
    if octets > session.gateway.submission.message_octets_max {
        return Err(SessionEnd::MessageEndless);
    }
    let begun = Instant::now();
    let mut left = octets;
    while left > 0 {
        let octets_max = usize::try_from(left).unwrap_or(usize::MAX);
        let deadline = content_deadline(begun, octets - left);
        session.client.lines.set_deadline(Some(deadline));
        left -= session.client.lines.chunk(octets_max).await?.len() as u64;
    }
    session.client.lines.set_deadline(None);
    Ok(())
}

/// When more of a message must have come than these octets.
fn content_deadline(begun: Instant, octets: u64) -> Instant {
    begun + CONTENT_TIME + Duration::from_secs(octets / CONTENT_OCTETS_PER_SECOND_MIN)
}

impl Message {
    async fn new(start: &Start, session: &mut Session<'_>) -> Self {
        let (name, framing) = match start.kind {
            Kind::Data => (CommandName::Data, Framing::Dots),
            Kind::Chunks { .. } => (CommandName::Bdat, Framing::Counted),
        };
        let mut message = Self {
            name,
            started: start.started,
            begun: Instant::now(),
            reader: MessageReader::new(framing),
            stuffer: DotStuffer::default(),
            octets: Vec::new(),
            octets_max: session.logged_in.message_octets_max(session.gateway),
            may_be_eight_bit: start.may_be_eight_bit,
            is_concluded: false,
            copying: Copying::begin(start.is_utf8, session).await,
            trouble: None,
        };
        if session.gateway.submission.settings.received {
            received::line(start.is_utf8, session, &mut message.octets);
        }
        message
    }

    fn deadline(&self) -> Option<Instant> {
        Some(content_deadline(self.begun, self.reader.octets()))
    }

    /// Takes as much of what came as belongs to the message.
    fn take(&mut self, chunk: &[u8]) -> usize {
        self.reader.push(chunk, &mut self.octets)
    }

    /// Passes on what was taken, unless something is wrong with it.
    async fn forward(&mut self, session: &mut Session<'_>) -> Result<(), SessionEnd> {
        let limit = session.gateway.submission.message_octets_max;
        if self.reader.octets() > limit.saturating_mul(2) {
            return Err(SessionEnd::MessageEndless);
        }
        if self.trouble.is_none() {
            self.trouble = self.find_trouble(session);
        }
        if self.trouble.is_none()
            && let Some(connection) = &mut session.logged_in.connection
        {
            self.stuffer.push(&self.octets, connection.body_output());
            // What came goes on now, unless there is something to go with it.
            let is_alone = !session.client.lines.has_input() && !self.reader.is_complete();
            let sent = match is_alone {
                true => connection.flush().await,
                false => connection.relieve().await,
            };
            if let Err(lost) = sent {
                self.trouble = Some(Trouble::with_upstream(lost, session).await);
            }
        }
        if self.trouble.is_some() {
            session.logged_in.drop_connection(session.gateway);
            self.copying = None;
        }
        if let Some(copying) = &mut self.copying
            && let Err(error) = copying.push(&self.octets).await
        {
            copying.fail(&error, session);
            self.copying = None;
        }
        self.octets.clear();
        Ok(())
    }

    fn find_trouble(&self, session: &Session<'_>) -> Option<Trouble> {
        let refuses_bare_newlines =
            session.gateway.submission.settings.bare_newlines == BareNewlines::Refuse;
        if self.reader.octets() > self.octets_max {
            Some(Trouble::TooLarge)
        } else if refuses_bare_newlines && self.reader.has_bare_newline() {
            Some(Trouble::BareNewline)
        } else if !self.may_be_eight_bit && !self.octets.is_ascii() {
            Some(Trouble::EightBit)
        } else {
            None
        }
    }

    /// Tells the client why the message was not sent.
    fn explain(&mut self, trouble: Trouble, session: &mut Session<'_>) {
        self.is_concluded = true;
        let (code, enhanced, text) = match trouble {
            Trouble::Upstream(failure) => return self.fail(&failure, session),
            Trouble::Refused(words) => return self.refused(&words, session),
            Trouble::TooLarge => TOO_LARGE,
            Trouble::BareNewline => (554, "5.6.0", "a line end that is not CRLF"),
            Trouble::EightBit => (554, "5.6.3", "the mail server takes no 8-bit text"),
        };
        session.record.refuse(session.client, code, enhanced, text);
        self.count(false, SubmissionResult::Refused, session);
    }

    /// Tells the client why the upstream refuses it.
    fn refused(&self, words: &[u8], session: &mut Session<'_>) {
        session.client.lines.output().extend_from_slice(words);
        session.record.refused += 1;
        self.count(false, SubmissionResult::Refused, session);
    }

    fn fail(&mut self, failure: &Failure, session: &mut Session<'_>) {
        let id = session.record.id;
        failure.kind.smtp_reply(session.client.lines.output(), id);
        session.record.failed(failure, session.gateway);
        session.logged_in.drop_connection(session.gateway);
        self.count(false, SubmissionResult::Failed, session);
    }

    fn count(&self, is_accepted: bool, result: SubmissionResult, session: &Session<'_>) {
        let metrics = &session.gateway.metrics;
        metrics.smtp_command(self.name, is_accepted, self.started.elapsed());
        session.record.concluded(session.gateway, result);
    }
}

/// Tells the upstream that the message has ended, and the client what the upstream says to that. What it says
/// before is no word on the message, which it does not have. Only in the moment in which the end is on its
/// way, nobody can tell the one from the other.
pub(super) async fn conclude(mut message: Message, session: &mut Session<'_>) {
    if let Some(connection) = &mut session.logged_in.connection
        && let Some(early) = connection.early_reply().await
    {
        message.trouble = Some(Trouble::with_early(early, session));
    }
    if let Some(connection) = &mut session.logged_in.connection {
        std::mem::take(&mut message.stuffer).end(connection.body_output());
        if let Err(lost) = connection.flush().await {
            message.trouble = Some(Trouble::with_upstream(lost, session).await);
        }
    }
    if let Some(trouble) = message.trouble.take() {
        message.explain(trouble, session);
        return;
    }
    let reply = match &mut session.logged_in.connection {
        Some(connection) => connection.reply_to_message().await,
        None => Err(FailureKind::UpstreamLost.because("the upstream has closed the connection")),
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(failure) => {
            message.fail(&failure, session);
            return;
        }
    };
    match reply.class() {
        Class::Done => accepted(&reply, message, session),
        Class::NotNow | Class::Never => {
            let words = words::of(&reply, session.logged_in);
            message.refused(&words, session);
        }
        Class::GoOn => {
            let cause = format!("{} to a message", reply.code);
            message.fail(&FailureKind::UpstreamGarbled.because(cause), session);
        }
    }
    if reply.code == 421 {
        session.logged_in.drop_connection(session.gateway);
    }
}

fn accepted(reply: &Reply, mut message: Message, session: &mut Session<'_>) {
    let words = words::of(reply, session.logged_in);
    session.client.lines.output().extend_from_slice(&words);
    let octets = message.reader.octets();
    session.record.accepted += 1;
    session.record.envelope_refusals = 0;
    session.record.accepted_octets += octets;
    message.count(true, SubmissionResult::Accepted, session);
    debug!(session = %session.record.id, octets, "message accepted");
    if let Some(copying) = message.copying.take() {
        copying.store(session);
    }
}
