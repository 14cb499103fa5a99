//! [`SubmissionClient`]: one connection to a submission server (RFC 6409), from greeting to QUIT.

mod login;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Upstream;
use crate::config::{EndpointSecurity, Service};
use crate::failure::{Failure, FailureKind};
use crate::line_stream::{LineError, LineStream, Tap};
use crate::sasl::Credential;
use crate::smtp::Garbled;
use crate::smtp::extension::Extensions;
use crate::smtp::reply::{Class, Reply, ReplyLine};

/// Octets of a line of a reply; RFC 5321 §4.5.3.1.5 has 512, the explanations of some have more.
const LINE_OCTETS_MAX: usize = 4096;

/// Lines of a reply.
const LINES_MAX: usize = 100;

/// Time for the replies to MAIL and RCPT (RFC 5321 §4.5.3.2.2, §4.5.3.2.3): an upstream may look many things
/// up, or make mass mailers wait.
const ENVELOPE_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Time for the reply to DATA (RFC 5321 §4.5.3.2.4).
const DATA_PATIENCE: Duration = Duration::from_secs(2 * 60);

/// Time in which the upstream must take something of what it is sent (RFC 5321 §4.5.3.2.5).
const BLOCK_PATIENCE: Duration = Duration::from_secs(3 * 60);

/// Time for the reply to the end of a message (RFC 5321 §4.5.3.2.6). Who gives up before the upstream
/// does may send a message twice.
const END_OF_DATA_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Silence after which it is no wonder if the upstream, or a firewall, has forgotten us.
const SILENCE: Duration = Duration::from_secs(60);

/// Time for the last words to an upstream, and for its own.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Octets of the upstream's text that go into a log line.
const QUOTED_OCTETS_MAX: usize = 200;

/// What a reply is awaited to, which decides for how long: as the RFC says, or for `timeouts.upstream` if
/// that is more. The RFC's are the least that a client should wait, since an upstream that is not waited
/// for may never get a message at all; until the login, where nothing can be lost, `timeouts.upstream`
/// alone counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// RSET, or anything until the login.
    Reset,
    /// MAIL or RCPT.
    Envelope,
    /// DATA.
    Data,
}

/// One connection to a submission server. Dropping it closes the connection at once, and what was sent
/// of a message comes to nothing.
pub struct SubmissionClient {
    stream: LineStream,
    upstream: Arc<Upstream>,
    extensions: Extensions,
    /// So that no text of the upstream which repeats it reaches a log or another client.
    credential: Option<Credential>,
    was_closed: bool,
    last_reply: Instant,
    /// In which it must take something of what it is sent.
    block_limit: Duration,
}

impl Upstream {
    /// A connection to the submission service through TLS, greeting and EHLO, ready to log in;
    /// `hostname` is how we call ourselves.
    ///
    /// # Errors
    /// `UpstreamUnreachable` for what may pass, `Misconfigured` for a certificate that does not fit and
    /// for an upstream that sends no mail.
    pub async fn connect_submission(
        self: &Arc<Self>,
        hostname: &str,
    ) -> Result<SubmissionClient, Failure> {
        let result = self.connect_submission_untold(hostname).await;
        self.tried(Service::Submission, result.as_ref().map(|_| ()));
        result
    }

    async fn connect_submission_untold(
        self: &Arc<Self>,
        hostname: &str,
    ) -> Result<SubmissionClient, Failure> {
        let Some(endpoint) = &self.settings.smtp else {
            return Err(
                FailureKind::Misconfigured.because("the upstream of this login has no smtp")
            );
        };
        let mut transport = self.dial(endpoint).await?;
        if endpoint.security == EndpointSecurity::Implicit {
            transport = self.secure(endpoint, transport).await?;
        }
        let stream = LineStream::new(transport, self.stall_limit);
        let mut client = SubmissionClient::new(stream, self.clone());
        client.greeting().await?;
        client.ehlo(hostname).await?;
        if endpoint.security == EndpointSecurity::StartTls {
            let clear = client.start_tls().await?.into_transport();
            let transport = self.secure(endpoint, clear).await?;
            let stream = LineStream::new(transport, self.stall_limit);
            client = SubmissionClient::new(stream, self.clone());
            // What was said in clear text is forgotten (RFC 3207 §4.2).
            client.ehlo(hostname).await?;
        }
        let extensions = client.extensions;
        self.note(|seen| seen.submission = Some(extensions));
        Ok(client)
    }
}

impl SubmissionClient {
    fn new(stream: LineStream, upstream: Arc<Upstream>) -> Self {
        Self {
            block_limit: upstream.stall_limit,
            stream,
            upstream,
            extensions: Extensions::default(),
            credential: None,
            was_closed: false,
            last_reply: Instant::now(),
        }
    }

    async fn greeting(&mut self) -> Result<(), Failure> {
        let unreachable = |cause: String| FailureKind::UpstreamUnreachable.because(cause);
        match self.reply().await {
            Ok(reply) if reply.code == 220 => Ok(()),
            Ok(reply) => {
                let text = self.quote(&reply);
                Err(unreachable(format!("the upstream turned us away: {text}")))
            }
            Err(failure) => Err(unreachable(format!("no SMTP greeting: {}", failure.cause))),
        }
    }

    /// EHLO, or HELO where that is not known (RFC 5321 §3.2).
    async fn ehlo(&mut self, hostname: &str) -> Result<(), Failure> {
        let mut reply = self.command(&format!("EHLO {hostname}")).await?;
        let is_unknown = reply.class() == Class::Never;
        if is_unknown {
            reply = self.command(&format!("HELO {hostname}")).await?;
        }
        if reply.class() != Class::Done {
            let text = self.quote(&reply);
            return Err(
                FailureKind::UpstreamUnreachable.because(format!("refused our greeting: {text}"))
            );
        }
        self.extensions = match is_unknown {
            true => Extensions::default(),
            false => Extensions::parse(reply.lines.iter().skip(1).map(Vec::as_slice)),
        };
        Ok(())
    }

    /// STARTTLS, whatever was advertised: an upstream that does not want it is not spoken to.
    async fn start_tls(mut self) -> Result<LineStream, Failure> {
        let reply = self.command("STARTTLS").await?;
        if reply.code != 220 {
            let text = self.quote(&reply);
            return Err(FailureKind::UpstreamUnreachable
                .because(format!("the upstream refuses STARTTLS: {text}")));
        }
        if self.stream.has_input() {
            // Somebody in between added clear text that we would take for the upstream's.
            return Err(
                FailureKind::UpstreamGarbled.because("clear text behind the 220 to STARTTLS")
            );
        }
        Ok(self.stream)
    }

    /// What it can do.
    pub fn extensions(&self) -> Extensions {
        self.extensions
    }

    /// Where commands and messages are appended. They go out with the next wait for a reply, or
    /// [`Self::relieve`].
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.stream.output()
    }

    /// The same for what is of a message.
    pub fn body_output(&mut self) -> &mut Vec<u8> {
        self.stream.body_output()
    }

    /// Lets somebody hear what is said.
    pub fn tap(&mut self, tap: Box<dyn Tap>) {
        self.stream.tap(tap);
    }

    /// Makes room for more of a message.
    ///
    /// # Errors
    /// When the upstream takes nothing more.
    pub async fn relieve(&mut self) -> Result<(), Failure> {
        self.stream
            .relieve()
            .await
            .map_err(|error| self.loss(error))
    }

    /// Sends what there is of a message.
    ///
    /// # Errors
    /// As [`Self::relieve`].
    pub async fn flush(&mut self) -> Result<(), Failure> {
        self.stream.flush().await.map_err(|error| self.loss(error))
    }

    /// Why the upstream takes nothing more of a message, if it has said so before it ended the connection.
    /// It has not seen the end of the message, so that it can have refused it, and nothing else.
    pub async fn refusal(&mut self) -> Option<Reply> {
        self.stream.discard_output();
        let reply = self.reply_within(LAST_WORDS).await.ok()?;
        matches!(reply.class(), Class::NotNow | Class::Never).then_some(reply)
    }

    /// What the upstream says before the end of a message, if it has said anything, or has ended the connection.
    pub async fn early_reply(&mut self) -> Option<Result<Reply, Failure>> {
        match self.stream.has_come().await {
            Ok(false) => None,
            Err(error) => Some(Err(self.loss(error))),
            Ok(true) => {
                // It has said what it thinks without the rest.
                self.stream.discard_output();
                Some(self.reply_within(LAST_WORDS).await)
            }
        }
    }

    /// The next reply, whatever it says.
    ///
    /// # Errors
    /// When the upstream was lost or broke the grammar.
    pub async fn reply_to(&mut self, awaited: Awaited) -> Result<Reply, Failure> {
        let limit = match awaited {
            Awaited::Reset => Duration::ZERO,
            Awaited::Envelope => ENVELOPE_PATIENCE,
            Awaited::Data => DATA_PATIENCE,
        };
        let limit = limit.max(self.upstream.stall_limit);
        self.reply_within(limit).await
    }

    /// The same, until the login.
    async fn reply(&mut self) -> Result<Reply, Failure> {
        self.reply_within(self.upstream.stall_limit).await
    }

    /// The reply to the end of a message.
    ///
    /// # Errors
    /// When the upstream was lost or broke the grammar; nobody knows then what became of the message.
    pub async fn reply_to_message(&mut self) -> Result<Reply, Failure> {
        let limit = END_OF_DATA_PATIENCE.max(self.upstream.stall_limit);
        self.reply_within(limit).await
    }

    /// Whether the upstream has not been asked anything for so long that it may be gone.
    pub fn has_been_silent(&self) -> bool {
        self.last_reply.elapsed() >= SILENCE
    }

    async fn reply_within(&mut self, limit: Duration) -> Result<Reply, Failure> {
        let reply = self.reply_uncounted(limit).await;
        if let Err(ReplyError::Line(LineError::Closed | LineError::Transport(_))) = &reply {
            self.was_closed = true;
        }
        reply.map_err(|error| match error {
            ReplyError::Line(error) => self.loss(error),
            ReplyError::Garbled(garbled) => garbled.into(),
        })
    }

    fn loss(&self, error: LineError) -> Failure {
        match error {
            LineError::Stalled => {
                let seconds = self.last_reply.elapsed().as_secs();
                FailureKind::UpstreamLost
                    .because(format!("the upstream was silent for {seconds} s"))
            }
            error => error.into(),
        }
    }

    /// The client waits no longer now: from here on, the upstream has as long as the RFC gives it.
    fn be_patient(&mut self) {
        self.block_limit = BLOCK_PATIENCE.max(self.upstream.stall_limit);
        self.stream.limit_stalls(self.block_limit);
    }

    async fn reply_uncounted(&mut self, limit: Duration) -> Result<Reply, ReplyError> {
        // The time to send is not that of the upstream's thoughts.
        self.stream.flush().await?;
        self.stream.limit_stalls(limit);
        self.stream.set_deadline(Some(Instant::now() + limit));
        let mut code = None;
        let mut lines = Vec::new();
        loop {
            let line = ReplyLine::parse(self.stream.line(LINE_OCTETS_MAX).await?)?;
            if code.is_some_and(|code| code != line.code) {
                return Err(Garbled("two codes in one reply").into());
            }
            let ReplyLine {
                code: said,
                is_last,
                ..
            } = line;
            code = Some(said);
            lines.push(line.text.to_vec());
            if is_last {
                self.stream.set_deadline(None);
                self.stream.limit_stalls(self.block_limit);
                self.last_reply = Instant::now();
                return Ok(Reply { code: said, lines });
            }
            if lines.len() >= LINES_MAX {
                return Err(Garbled("a reply without end").into());
            }
        }
    }

    async fn command(&mut self, command: &str) -> Result<Reply, Failure> {
        let out = self.stream.output();
        out.extend_from_slice(command.as_bytes());
        out.extend_from_slice(b"\r\n");
        self.reply().await
    }

    /// Whether the upstream has ended the connection, which it may do at any time between messages.
    pub fn was_closed(&self) -> bool {
        self.was_closed
    }

    /// QUIT, without waiting for its answer; nothing depends on it.
    pub async fn quit(mut self) {
        self.stream.limit_stalls(LAST_WORDS);
        self.stream.output().extend_from_slice(b"QUIT\r\n");
        self.stream.close().await;
    }

    /// Whether the upstream may have seen a credential.
    pub fn has_shown_credential(&self) -> bool {
        self.credential.is_some()
    }

    /// Octets from and to the upstream so far.
    pub fn octets(&self) -> (u64, u64) {
        (self.stream.octets_read(), self.stream.octets_written())
    }

    /// A reply as a log may show it: short, escaped, without our credential.
    pub fn quote(&self, reply: &Reply) -> String {
        if self.repeats_credential(reply) {
            return format!("{} (withheld: it repeats the credential)", reply.code);
        }
        let text = reply.text();
        let shown = &text[..text.len().min(QUOTED_OCTETS_MAX)];
        format!("{} \"{}\"", reply.code, shown.escape_ascii())
    }

    /// Whether nobody else may see this reply.
    pub fn repeats_credential(&self, reply: &Reply) -> bool {
        self.credential
            .as_ref()
            .is_some_and(|credential| credential.is_echoed_in(&reply.text()))
    }
}

/// Why there is no reply.
enum ReplyError {
    Line(LineError),
    Garbled(Garbled),
}

impl From<LineError> for ReplyError {
    fn from(error: LineError) -> Self {
        Self::Line(error)
    }
}

impl From<Garbled> for ReplyError {
    fn from(garbled: Garbled) -> Self {
        Self::Garbled(garbled)
    }
}
