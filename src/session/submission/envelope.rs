//! MAIL and RCPT (RFC 5321 §3.3): who sends to whom is the upstream's to judge, command by command; what
//! a client pipelines goes on pipelined.

use std::time::Duration;

use tokio::time::Instant;

use super::content::{self, Start};
use super::flight::{self, Flight, Sent, What};
use super::objection::{self, LOST, Objection};
use super::{Introduction, LoggedIn, MISTAKES_MAX, Session, ehlo, received, words};
use crate::failure::{Failure, FailureKind};
use crate::session::SessionEnd;
use crate::smtp::command::{self, COMMAND_LINE_OCTETS_MAX, Command, CommandName};
use crate::smtp::envelope::{ForwardPath, Need, Parameter, Parameters, ReversePath, need_of_mail};
use crate::smtp::extension::Extension;
use crate::smtp::reply::{self, Class, Reply};
use crate::upstream::SubmissionClient;

/// From MAIL to DATA, without what the upstream takes for it; a client that trickles must not stay for ever.
const ENVELOPE_TIME_MAX: Duration = Duration::from_secs(2 * 60 * 60);

/// Octets of commands that go to the upstream before its replies are read: they and their replies fit into
/// what lies between us, so that neither waits for the other to read (RFC 2920 §3.1).
const FLIGHT_OCTETS_MAX: usize = 16 * 1024;

const MAIL_FIRST: Objection = (503, "5.5.1", "MAIL first");

/// A transaction before its content.
#[derive(Default)]
struct Envelope {
    /// MAIL was said, and not refused so far.
    is_open: bool,
    /// When the client must have come to its content.
    ends: Option<Instant>,
    /// Nothing comes of this transaction any more, by no mistake of the client's, which may have sent more
    /// of it already: the answer to that.
    failed: Option<Objection>,
    /// Addresses may hold UTF-8 (RFC 6531).
    is_utf8: bool,
    /// Recipients that the upstream takes.
    recipients: usize,
    /// Recipients that it has not judged yet.
    unjudged: usize,
    flight: Flight,
}

/// What the upstream says to DATA.
enum Verdict {
    GoOn,
    /// In these words.
    Refused(Vec<u8>),
}

/// Runs until a message begins, or QUIT: `None`. `failed` is for what the client says further of the message
/// before.
pub(super) async fn run(
    session: &mut Session<'_>,
    first: Option<(Command, Instant)>,
    failed: Option<Objection>,
) -> Result<Option<Start>, SessionEnd> {
    let mut envelope = Envelope {
        failed,
        ..Envelope::default()
    };
    let mut next = first;
    loop {
        let (command, started) = match next.take() {
            Some(first) => first,
            None => envelope.next_command(session).await?,
        };
        let name = command.name();
        let start = match command {
            Command::Mail(from, parameters) => {
                envelope.mail((from, parameters, started), session).await?;
                None
            }
            Command::Rcpt(to, parameters) => {
                envelope.rcpt((to, parameters, started), session).await?;
                None
            }
            Command::Data => envelope.data(started, session).await?,
            Command::Bdat { octets, is_last } => {
                envelope.bdat((octets, is_last, started), session).await?
            }
            other => {
                envelope.settle(session).await?;
                let refused_before = session.record.refused;
                let is_quit = envelope.obey(other, session)?;
                let succeeded = session.record.refused == refused_before;
                let metrics = &session.gateway.metrics;
                metrics.smtp_command(name, succeeded, started.elapsed());
                if is_quit {
                    return Ok(None);
                }
                None
            }
        };
        if start.is_some() {
            return Ok(start);
        }
    }
}

fn takes_several_commands(logged_in: &LoggedIn) -> bool {
    logged_in.extensions.has(Extension::Pipelining)
}

impl Envelope {
    /// What the client says next, and when it came. As long as it has said more already, and the upstream
    /// takes several commands at once, nobody is waited for.
    async fn next_command(
        &mut self,
        session: &mut Session<'_>,
    ) -> Result<(Command, Instant), SessionEnd> {
        loop {
            // Who says more than it hears must not make its replies pile up.
            session.client.lines.relieve().await?;
            if !session.client.lines.has_line() || !takes_several_commands(session.logged_in) {
                self.settle(session).await?;
            }
            let idle_ends = Instant::now() + session.gateway.timeouts.idle;
            let ends = self.ends.map_or(idle_ends, |ends| ends.min(idle_ends));
            session.client.lines.set_deadline(Some(ends));
            let line = session.client.lines.line(COMMAND_LINE_OCTETS_MAX).await?;
            let started = Instant::now();
            match Command::parse(line) {
                Ok(command) => {
                    session.record.was_data_refused = false;
                    return Ok((command, started));
                }
                Err(mistake) => {
                    self.settle(session).await?;
                    session
                        .record
                        .mistaken(session.client, session.gateway, mistake)?;
                }
            }
        }
    }

    /// Everything that the upstream has no part in. Whether it was QUIT.
    fn obey(&mut self, command: Command, session: &mut Session<'_>) -> Result<bool, SessionEnd> {
        match command {
            Command::Ehlo(name) => {
                self.give_up(session.logged_in);
                session.logged_in.introduction = Some(Introduction {
                    name,
                    is_extended: true,
                });
                let mut list = Vec::new();
                ehlo(
                    &mut list,
                    session.client,
                    session.gateway,
                    Some(session.logged_in),
                );
                session.client.lines.output().append(&mut list);
            }
            Command::Helo(name) => {
                self.give_up(session.logged_in);
                session.logged_in.introduction = Some(Introduction {
                    name,
                    is_extended: false,
                });
                let hostname = &session.gateway.submission.settings.hostname;
                reply::line(
                    session.client.lines.output(),
                    format_args!("250 {hostname}"),
                );
            }
            Command::Rset => {
                self.give_up(session.logged_in);
                reply::say(session.client.lines.output(), 250, "2.0.0", "forgotten");
            }
            Command::Noop => reply::say(session.client.lines.output(), 250, "2.0.0", "still here"),
            Command::Vrfy => {
                let text = "send some mail, and the mail server will tell";
                reply::say(session.client.lines.output(), 252, "2.5.2", text);
            }
            Command::Help => {
                let text = "a submission service (RFC 6409); EHLO lists what it can";
                reply::say(session.client.lines.output(), 214, "2.0.0", text);
            }
            Command::StartTls | Command::Auth { .. } => {
                session
                    .record
                    .misplaced(session.client, 503, "5.5.1", "too late for that")?;
            }
            Command::Quit => {
                reply::say(session.client.lines.output(), 221, "2.0.0", "bye");
                return Ok(true);
            }
            // They come here never: the upstream has a part in them.
            Command::Mail(..) | Command::Rcpt(..) | Command::Data | Command::Bdat { .. } => {}
        }
        Ok(false)
    }

    /// The transaction is over; the upstream hears of it with the next one.
    fn give_up(&mut self, logged_in: &mut LoggedIn) {
        logged_in.is_stale |= self.is_open && logged_in.connection.is_some();
        *self = Self::default();
    }

    async fn mail(
        &mut self,
        (from, parameters, started): (ReversePath, Parameters, Instant),
        session: &mut Session<'_>,
    ) -> Result<(), SessionEnd> {
        let objection = match self.is_open {
            true => Some((503, "5.5.1", "there is a transaction already")),
            false => {
                self.failed = None;
                objection::to_mail(&from, &parameters, session)
            }
        };
        if let Some(objection) = objection {
            return self
                .object(objection, CommandName::Mail, started, session)
                .await;
        }
        self.reset_upstream(session).await?;
        let is_utf8 = parameters.find("SMTPUTF8").is_some();
        // RFC 1870 §6.1: what the upstream will get.
        let parameters = parameters.of_longer_message(received::octets_max(is_utf8, session));
        let known = session.logged_in.extensions;
        let is_for_upstream = |parameter: &&Parameter| match need_of_mail(parameter) {
            Ok(Need::Extension(extension)) => known.has(extension),
            Ok(Need::Nothing | Need::NotForUpstreams) | Err(_) => false,
        };
        self.flight
            .add(What::Mail, CommandName::Mail, started, |out| {
                command::write_mail(&from, parameters.iter().filter(is_for_upstream), out);
            });
        self.is_open = true;
        self.ends = Some(Instant::now() + ENVELOPE_TIME_MAX);
        self.is_utf8 = is_utf8;
        Ok(())
    }

    /// RSET goes before MAIL where the client has given up what the upstream knows of, and where the upstream
    /// may have left without a word: it may think for minutes about MAIL, about RSET it need not.
    async fn reset_upstream(&mut self, session: &mut Session<'_>) -> Result<(), SessionEnd> {
        let connection = session.logged_in.connection.as_ref();
        let may_be_gone = connection.is_some_and(SubmissionClient::has_been_silent);
        if !std::mem::take(&mut session.logged_in.is_stale) && !may_be_gone {
            return Ok(());
        }
        let started = Instant::now();
        self.flight
            .add(What::Reset, CommandName::Rset, started, |out| {
                out.extend_from_slice(b"RSET\r\n");
            });
        if !takes_several_commands(session.logged_in) {
            self.settle(session).await?;
        }
        Ok(())
    }

    async fn rcpt(
        &mut self,
        (to, parameters, started): (ForwardPath, Parameters, Instant),
        session: &mut Session<'_>,
    ) -> Result<(), SessionEnd> {
        let recipients_max = session.gateway.submission.recipients_max;
        if self.recipients + self.unjudged >= recipients_max && self.unjudged > 0 {
            // Whom the upstream does not take leaves room for others.
            self.settle(session).await?;
        }
        let objection = if !self.is_open {
            Some(self.failed.unwrap_or(MAIL_FIRST))
        } else if self.recipients + self.unjudged >= recipients_max {
            Some((452, "4.5.3", "too many recipients"))
        } else {
            objection::to_rcpt(&to, &parameters, self.is_utf8, session)
        };
        if let Some(objection) = objection {
            return self
                .object(objection, CommandName::Rcpt, started, session)
                .await;
        }
        self.flight
            .add(What::Rcpt, CommandName::Rcpt, started, |out| {
                command::write_rcpt(&to, parameters.iter(), out);
            });
        self.unjudged += 1;
        if self.flight.octets() > FLIGHT_OCTETS_MAX {
            self.settle(session).await?;
        }
        Ok(())
    }

    async fn data(
        &mut self,
        started: Instant,
        session: &mut Session<'_>,
    ) -> Result<Option<Start>, SessionEnd> {
        let name = CommandName::Data;
        match self.ask_for_data(name, started, session).await? {
            Verdict::GoOn => {
                let start = self.start(content::Kind::Data, started, session.logged_in);
                let text = "go on, and end with a dot on a line of its own";
                reply::line(session.client.lines.output(), format_args!("354 {text}"));
                Ok(Some(start))
            }
            Verdict::Refused(mut words) => {
                session.client.lines.output().append(&mut words);
                session.record.data_refused(session.client)?;
                Ok(None)
            }
        }
    }

    /// BDAT (RFC 3030): its octets come whatever we say, and are no commands.
    async fn bdat(
        &mut self,
        (octets, is_last, started): (u64, bool, Instant),
        session: &mut Session<'_>,
    ) -> Result<Option<Start>, SessionEnd> {
        let name = CommandName::Bdat;
        match self.ask_for_data(name, started, session).await? {
            Verdict::GoOn => {
                let kind = content::Kind::Chunks { octets, is_last };
                Ok(Some(self.start(kind, started, session.logged_in)))
            }
            Verdict::Refused(mut words) => {
                content::discard(octets, session).await?;
                // RFC 3030 §2: what follows of it would be a message without its beginning.
                let failed = self.failed.unwrap_or(objection::to_more(&words));
                self.give_up(session.logged_in);
                self.failed = Some(failed);
                session.client.lines.output().append(&mut words);
                Ok(None)
            }
        }
    }

    fn start(&mut self, kind: content::Kind, started: Instant, logged_in: &LoggedIn) -> Start {
        let envelope = std::mem::take(self);
        Start {
            kind,
            started,
            is_utf8: envelope.is_utf8,
            may_be_eight_bit: logged_in.extensions.has(Extension::EightBitMime),
        }
    }

    /// DATA, whatever the client calls it.
    async fn ask_for_data(
        &mut self,
        name: CommandName,
        started: Instant,
        session: &mut Session<'_>,
    ) -> Result<Verdict, SessionEnd> {
        let objection = match (self.is_open, self.recipients + self.unjudged) {
            (false, _) => Some(self.failed.unwrap_or(MAIL_FIRST)),
            (true, 0) => Some((554, "5.5.1", "no valid recipients")),
            (true, _) => None,
        };
        if let Some((code, enhanced, text)) = objection {
            self.settle(session).await?;
            let mut words = Vec::new();
            session.record.refused += 1;
            session.record.mistakes += u32::from(self.failed.is_none());
            if session.record.mistakes > MISTAKES_MAX {
                return Err(SessionEnd::TooManyMistakes);
            }
            reply::say(&mut words, code, enhanced, text);
            session
                .gateway
                .metrics
                .smtp_command(name, false, started.elapsed());
            return Ok(Verdict::Refused(words));
        }
        self.flight.add(What::Data, name, started, |out| {
            out.extend_from_slice(b"DATA\r\n");
        });
        let verdict = self.settle(session).await?;
        // DATA is in the flight, so there is one.
        Ok(verdict.unwrap_or(Verdict::Refused(Vec::new())))
    }

    async fn object(
        &mut self,
        (code, enhanced, text): Objection,
        name: CommandName,
        started: Instant,
        session: &mut Session<'_>,
    ) -> Result<(), SessionEnd> {
        // Replies come in the order of the commands.
        self.settle(session).await?;
        session
            .gateway
            .metrics
            .smtp_command(name, false, started.elapsed());
        match code {
            503 => session
                .record
                .misplaced(session.client, code, enhanced, text),
            _ => {
                if code >= 500 {
                    session.record.envelope_refused()?;
                }
                session.record.refuse(session.client, code, enhanced, text);
                Ok(())
            }
        }
    }

    /// Sends what is to be sent and answers the client with what the upstream says to it; to DATA, that
    /// is left to the caller.
    async fn settle(&mut self, session: &mut Session<'_>) -> Result<Option<Verdict>, SessionEnd> {
        if self.flight.is_empty() {
            return Ok(None);
        }
        // What was said so far must not wait for the upstream.
        session.client.lines.flush().await?;
        let asked = Instant::now();
        let (sent, first) = self.flight.send(session.gateway, session.logged_in).await;
        self.extend_by(asked.elapsed());
        let mut verdict = None;
        let mut reply = Some(first);
        for sent in sent {
            let reply = match reply.take() {
                Some(reply) => reply,
                None => {
                    let asked = Instant::now();
                    let reply = flight::next_reply(session.logged_in, sent.awaited()).await;
                    self.extend_by(asked.elapsed());
                    reply
                }
            };
            let reply = reply.and_then(|reply| understood(reply, sent.what));
            let is_of_envelope = matches!(sent.what, What::Mail | What::Rcpt);
            if is_of_envelope && reply.as_ref().is_ok_and(is_final) {
                session.record.envelope_refused()?;
            }
            let mut words = Vec::new();
            let is_done = self.judge(sent, reply, &mut words, session);
            let elapsed = sent.started.elapsed();
            match sent.what {
                What::Reset => {}
                What::Mail | What::Rcpt => {
                    session
                        .gateway
                        .metrics
                        .smtp_command(sent.name, is_done, elapsed);
                    session.client.lines.output().append(&mut words);
                    session.client.lines.relieve().await?;
                }
                What::Data if is_done => verdict = Some(Verdict::GoOn),
                What::Data => {
                    session
                        .gateway
                        .metrics
                        .smtp_command(sent.name, false, elapsed);
                    verdict = Some(Verdict::Refused(words));
                }
            }
        }
        self.unjudged = 0;
        Ok(verdict)
    }

    /// What the upstream takes is not the client's time.
    fn extend_by(&mut self, waited: Duration) {
        self.ends = self.ends.map(|ends| ends + waited);
    }

    /// What a reply means for the transaction, and in which words the client hears of it. Whether the
    /// upstream agrees.
    fn judge(
        &mut self,
        sent: Sent,
        reply: Result<Reply, Failure>,
        words: &mut Vec<u8>,
        session: &mut Session<'_>,
    ) -> bool {
        let reply = match reply {
            Ok(reply) => reply,
            Err(failure) => {
                // The first failure is the cause of those behind it.
                match session.logged_in.connection {
                    Some(_) => session.record.failed(&failure, session.gateway),
                    None if self.is_open => session.record.failed(&failure, session.gateway),
                    None => session.record.refused += 1,
                }
                failure.kind.smtp_reply(words, session.record.id);
                self.lose(session);
                return false;
            }
        };
        let is_done = matches!(reply.class(), Class::Done | Class::GoOn);
        session.record.refused += u32::from(!is_done && sent.what != What::Reset);
        match sent.what {
            What::Mail => self.is_open = is_done,
            What::Rcpt => self.recipients += usize::from(is_done),
            What::Reset if !is_done => session.logged_in.drop_connection(session.gateway),
            What::Data if is_done && (self.recipients == 0 || !self.is_open) => {
                // It would take a message for nobody, which only it can explain; it gets none.
                session.logged_in.drop_connection(session.gateway);
                self.is_open = false;
                reply::say(words, 554, "5.5.1", "no valid recipients");
                return false;
            }
            What::Reset | What::Data => {}
        }
        words.append(&mut words::of(&reply, session.logged_in));
        if reply.code == 421 {
            self.lose(session);
        }
        is_done
    }

    /// The upstream is gone, and with it what it knew.
    fn lose(&mut self, session: &mut Session<'_>) {
        if self.is_open {
            self.failed = Some(LOST);
        }
        self.is_open = false;
        self.recipients = 0;
        session.logged_in.drop_connection(session.gateway);
    }
}

/// A reply that has no meaning for its command is none.
fn understood(reply: Reply, what: What) -> Result<Reply, Failure> {
    let is_understood = match (what, reply.class()) {
        (_, Class::NotNow | Class::Never) => true,
        (What::Data, Class::GoOn) => reply.code == 354,
        (What::Data, Class::Done) | (_, Class::GoOn) => false,
        (_, Class::Done) => true,
    };
    match is_understood {
        true => Ok(reply),
        false => Err(FailureKind::UpstreamGarbled.because(format!("{} to a command", reply.code))),
    }
}

/// Whether a reply refuses for good what was asked for. That a message has too many recipients is 452 (RFC
/// 5321 §4.5.3.1.10), and 5yz at some servers; the rest of them can follow in another one.
fn is_final(reply: &Reply) -> bool {
    let enhanced = reply.enhanced();
    let too_many = enhanced.is_some_and(|code| (code.subject, code.detail) == (5, 3));
    reply.class() == Class::Never && !too_many
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_upstream_takes_is_not_the_clients_time() {
        let mut envelope = Envelope {
            ends: Some(Instant::now() + ENVELOPE_TIME_MAX),
            ..Envelope::default()
        };
        let asked = Instant::now();
        tokio::time::advance(ENVELOPE_TIME_MAX).await;
        envelope.extend_by(asked.elapsed());
        assert_eq!(envelope.ends, Some(Instant::now() + ENVELOPE_TIME_MAX));
    }
}
