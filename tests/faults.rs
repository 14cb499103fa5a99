//! Every transcript without TLS again, with the way to popgate trickled, and cut, reset or stalled at
//! every octet of a short piece and at some places of a long one.
//!
//! Both ends become actors here: the upstream answers as its script has it as long as the commands
//! are those of the script, the client goes on when its replies have come. Whatever breaks, this must
//! hold:
//!
//! 1. Nobody waits for ever, and nothing panics.
//! 2. A multi-line reply is what it would have been, or it is not terminated; a message is terminated
//!    only after the upstream's last word on it.
//! 3. `+OK` to QUIT only after every change was confirmed, and so was the look at what is left.
//! 4. No change without a complete QUIT.
//! 5. Trickling changes nothing at all.
//!
//! `TRANSCRIPT=delete/expunge cargo test --test faults` takes those whose name contains that.

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::actors::{Run, is_change, run};
use support::pop3_client::{Reply, replies};
use support::script::{Act, Transcript};
use support::spelling::{difference, shown};
use support::stage::{Faults, Scenery};
use support::wire::Fault;

/// Octets of one piece at which faults are tried: all of them up to this, of more a selection.
const OCTETS_ALL: usize = 600;

/// A longer piece is broken at so many places, evenly distributed,
const PLACES: usize = 20;

/// and at so many octets of its beginning and its end.
const OCTETS_NEAR_AN_END: usize = 20;

#[test]
fn whatever_breaks_nothing_is_lost() {
    let transcripts = support::transcripts();
    let sweep = Sweep::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| sweep.work(&transcripts));
        }
    });
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{} transcripts, {} with TLS left out: {} octets of upstreams, each cut and stalled; \
         {} octets of clients, each cut and reset; all trickled",
        transcripts.len(),
        count(&sweep.skipped),
        count(&sweep.upstream_octets),
        count(&sweep.client_octets)
    );
    let failures = sweep.failures.into_inner().expect("no panic");
    let shown: Vec<&str> = failures.iter().take(10).map(String::as_str).collect();
    assert!(
        failures.is_empty(),
        "{} transcripts fail:\n\n{}",
        failures.len(),
        shown.join("\n\n")
    );
}

#[derive(Default)]
struct Sweep {
    next: AtomicUsize,
    skipped: AtomicUsize,
    upstream_octets: AtomicUsize,
    client_octets: AtomicUsize,
    /// Scenes that some transcript has been swept with: once is enough.
    scenes: Mutex<HashSet<(Leg, String)>>,
    failures: Mutex<Vec<String>>,
}

impl Sweep {
    fn work(&self, transcripts: &[Transcript]) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        while let Some(transcript) = transcripts.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if transcript.has_tls() {
                self.skipped.fetch_add(1, Ordering::Relaxed);
            } else if let Err(failure) = runtime.block_on(self.sweep(transcript)) {
                let mut failures = self.failures.lock().expect("no panic");
                failures.push(format!("{}: {failure}", transcript.name));
            }
        }
    }

    async fn sweep(&self, transcript: &Transcript) -> Result<(), String> {
        let scenery = Scenery::of(transcript);
        let sound = run(&scenery, Faults::NONE).await?;
        is_as_written(transcript, &sound)?;
        let trickles = trickles().into_iter().filter(|_| !transcript.in_one_piece);
        for faults in trickles {
            let trickled = run(&scenery, faults).await?;
            same(&sound, &trickled).map_err(|error| format!("{faults:?}: {error}"))?;
        }
        for (dial, octets) in self.places(transcript, Leg::Upstream) {
            for fault in [Fault::Cut(octets), Fault::Stall(octets)] {
                let faults = Faults {
                    dial: Some((dial, fault)),
                    ..Faults::NONE
                };
                check(&scenery, &sound, faults).await?;
            }
            self.upstream_octets.fetch_add(1, Ordering::Relaxed);
        }
        for (client, octets) in self.places(transcript, Leg::Client) {
            for fault in [Fault::Cut(octets), Fault::Reset(octets)] {
                let faults = Faults {
                    client: Some((client, fault)),
                    ..Faults::NONE
                };
                check(&scenery, &sound, faults).await?;
            }
            self.client_octets.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Where connections are to break: at every octet that no other transcript has been broken at in
    /// just the same scene.
    fn places(&self, transcript: &Transcript, leg: Leg) -> Vec<(usize, usize)> {
        let mut sent: HashMap<usize, usize> = HashMap::new();
        let mut places = Vec::new();
        let mut new_here = HashSet::new();
        let mut scenes = self.scenes.lock().expect("no panic");
        for step in &transcript.steps {
            let (connection, octets) = match (&step.act, leg) {
                (Act::UpstreamSays(dial, octets), Leg::Upstream) => (*dial, octets),
                (Act::ClientSays(octets), Leg::Client) => (step.client, octets),
                _ => continue,
            };
            let sent = sent.entry(connection).or_default();
            let start = *sent;
            *sent += octets.len();
            let is_new = step.scene.as_ref().is_none_or(|scene| {
                let scene = (leg, scene.clone());
                new_here.contains(&scene)
                    || (scenes.insert(scene.clone()) && new_here.insert(scene))
            });
            if is_new {
                places.extend(selection(start, octets.len()).map(|octets| (connection, octets)));
            }
        }
        places
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Leg {
    Client,
    Upstream,
}

/// All places within a piece of a connection, or a selection of those of a long one.
fn selection(start: usize, length: usize) -> impl Iterator<Item = usize> {
    let stride = length.div_ceil(PLACES).max(1);
    let is_near_an_end = move |place: usize| place.min(length - place) <= OCTETS_NEAR_AN_END;
    (0..=length)
        .filter(move |place| {
            length <= OCTETS_ALL || is_near_an_end(*place) || place.is_multiple_of(stride)
        })
        .map(move |place| start + place)
}

fn trickles() -> [Faults; 2] {
    [
        Faults {
            every_dial: Fault::Trickle,
            ..Faults::NONE
        },
        Faults {
            every_client: Fault::Trickle,
            ..Faults::NONE
        },
    ]
}

/// The actors are true to the transcript, as long as nothing breaks.
fn is_as_written(transcript: &Transcript, sound: &Run) -> Result<(), String> {
    for (client, heard) in sound.heard.iter().enumerate() {
        let written: Vec<u8> = transcript
            .steps
            .iter()
            .filter(|step| step.client == client)
            .filter_map(|step| match &step.act {
                Act::ClientHears(octets) => Some(octets.as_slice()),
                _ => None,
            })
            .collect::<Vec<_>>()
            .concat();
        equal("without any fault, a client", &written, heard)?;
    }
    Ok(())
}

/// Property 5. Where a reply ends without its terminator, how much of it was sent may differ.
fn same(sound: &Run, other: &Run) -> Result<(), String> {
    for (client, heard) in sound.heard.iter().enumerate() {
        let ends_within = |run: &Run| {
            let last = replies(&run.said[client], &run.heard[client]).pop();
            last.is_some_and(|reply| !reply.is_complete)
        };
        let more = &other.heard[client];
        if !(ends_within(sound) || ends_within(other)) || !more.starts_with(heard) {
            equal("the client", heard, more)?;
        }
    }
    for (sound, other) in sound.commands.iter().zip(&other.commands) {
        equal("the upstream", sound, other)?;
    }
    Ok(())
}

fn equal(who: &str, expected: &[u8], heard: &[u8]) -> Result<(), String> {
    if expected == heard {
        return Ok(());
    }
    let (expected, heard) = difference(expected, heard);
    Err(format!(
        "{who} should hear\n{expected}    but hears\n{heard}"
    ))
}

async fn check(scenery: &Scenery<'_>, sound: &Run, faults: Faults) -> Result<(), String> {
    let broken = run(scenery, faults).await;
    let result = broken.and_then(|broken| {
        multi_line_replies_are_whole(sound, &broken, faults)?;
        if !scenery.transcript.reads_ahead() {
            terminators_are_earned(&broken)?;
        }
        quit_is_true(sound, &broken)
    });
    result.map_err(|error| format!("{faults:?}: {error}"))
}

/// Property 2.
fn multi_line_replies_are_whole(sound: &Run, broken: &Run, faults: Faults) -> Result<(), String> {
    let last = match (faults.dial, faults.client) {
        (Some((dial, _)), _) => sound.dialled_by.get(dial).copied().unwrap_or(0),
        (_, Some((client, _))) => client,
        _ => usize::MAX,
    };
    // A session that comes after a broken one may see another mailbox.
    for client in 0..broken.heard.len().min(last.saturating_add(1)) {
        let expected = replies(&sound.said[client], &sound.heard[client]);
        let found = replies(&broken.said[client], &broken.heard[client]);
        for (number, reply) in found.iter().enumerate() {
            if !reply.is_multi_line() || !reply.is_mail() {
                continue;
            }
            let is_sound = match expected.get(number) {
                Some(expected) if reply.is_complete => expected == reply,
                // Neither may anything else be said within it.
                Some(expected) if expected.is_complete => {
                    expected.octets.starts_with(&reply.octets)
                }
                // Of what breaks off anyway, more or less may have been sent.
                _ => !reply.is_complete,
            };
            if !is_sound {
                return Err(format!(
                    "a reply that is not part of the message:\n{}",
                    shown(&reply.octets)
                ));
            }
            if !reply.is_complete && !broken.closed[client] {
                return Err("a reply without its terminator, and no end".to_owned());
            }
        }
    }
    Ok(())
}

/// The other half of property 2: an upstream may take a body back with its last word. (Where it is
/// read ahead, the beginning of the next body is word enough.)
fn terminators_are_earned(broken: &Run) -> Result<(), String> {
    let is_body = |line: &&[u8]| memchr::memmem::find(line, b"BODY.PEEK[]").is_some();
    let mut bodies = 0;
    for (commands, answers) in broken.commands.iter().zip(&broken.answered) {
        let confirmed = confirmed(answers);
        let fetches = commands.split(|octet| *octet == b'\n').filter(is_body);
        let tags = fetches.filter_map(|line| line.split(|octet| *octet == b' ').next());
        bodies += tags.filter(|tag| confirmed.contains(tag)).count();
    }
    let heard = broken.said.iter().zip(&broken.heard);
    let terminated = heard
        .flat_map(|(said, heard)| replies(said, heard))
        .filter(|reply| matches!(reply.verb.as_str(), "RETR" | "TOP") && reply.is_ok())
        .count();
    match terminated <= bodies {
        true => Ok(()),
        false => Err(format!(
            "{terminated} messages are terminated, {bodies} confirmed"
        )),
    }
}

/// Property 3.
fn quit_is_true(sound: &Run, broken: &Run) -> Result<(), String> {
    for client in 0..broken.heard.len() {
        let found = replies(&broken.said[client], &broken.heard[client]);
        if !marks_are_applied(&found) {
            continue;
        }
        for (dial, dialled_by) in broken.dialled_by.iter().enumerate() {
            let mut lines = sound.commands[dial].split(|octet| *octet == b'\n');
            if *dialled_by != client || !lines.any(is_change) {
                continue;
            }
            equal(
                "at +OK to QUIT, the upstream",
                &sound.commands[dial],
                &broken.commands[dial],
            )?;
            let confirmed = confirmed(&broken.answered[dial]);
            // Commands that change, and those that look whether it was done.
            let mut expected = self::confirmed(&sound.answered[dial]).into_iter();
            if let Some(tag) = expected.find(|tag| !confirmed.contains(tag)) {
                let tag = tag.escape_ascii();
                return Err(format!("+OK to QUIT, and {tag} was not confirmed"));
            }
        }
    }
    Ok(())
}

/// Whether this client has been told that what it marked was removed.
fn marks_are_applied(found: &[Reply]) -> bool {
    let mut marked = 0;
    for reply in found {
        match reply.verb.as_str() {
            "DELE" if reply.is_ok() => marked += 1,
            "RSET" if reply.is_ok() => marked = 0,
            "QUIT" if reply.is_ok() => return marked > 0,
            _ => {}
        }
    }
    false
}

/// The tags of commands of which popgate has read the whole OK.
fn confirmed(answers: &[u8]) -> HashSet<&[u8]> {
    answers
        .split_inclusive(|octet| *octet == b'\n')
        .filter(|line| line.ends_with(b"\n"))
        .filter_map(|line| {
            let mut words = line.trim_ascii_end().split(|octet| *octet == b' ');
            let tag = words.next()?;
            words.next()?.eq_ignore_ascii_case(b"OK").then_some(tag)
        })
        .collect()
}
