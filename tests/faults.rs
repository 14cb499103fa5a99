//! Every transcript again, with either leg trickled, the way from the upstream cut and stalled at every
//! octet that popgate reads of it, and the way from the client cut and reset at every octet. Where there
//! is TLS, it is at every octet of that, handshakes included, with a record for each octet of the script.
//!
//! Six connections carry more than [`OCTETS_ALL`] octets, most of them in one repeated line: there are
//! more of those octets than of all others together, and a run that moves 200 kB takes 20 times as long.
//! They are broken at every octet near both ends, where everything but that line is, and at a selection
//! in between, unless `EVERY_OCTET=1` is in the environment.
//!
//! Both ends become actors here: the upstream answers as its script has it as long as the commands
//! are those of the script, the client goes on when its replies have come. Whatever breaks, this must
//! hold:
//!
//! 1. Nobody waits for ever, and nothing panics.
//! 2. A multi-line reply is what it would have been, or it is not terminated; a message is terminated
//!    only after the tagged OK of its FETCH has been read, or the beginning of the next body that was
//!    asked for.
//! 3. `+OK` to QUIT only after every change was confirmed, and so was the look at what is left.
//! 4. No change without a complete QUIT.
//! 5. Whoever ends how, its connections to upstreams are closed, and count no more.
//! 6. Trickling changes nothing at all, but where a transcript means something else when it does not come
//!    `in one piece`.
//!
//! `TRANSCRIPT=delete/expunge cargo test --test faults` takes those whose name contains that.

mod support;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::actors::{Run, is_change, run};
use support::fetches::Fetches;
use support::pop3_client::Reply;
use support::script::{Act, Transcript};
use support::spelling::{complete_lines, difference, shown};
use support::stage::{Faults, Scenery};
use support::wire::Fault;

/// Octets on one leg of a connection that is broken at every one of them.
const OCTETS_ALL: usize = 50_000;

/// A longer one is broken at every octet of its first and last so many,
const OCTETS_NEAR_AN_END: usize = 500;

/// and in between at one in so many: a prime, so that lines of any length are broken at all of theirs.
const STRIDE: usize = 499;

#[test]
fn whatever_breaks_nothing_is_lost() {
    let mut transcripts = support::transcripts();
    // The longest first, so that no thread is left alone with one at the end.
    transcripts.sort_by_key(|transcript| Reverse(transcript.octets()));
    let sweep = Sweep::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| sweep.work(&transcripts));
        }
    });
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "{} transcripts: {} octets of upstreams, each cut and stalled; \
         {} octets of clients, each cut and reset; all trickled",
        transcripts.len(),
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
    upstream_octets: AtomicUsize,
    client_octets: AtomicUsize,
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
            if let Err(failure) = runtime.block_on(self.sweep(transcript)) {
                let mut failures = self.failures.lock().expect("no panic");
                failures.push(format!("{}: {failure}", transcript.name));
            }
        }
    }

    async fn sweep(&self, transcript: &Transcript) -> Result<(), String> {
        let scenery = Scenery::of(transcript);
        let sound = run(&scenery, Faults::NONE).await?;
        is_as_written(transcript, &sound)?;
        terminators_are_earned(&sound, &sound)?;
        for faults in trickles() {
            if transcript.in_one_piece {
                check(&scenery, &sound, faults).await?;
                continue;
            }
            let trickled = run(&scenery, faults).await?;
            same(&sound, &trickled).map_err(|error| format!("{faults:?}: {error}"))?;
        }
        for (dial, octets) in places(&sound.dial_octets) {
            for fault in [Fault::Cut(octets), Fault::Stall(octets)] {
                let faults = Faults {
                    dial: Some((dial, fault)),
                    ..Faults::NONE
                };
                check(&scenery, &sound, faults).await?;
            }
            self.upstream_octets.fetch_add(1, Ordering::Relaxed);
        }
        for (client, octets) in places(&sound.client_octets) {
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
}

/// Where connections are to break of which popgate reads so many octets: the connection, and the octet.
fn places(octets: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let octets_all = match std::env::var_os("EVERY_OCTET") {
        Some(_) => usize::MAX,
        None => OCTETS_ALL,
    };
    octets.iter().enumerate().flat_map(move |(number, octets)| {
        let is_near_an_end = move |place: usize| place.min(octets - place) <= OCTETS_NEAR_AN_END;
        (0..=*octets)
            .filter(move |place| {
                *octets <= octets_all || is_near_an_end(*place) || place.is_multiple_of(STRIDE)
            })
            .map(move |place| (number, place))
    })
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

/// Property 6. Where a reply ends without its terminator, how much of it was sent may differ.
fn same(sound: &Run, other: &Run) -> Result<(), String> {
    for (client, heard) in sound.heard.iter().enumerate() {
        let ends_within = |run: &Run| {
            let last = run.replies[client].last();
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
        it_broke_there(&broken, faults)?;
        multi_line_replies_are_whole(sound, &broken, faults)?;
        terminators_are_earned(sound, &broken)?;
        quit_is_true(sound, &broken)
    });
    result.map_err(|error| format!("{faults:?}: {error}"))
}

/// A fault that did not come about has shown nothing.
fn it_broke_there(broken: &Run, faults: Faults) -> Result<(), String> {
    let (octets, fault) = match (faults.dial, faults.client) {
        (Some((dial, fault)), _) => (broken.dial_octets.get(dial), fault),
        (_, Some((client, fault))) => (broken.client_octets.get(client), fault),
        _ => return Ok(()),
    };
    let place = match fault {
        Fault::Cut(place) | Fault::Reset(place) | Fault::Stall(place) => place,
        Fault::None | Fault::Trickle => return Ok(()),
    };
    match octets == Some(&place) {
        true => Ok(()),
        false => Err(format!("popgate reads {octets:?} octets instead")),
    }
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
        let (expected, found) = (&sound.replies[client], &broken.replies[client]);
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

/// The other half of property 2: an upstream may take a body back with its last word, which is that on
/// its own FETCH.
fn terminators_are_earned(sound: &Run, run: &Run) -> Result<(), String> {
    for (client, replies) in run.replies.iter().enumerate() {
        let expected = Fetches::of(client, sound);
        let fetches = Fetches::of(client, run);
        let messages: Vec<&Reply> = replies.iter().filter(|reply| reply.is_message()).collect();
        for (index, reply) in messages.iter().enumerate() {
            if !reply.is_ok() {
                continue;
            }
            let is_same = |other: &&Reply| other.is_message() && other.number == reply.number;
            let earlier = messages[..index].iter().copied().filter(is_same).count();
            let all = sound.replies[client].iter().filter(is_same).count();
            let uid = reply.number.and_then(|number| expected.uid(number));
            let uid = uid.ok_or("a message that was not listed")?;
            // A reply has its own FETCH. Where there are more of them, for TOP in parts or because a
            // body came too early, it is the last that counts.
            let fetch = match earlier + 1 == all {
                true => expected.count(uid).saturating_sub(1),
                false => earlier,
            };
            if !fetches.is_earned(uid, fetch) {
                let (verb, number) = (&reply.verb, reply.number.unwrap_or(0));
                return Err(format!("{verb} {number} is terminated before its end"));
            }
        }
    }
    Ok(())
}

/// Property 3.
fn quit_is_true(sound: &Run, broken: &Run) -> Result<(), String> {
    for client in 0..broken.heard.len() {
        if !marks_are_applied(&broken.replies[client]) {
            continue;
        }
        for (dial, dialled_by) in broken.dialled_by.iter().enumerate() {
            let mut lines = complete_lines(&sound.commands[dial]);
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
    complete_lines(answers)
        .filter_map(|line| {
            let mut words = line.trim_ascii_end().split(|octet| *octet == b' ');
            let tag = words.next()?;
            words.next()?.eq_ignore_ascii_case(b"OK").then_some(tag)
        })
        .collect()
}
