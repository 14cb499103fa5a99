//! [`run`]: a transcript acted out by a client and an upstream that each know only their own part, so
//! that something may break.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::script::{Act, Side, Transcript};
use super::spelling::without_references;
use super::stage::{Faults, Scenery, Stage};
use super::wire::Wire;
use super::{pop3_client, smtp_client};

/// How long popgate may take for a reply: an upstream that stalls is given up after 30 seconds, and
/// nothing waits for more than two such limits in a row.
const REPLY_MAX: Duration = Duration::from_secs(65);

/// The same of a submission: an upstream may think about a message for ten minutes.
const SUBMISSION_REPLY_MAX: Duration = Duration::from_secs(10 * 60 + 65);

/// Longer than any limit of popgate's.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What became of it.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// What each client said, as far as popgate read it.
    pub(crate) said: Vec<Vec<u8>>,
    /// What each client heard, without session references.
    pub(crate) heard: Vec<Vec<u8>>,
    /// Whether the connection had ended, by whomsoever, when the client was at its end.
    pub(crate) closed: Vec<bool>,
    /// What was said to the upstream on each connection.
    pub(crate) commands: Vec<Vec<u8>>,
    /// What popgate read of its answers.
    pub(crate) answered: Vec<Vec<u8>>,
    /// For whom each connection was opened.
    pub(crate) dialled_by: Vec<usize>,
}

/// Acts a transcript out.
///
/// # Errors
/// When popgate hangs, panics, or changes something without QUIT.
pub(crate) async fn run(scenery: &Scenery<'_>, faults: Faults) -> Result<Run, String> {
    let transcript = scenery.transcript;
    let mut actors = Actors {
        stage: scenery.reset(faults),
        transcript,
        run: Run::default(),
        on_stage: 0,
        cues: 0,
        asked: None,
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
    upstreams: Vec<Upstream>,
}

/// One connection to the upstream, and where it is in its script.
struct Upstream {
    wire: Option<Wire>,
    /// Steps of the transcript that are its own, by their places.
    script: Vec<usize>,
    next: usize,
    heard: usize,
    /// How much of what it heard is known to change nothing, or to change it after QUIT.
    checked: usize,
    /// A command that is not in its script leaves it speechless.
    is_lost: bool,
}

impl Upstream {
    /// Whether this step of the play is none that it has still to take.
    fn is_past(&self, place: usize) -> bool {
        self.is_lost || self.script.get(self.next).is_none_or(|next| *next > place)
    }
}

impl Actors<'_> {
    /// The play goes on as its clients do; the upstreams follow by themselves.
    async fn client_step(&mut self, act: &Act, client: usize) -> Result<(), String> {
        self.on_stage = client;
        match act {
            Act::Connect => {
                self.stage.connect(self.transcript);
                self.run.heard.push(Vec::new());
            }
            Act::ClientSays(octets) => {
                self.stage.clients[client].wire.send(octets);
                self.asked = Some(Instant::now());
            }
            Act::ClientHears(_) => return self.wait_for_replies(client).await,
            Act::GetToKnow => self.stage.get_to_know(self.transcript),
            Act::Wait(time) => {
                self.let_act().await?;
                sleep(*time).await;
                self.asked = None;
            }
            Act::Eof(Side::Client) => self.stage.clients[client].wire.end(),
            Act::Reset(Side::Client) => self.stage.clients[client].wire.reset(),
            Act::Room(octets) => self.stage.clients[client].wire.limit_room(*octets),
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
            Act::UpstreamHears(..) | Act::Dial(_) | Act::Closed(_) | Act::Tls(..) => return Ok(()),
        }
        self.let_act().await
    }

    /// Until what this client should hear by now has come, or everything that it asked is answered,
    /// or it is cut off.
    async fn wait_for_replies(&mut self, client: usize) -> Result<(), String> {
        loop {
            self.let_act().await?;
            let wire = &self.stage.clients[client].wire;
            let is_here = self.has_heard_all(client)
                || self.are_all_answered(&wire.sent(), &self.run.heard[client])
                || wire.is_closed_by_popgate()
                || wire.is_broken();
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
            self.listen();
            self.only_quit_changes()?;
            let mut anything = false;
            for number in 0..self.upstreams.len() {
                anything |= self.upstream_step(number);
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

    fn listen(&mut self) {
        for (number, client) in self.stage.clients.iter().enumerate() {
            let heard = without_references(&client.wire.take());
            self.run.heard[number].extend(heard);
        }
        let dials = self.stage.dials();
        for wire in dials.iter().skip(self.upstreams.len()) {
            let number = self.upstreams.len();
            let steps = self.transcript.steps.iter().enumerate();
            let own = steps.filter(|(_, step)| belongs(&step.act, number));
            self.upstreams.push(Upstream {
                wire: wire.clone(),
                script: own.map(|(place, _)| place).collect(),
                next: 0,
                heard: 0,
                checked: 0,
                is_lost: false,
            });
            self.run.commands.push(Vec::new());
            self.run.dialled_by.push(self.on_stage);
        }
        for (number, upstream) in self.upstreams.iter().enumerate() {
            let said = upstream.wire.as_ref().map(Wire::take).unwrap_or_default();
            self.run.commands[number].extend(said);
        }
    }

    /// One step of an upstream's script, if it is its time.
    fn upstream_step(&mut self, number: usize) -> bool {
        let upstream = &mut self.upstreams[number];
        let (Some(wire), Some(place)) = (&upstream.wire, upstream.script.get(upstream.next)) else {
            return false;
        };
        if upstream.is_lost || !is_cued(self.transcript, *place, self.cues) {
            return false;
        }
        match &self.transcript.steps[*place].act {
            Act::UpstreamHears(_, expected) => {
                let unheard = &self.run.commands[number][upstream.heard..];
                if !unheard.starts_with(expected) {
                    upstream.is_lost = !expected.starts_with(unheard);
                    return false;
                }
                upstream.heard += expected.len();
            }
            Act::UpstreamSays(_, octets) => wire.send(octets),
            Act::Eof(_) => wire.end(),
            _ => wire.reset(),
        }
        upstream.next += 1;
        true
    }

    /// Nothing is changed before a whole QUIT has been read.
    fn only_quit_changes(&mut self) -> Result<(), String> {
        if self.transcript.submission {
            return Ok(());
        }
        for (number, upstream) in self.upstreams.iter_mut().enumerate() {
            let unchecked = &self.run.commands[number][upstream.checked..];
            let lines = unchecked.split_inclusive(|octet| *octet == b'\n');
            for line in lines.filter(|line| line.ends_with(b"\n")) {
                upstream.checked += line.len();
                let client = self.run.dialled_by[number];
                if is_change(line) && !has_quit(&self.stage.clients[client].wire.delivered()) {
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
        for client in &self.stage.clients {
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
        self.listen();
        self.only_quit_changes()?;
        for client in &self.stage.clients {
            self.run.said.push(client.wire.delivered());
        }
        for upstream in &self.upstreams {
            let answered = upstream.wire.as_ref().map(Wire::delivered);
            self.run.answered.push(answered.unwrap_or_default());
        }
        Ok(self.run)
    }
}

/// Whether a step is one that this connection's upstream takes.
fn belongs(act: &Act, number: usize) -> bool {
    match act {
        Act::UpstreamHears(dial, _) | Act::UpstreamSays(dial, _) => *dial == number,
        Act::Eof(Side::Upstream(dial)) | Act::Reset(Side::Upstream(dial)) => *dial == number,
        _ => false,
    }
}

/// An answer may come as soon as its command has; but what an upstream does of its own accord waits
/// for everything that clients did before it.
fn is_cued(transcript: &Transcript, place: usize, cues: usize) -> bool {
    let before = transcript.steps[..place].iter().enumerate();
    let mut clients = before.filter(|(_, step)| {
        matches!(
            step.act,
            Act::ClientSays(_)
                | Act::Wait(_)
                | Act::Connect
                | Act::Drain
                | Act::Drained
                | Act::Eof(Side::Client)
                | Act::Reset(Side::Client)
        )
    });
    clients.next_back().is_none_or(|(last, _)| last <= cues)
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
    said.split_inclusive(|octet| *octet == b'\n')
        .filter(|line| line.ends_with(b"\n"))
        .any(|line| line.trim_ascii().eq_ignore_ascii_case(b"QUIT"))
}
