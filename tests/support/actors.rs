//! [`run`]: a transcript acted out by a client and an upstream that each know only their own part, so
//! that something may break.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::end::End;
use super::script::{Act, Side, Transcript};
use super::spelling::{complete_lines, without_references};
use super::stage::{Faults, Scenery, Stage};
use super::tls::Tls;
use super::{pop3_client, smtp_client};

/// How long popgate may take for a reply: an upstream that stalls is given up after 30 seconds, and
/// nothing waits for more than two such limits in a row.
const REPLY_MAX: Duration = Duration::from_secs(65);

/// The same of a submission: an upstream may think about a message for ten minutes.
const SUBMISSION_REPLY_MAX: Duration = Duration::from_secs(10 * 60 + 65);

/// Longer than any limit of popgate's.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What became of it. Octets are plain ones, without TLS.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// What each client heard, without session references.
    pub(crate) heard: Vec<Vec<u8>>,
    /// What each said, as far as popgate read that.
    pub(crate) said: Vec<Vec<u8>>,
    /// Both together, of clients of POP3.
    pub(crate) replies: Vec<Vec<pop3_client::Reply>>,
    /// Whether the connection had ended, by whomsoever, when the client was at its end.
    pub(crate) closed: Vec<bool>,
    /// What was said to the upstream on each connection.
    pub(crate) commands: Vec<Vec<u8>>,
    /// What popgate read of its answers.
    pub(crate) answered: Vec<Vec<u8>>,
    /// For whom each connection was opened.
    pub(crate) dialled_by: Vec<usize>,
    /// How many octets popgate read of each client's wire, with TLS if that is on it.
    pub(crate) client_octets: Vec<usize>,
    /// And of each upstream's.
    pub(crate) dial_octets: Vec<usize>,
}

/// Acts a transcript out.
///
/// # Errors
/// When popgate hangs, panics, changes something without QUIT, or keeps a connection to an upstream.
pub(crate) async fn run(scenery: &Scenery<'_>, faults: Faults) -> Result<Run, String> {
    let transcript = scenery.transcript;
    let mut actors = Actors {
        stage: scenery.reset(faults),
        transcript,
        run: Run::default(),
        on_stage: 0,
        cues: 0,
        asked: None,
        clients: Vec::new(),
        upstreams: Vec::new(),
    };
    while let Some(step) = transcript.steps.get(actors.cues) {
        actors.client_step(&step.act, step.client).await?;
        actors.cues += 1;
    }
    actors.end().await
}

struct Actors<'a> {
    transcript: &'a Transcript,
    stage: Stage,
    run: Run,
    /// Whose turn it is.
    on_stage: usize,
    /// How far the play is; no upstream gets ahead of that.
    cues: usize,
    /// Since when a client has been waiting for replies.
    asked: Option<Instant>,
    clients: Vec<End>,
    upstreams: Vec<Upstream>,
}

/// One connection to the upstream, and where it is in its script.
struct Upstream {
    end: Option<End>,
    /// Steps of the transcript that are its own.
    script: Vec<Cued>,
    next: usize,
    heard: usize,
    /// How much of what it heard is known to change nothing, or to change it after QUIT.
    checked: usize,
    /// A command that is not in its script leaves it speechless.
    is_lost: bool,
}

/// A step of an upstream, by its place in the transcript.
struct Cued {
    place: usize,
    /// What clients must have done before it.
    cue: Option<usize>,
}

impl Upstream {
    /// Whether this step of the play is none that it has still to take.
    fn is_past(&self, place: usize) -> bool {
        let next = self.script.get(self.next);
        self.is_lost || next.is_none_or(|next| next.place > place)
    }

    /// Begins with TLS if that is next, so that nothing of it is taken for commands.
    fn begin_tls(&mut self, transcript: &Transcript) -> Result<(), String> {
        let next = self.script.get(self.next).map(|next| next.place);
        let act = next.map(|place| &transcript.steps[place].act);
        if let (Some(Act::Tls(..)), Some(end)) = (act, &mut self.end) {
            self.next += 1;
            return begin_tls(end, Tls::as_server());
        }
        Ok(())
    }
}

fn begin_tls(end: &mut End, tls: Tls) -> Result<(), String> {
    let begun = end.begin_tls(tls, &[]);
    begun.map_err(|error| error.to_string())
}

impl Actors<'_> {
    /// The play goes on as its clients do; the upstreams follow by themselves.
    async fn client_step(&mut self, act: &Act, client: usize) -> Result<(), String> {
        self.on_stage = client;
        match act {
            Act::Connect => {
                self.stage.connect(self.transcript);
                let wire = self.stage.clients[client].wire.clone();
                self.clients.push(End::new(wire));
                self.run.heard.push(Vec::new());
            }
            Act::ClientSays(octets) => {
                self.clients[client].say(octets);
                self.asked = Some(Instant::now());
            }
            Act::ClientHears(_) => return self.wait_for_replies(client).await,
            Act::GetToKnow => self.stage.get_to_know(self.transcript),
            Act::KeepWarm => self.stage.keep_warm(),
            Act::Wait(time) => {
                self.let_act().await?;
                sleep(*time).await;
                self.asked = None;
            }
            Act::Tls(Side::Client, _) => begin_tls(&mut self.clients[client], Tls::as_client())?,
            Act::Eof(Side::Client) => self.clients[client].wire.end(),
            Act::Reset(Side::Client) => self.clients[client].wire.reset(),
            Act::Room(octets) => self.clients[client].wire.limit_room(*octets),
            Act::Drain => self.stage.gateway.draining.cancel(),
            Act::Drained => self.stage.gateway.drained.cancel(),
            // An upstream says and ends by itself, often before it is its turn.
            Act::UpstreamSays(dial, _)
            | Act::Eof(Side::Upstream(dial))
            | Act::Reset(Side::Upstream(dial)) => {
                let upstream = self.upstreams.get(*dial);
                if upstream.is_none_or(|upstream| upstream.is_past(self.cues)) {
                    return Ok(());
                }
            }
            // What only the unbroken play can ask for.
            Act::UpstreamHears(..)
            | Act::Dial(_)
            | Act::Closed(_)
            | Act::Tls(Side::Upstream(_), _) => return Ok(()),
        }
        self.let_act().await
    }

    /// Until what this client should hear by now has come, or everything that it asked is answered,
    /// or it is cut off.
    async fn wait_for_replies(&mut self, client: usize) -> Result<(), String> {
        loop {
            let end = &self.clients[client];
            let is_here = self.has_heard_all(client)
                || end.wire.is_closed_by_popgate()
                || end.wire.is_broken()
                || self.are_all_answered(end.said(), &self.run.heard[client]);
            if is_here {
                self.asked = None;
                return Ok(());
            }
            let since = *self.asked.get_or_insert_with(Instant::now);
            self.wait_for_popgate().await?;
            let reply_max = match self.transcript.submission {
                false => REPLY_MAX,
                true => SUBMISSION_REPLY_MAX,
            };
            if since.elapsed() > reply_max {
                return Err(format!("no reply within {:?}", since.elapsed()));
            }
            self.let_act().await?;
        }
    }

    fn are_all_answered(&self, said: &[u8], heard: &[u8]) -> bool {
        match self.transcript.submission {
            false => pop3_client::all_are_answered(said, heard),
            true => smtp_client::all_are_answered(said, heard),
        }
    }

    /// What the transcript has for this client up to here.
    fn has_heard_all(&self, client: usize) -> bool {
        let Some(steps) = self.transcript.steps.get(..=self.cues) else {
            return false;
        };
        let octets = steps.iter().filter(|step| step.client == client);
        let expected = octets.filter_map(|step| match &step.act {
            Act::ClientHears(octets) => Some(octets.as_slice()),
            _ => None,
        });
        let heard = &self.run.heard[client];
        let mut place = 0;
        for octets in expected {
            if !heard[place..].starts_with(octets) {
                return false;
            }
            place += octets.len();
        }
        true
    }

    /// All that popgate and the upstreams do without time passing.
    async fn let_act(&mut self) -> Result<(), String> {
        loop {
            self.stage.settle().await;
            let mut anything = self.listen()?;
            self.only_quit_changes()?;
            for number in 0..self.upstreams.len() {
                anything |= self.upstream_step(number)?;
            }
            if !anything {
                return Ok(());
            }
        }
    }

    /// Until popgate does anything, which it must do some time.
    async fn wait_for_popgate(&mut self) -> Result<(), String> {
        let something = self.stage.activity.notified();
        match timeout(FOR_EVER, something).await {
            Ok(()) => Ok(()),
            Err(_) => Err("popgate hangs".to_owned()),
        }
    }

    /// Whether listening alone has sent anything, as a handshake does.
    fn listen(&mut self) -> Result<bool, String> {
        let mut anything = false;
        for (end, heard) in self.clients.iter_mut().zip(&mut self.run.heard) {
            let octets = hear(end, &mut anything)?;
            heard.extend(without_references(&octets));
        }
        for wire in self.stage.dials().into_iter().skip(self.upstreams.len()) {
            let mut upstream = Upstream {
                end: wire.map(End::new),
                script: script_of(self.upstreams.len(), self.transcript),
                next: 0,
                heard: 0,
                checked: 0,
                is_lost: false,
            };
            upstream.begin_tls(self.transcript)?;
            self.upstreams.push(upstream);
            self.run.commands.push(Vec::new());
            self.run.dialled_by.push(self.on_stage);
        }
        for (upstream, commands) in self.upstreams.iter_mut().zip(&mut self.run.commands) {
            if let Some(end) = &mut upstream.end {
                commands.extend(hear(end, &mut anything)?);
            }
        }
        Ok(anything)
    }

    /// One step of an upstream's script, if it is its time.
    fn upstream_step(&mut self, number: usize) -> Result<bool, String> {
        let upstream = &mut self.upstreams[number];
        let (Some(end), Some(step)) = (&mut upstream.end, upstream.script.get(upstream.next))
        else {
            return Ok(false);
        };
        let is_cued = step.cue.is_none_or(|cue| cue <= self.cues);
        if upstream.is_lost || end.is_handshaking() || !is_cued {
            return Ok(false);
        }
        match &self.transcript.steps[step.place].act {
            Act::UpstreamHears(_, expected) => {
                let unheard = &self.run.commands[number][upstream.heard..];
                if !unheard.starts_with(expected) {
                    upstream.is_lost = !expected.starts_with(unheard);
                    return Ok(false);
                }
                upstream.heard += expected.len();
            }
            Act::UpstreamSays(_, octets) => end.say(octets),
            Act::Eof(_) => end.wire.end(),
            _ => end.wire.reset(),
        }
        upstream.next += 1;
        upstream.begin_tls(self.transcript)?;
        Ok(true)
    }

    /// Nothing is changed before a whole QUIT has been read.
    fn only_quit_changes(&mut self) -> Result<(), String> {
        if self.transcript.submission {
            return Ok(());
        }
        for (number, upstream) in self.upstreams.iter_mut().enumerate() {
            let unchecked = &self.run.commands[number][upstream.checked..];
            for line in complete_lines(unchecked) {
                upstream.checked += line.len();
                let client = self.run.dialled_by[number];
                if is_change(line) && !has_quit(self.clients[client].delivered()) {
                    let change = line.escape_ascii();
                    return Err(format!("without QUIT, the upstream hears {change}"));
                }
            }
        }
        Ok(())
    }

    /// The clients leave; every session must end then.
    async fn end(mut self) -> Result<Run, String> {
        for number in 0..self.stage.clients.len() {
            self.wait_for_replies(number).await?;
        }
        for client in &self.clients {
            let is_closed = client.wire.is_closed_by_popgate() || client.wire.is_broken();
            self.run.closed.push(is_closed);
            client.wire.end();
        }
        for number in 0..self.stage.clients.len() {
            self.on_stage = number;
            loop {
                self.let_act().await?;
                if self.stage.clients[number].session.is_finished() {
                    break;
                }
                self.wait_for_popgate().await?;
            }
            let session = &mut self.stage.clients[number].session;
            session.await.map_err(|error| format!("panic: {error}"))?;
        }
        self.finish_copies().await?;
        self.upstreams_are_left().await?;
        self.listen()?;
        self.only_quit_changes()?;
        for (client, heard) in self.clients.iter().zip(&self.run.heard) {
            self.run.said.push(client.delivered().to_vec());
            self.run.replies.push(match self.transcript.submission {
                false => pop3_client::replies(client.delivered(), heard),
                true => Vec::new(),
            });
            self.run.client_octets.push(client.wire.delivered_octets());
        }
        for upstream in &self.upstreams {
            let end = upstream.end.as_ref();
            let answered = end.map(End::delivered).unwrap_or_default();
            self.run.answered.push(answered.to_vec());
            let octets = end.map(|end| end.wire.delivered_octets());
            self.run.dial_octets.push(octets.unwrap_or(0));
        }
        Ok(self.run)
    }

    /// A copy of sent mail that is still on its way would open its connections in the next play.
    async fn finish_copies(&mut self) -> Result<(), String> {
        self.stage.gateway.draining.cancel();
        let copies = self.stage.gateway.submission.copies.clone();
        let mut finished = pin!(copies.finish(FOR_EVER));
        loop {
            self.let_act().await?;
            tokio::select! {
                () = &mut finished => return Ok(()),
                something = self.wait_for_popgate() => something?,
            }
        }
    }

    /// No connection to an upstream outlives those who had it: however they ended, each is closed and counts no
    /// more.
    async fn upstreams_are_left(&mut self) -> Result<(), String> {
        let closed_by = Instant::now() + REPLY_MAX;
        loop {
            self.let_act().await?;
            let ends = self
                .upstreams
                .iter()
                .filter_map(|upstream| upstream.end.as_ref());
            let open = ends.filter(|end| !end.wire.is_closed_by_popgate()).count();
            let counted = self.stage.gateway.metrics.upstream_connections();
            if (open, counted) == (0, 0) {
                return Ok(());
            }
            let something = self.stage.activity.notified();
            if timeout_at(closed_by, something).await.is_err() {
                return Err(format!(
                    "nobody is left, but {open} connections to upstreams are open, and {counted} counted"
                ));
            }
        }
    }
}

/// Whether a step is one that this connection's upstream takes.
fn belongs(act: &Act, number: usize) -> bool {
    match act {
        Act::UpstreamHears(dial, _) | Act::UpstreamSays(dial, _) => *dial == number,
        Act::Eof(Side::Upstream(dial))
        | Act::Reset(Side::Upstream(dial))
        | Act::Tls(Side::Upstream(dial), _) => *dial == number,
        _ => false,
    }
}

/// What the upstream of this connection does. An answer may come as soon as its command has; but what
/// an upstream does of its own accord waits for everything that clients did before it.
fn script_of(number: usize, transcript: &Transcript) -> Vec<Cued> {
    let mut script = Vec::new();
    let mut cue = None;
    for (place, step) in transcript.steps.iter().enumerate() {
        match step.act {
            Act::ClientSays(_)
            | Act::Wait(_)
            | Act::Connect
            | Act::Drain
            | Act::Drained
            | Act::Eof(Side::Client)
            | Act::Reset(Side::Client) => cue = Some(place),
            _ if belongs(&step.act, number) => script.push(Cued { place, cue }),
            _ => {}
        }
    }
    script
}

/// What popgate says. Where TLS has begun, nothing may make it say anything else, but TLS may fail.
fn hear(end: &mut End, anything: &mut bool) -> Result<Vec<u8>, String> {
    let before = end.wire.sent_octets();
    let heard = match end.listen() {
        Ok(octets) => octets,
        Err(rustls::Error::AlertReceived(_)) => Vec::new(),
        Err(error) => return Err(format!("popgate says what is not TLS: {error}")),
    };
    *anything |= end.wire.sent_octets() > before;
    Ok(heard)
}

/// Whether a line changes anything in a mailbox.
pub(crate) fn is_change(line: &[u8]) -> bool {
    let mut words = line.trim_ascii().split(|octet| *octet == b' ').skip(1);
    let command = match words.next() {
        Some(b"UID") => words.next(),
        command => command,
    };
    let changing = [
        &b"STORE"[..],
        b"MOVE",
        b"COPY",
        b"EXPUNGE",
        b"CLOSE",
        b"CREATE",
    ];
    command.is_some_and(|command| changing.contains(&command))
}

fn has_quit(said: &[u8]) -> bool {
    complete_lines(said).any(|line| line.trim_ascii().eq_ignore_ascii_case(b"QUIT"))
}
