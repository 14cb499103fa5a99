//! Every transcript of submission again, with either leg trickled, the way from the upstream cut and stalled
//! at every octet that popgate reads of it, and the way from the client cut and reset at every octet, those of
//! TLS included; and every way to smuggle one message within another.
//!
//! Both ends are actors: the upstream answers each command as its script has it, the client goes on when
//! its replies have come. Whatever breaks, this must hold:
//!
//! 1. Nobody waits for ever, and nothing panics.
//! 2. 250 to a message only behind the upstream's 250 to it.
//! 3. The upstream sees the end of a message only if the client has sent it, at most once, and with just
//!    the octets that it sees when nothing breaks, or that the client has sent.
//! 4. What the upstream hears has no CR and no LF but in CRLF.
//! 5. Whoever ends how, its connections to upstreams are closed, and count no more.
//! 6. Trickling changes nothing at all.
//!
//! `TRANSCRIPT=submission/chunks cargo test --test submission_faults` takes those whose name contains that.

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::actors::{Run, run};
use support::pairing::paired;
use support::script::{Act, Transcript};
use support::smtp_client::{messages, replies, said_in_full};
use support::spelling::{difference, shown};
use support::stage::{Faults, Scenery};
use support::wire::Fault;

#[test]
fn whatever_breaks_nothing_is_sent_twice_or_claimed() {
    let transcripts: Vec<Transcript> = support::submission_transcripts()
        .iter()
        .map(|transcript| match transcript.in_one_piece {
            true => transcript.clone(),
            false => paired(transcript),
        })
        .collect();
    let next = AtomicUsize::new(0);
    let octets = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runtime = runtime();
                while let Some(transcript) = transcripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match runtime.block_on(sweep(transcript)) {
                        Ok(swept) => drop(octets.fetch_add(swept, Ordering::Relaxed)),
                        Err(failure) => {
                            let failure = format!("{}: {failure}", transcript.name);
                            failures.lock().expect("no panic").push(failure);
                        }
                    }
                }
            });
        }
    });
    println!(
        "{} transcripts, broken at {} octets, each in two ways; all trickled",
        transcripts.len(),
        octets.load(Ordering::Relaxed)
    );
    let failures = failures.into_inner().expect("no panic");
    let shown: Vec<&str> = failures.iter().take(10).map(String::as_str).collect();
    let failed = failures.len();
    assert!(
        shown.is_empty(),
        "{failed} transcripts fail:\n\n{}",
        shown.join("\n\n")
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

/// At how many octets it was broken.
async fn sweep(transcript: &Transcript) -> Result<usize, String> {
    let scenery = Scenery::of(transcript);
    let sound = run(&scenery, Faults::NONE).await?;
    is_as_written(transcript, &sound)?;
    holds(&sound, &sound)?;
    for faults in [
        Faults {
            every_dial: Fault::Trickle,
            ..Faults::NONE
        },
        Faults {
            every_client: Fault::Trickle,
            ..Faults::NONE
        },
    ] {
        let trickled = run(&scenery, faults).await?;
        // One that does not come in one piece means something else then.
        match transcript.in_one_piece {
            true => holds(&sound, &trickled),
            false => same(&sound, &trickled),
        }
        .map_err(|error| format!("{faults:?}: {error}"))?;
    }
    let places = places_of(&sound);
    for (is_client, connection, octets) in &places {
        let kinds = match is_client {
            true => [Fault::Cut(*octets), Fault::Reset(*octets)],
            false => [Fault::Cut(*octets), Fault::Stall(*octets)],
        };
        for fault in kinds {
            let at = Some((*connection, fault));
            let faults = match is_client {
                true => Faults {
                    client: at,
                    ..Faults::NONE
                },
                false => Faults {
                    dial: at,
                    ..Faults::NONE
                },
            };
            let result = run(&scenery, faults).await;
            result
                .and_then(|broken| {
                    it_broke_there(&broken, faults)?;
                    holds(&sound, &broken)
                })
                .map_err(|error| format!("{faults:?}: {error}"))?;
        }
    }
    Ok(places.len())
}

/// Where connections are to break: whether a client's, which, behind how many octets.
fn places_of(sound: &Run) -> Vec<(bool, usize, usize)> {
    let clients = sound.client_octets.iter().map(|octets| (true, *octets));
    let dials = sound.dial_octets.iter().map(|octets| (false, *octets));
    let every = |connections: Vec<(bool, usize)>| {
        let connections = connections.into_iter().enumerate();
        connections.flat_map(|(number, (is_client, octets))| {
            (0..=octets).map(move |place| (is_client, number, place))
        })
    };
    every(clients.collect())
        .chain(every(dials.collect()))
        .collect()
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

/// The actors are true to the transcript, as long as nothing breaks.
fn is_as_written(transcript: &Transcript, sound: &Run) -> Result<(), String> {
    for (client, heard) in sound.heard.iter().enumerate() {
        let written = transcript.steps.iter().filter(|step| step.client == client);
        let written = written.filter_map(|step| match &step.act {
            Act::ClientHears(octets) => Some(octets.as_slice()),
            _ => None,
        });
        let written = written.collect::<Vec<_>>().concat();
        equal("without any fault, a client", &written, heard)?;
    }
    Ok(())
}

/// Property 6. Of a message that never ends, how much went on may differ.
fn same(sound: &Run, trickled: &Run) -> Result<(), String> {
    for (one, other) in sound.heard.iter().zip(&trickled.heard) {
        equal("the client", one, other)?;
    }
    let in_full = |run: &Run| -> Vec<Vec<u8>> {
        let dials = run.commands.iter().zip(&run.answered);
        dials
            .map(|(said, heard)| said_in_full(said, heard).to_vec())
            .collect()
    };
    for (one, other) in in_full(sound).iter().zip(&in_full(trickled)) {
        equal("the upstream", one, other)?;
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

/// Properties 2, 3 and 4.
fn holds(sound: &Run, broken: &Run) -> Result<(), String> {
    let upstream = |run: &Run| -> Vec<Vec<u8>> {
        let dials = run.commands.iter().zip(&run.answered);
        dials
            .flat_map(|(said, heard)| messages(said, heard))
            .collect()
    };
    let clients = broken.said.iter().zip(&broken.heard);
    let ended: Vec<Vec<u8>> = clients
        .clone()
        .flat_map(|(said, heard)| messages(said, heard))
        .collect();
    let seen = upstream(broken);
    if seen.len() > ended.len() {
        return Err(format!(
            "{} messages were ended, the upstream sees {}",
            ended.len(),
            seen.len()
        ));
    }
    // Where nothing breaks, the script may have an upstream refuse it before its end.
    let expected = [upstream(sound), ended].concat();
    if let Some(other) = seen.iter().find(|message| !expected.contains(message)) {
        return Err(format!(
            "the upstream sees another message:\n{}",
            shown(other)
        ));
    }
    let accepted = |said: &[u8], heard: &[u8]| {
        let replies = replies(said, heard);
        replies
            .iter()
            .filter(|reply| reply.is_to_message() && reply.is_ok())
            .count()
    };
    let claimed: usize = clients.map(|(said, heard)| accepted(said, heard)).sum();
    let dials = broken.commands.iter().zip(&broken.answered);
    let confirmed: usize = dials.map(|(said, heard)| accepted(said, heard)).sum();
    if claimed > confirmed {
        return Err(format!(
            "{claimed} messages are claimed, {confirmed} confirmed"
        ));
    }
    match broken.commands.iter().find(|said| has_bare_newline(said)) {
        None => Ok(()),
        Some(said) => Err(format!("a bare CR or LF upstream:\n{}", shown(said))),
    }
}

/// What is cut off behind a CR may have been cut by the fault, and what follows STARTTLS is a handshake. So
/// is all that an upstream hears that the script does not have, if its other ones speak TLS.
fn has_bare_newline(said: &[u8]) -> bool {
    if said.starts_with(HANDSHAKE) {
        return false;
    }
    let start_tls = memchr::memmem::find(said, b"STARTTLS\r\n");
    let said = &said[..start_tls.unwrap_or(said.len())];
    (0..said.len()).any(|at| match said[at] {
        b'\r' => said.get(at + 1).is_some_and(|next| *next != b'\n'),
        b'\n' => at == 0 || said[at - 1] != b'\r',
        _ => false,
    })
}

/// How a record of a handshake begins (RFC 8446 §5.1), and no command of SMTP.
const HANDSHAKE: &[u8] = b"\x16\x03";

/// What some server, somewhere, has taken for the end of a message, and what has been tried against it.
const ENDS: &[&[u8]] = &[
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n.\rX",
    b"\n.\r",
    b"\r.\n",
    b"\r\r\n.\r\r\n",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\n\r",
    b"\n\r.\n\r",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n. \r\n",
    b"\r\n \x2e\r\n",
];

/// What would be smuggled.
const INNER: &[u8] = b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\nhi";

#[test]
fn no_message_is_smuggled_within_another() {
    let runtime = runtime();
    for end in ENDS {
        for by_chunks in [false, true] {
            let content = [b"text", *end, INNER, b"\r\n"].concat();
            for cut in 0..end.len() {
                let failure = runtime
                    .block_on(smuggle(&content, 4 + cut, by_chunks))
                    .err();
                assert_eq!(failure, None, "{} {cut}", end.escape_ascii());
            }
        }
    }
}

/// Sends a content in two pieces; the upstream must see the end of one message at most, and none in it
/// in whatever way it reads line ends.
async fn smuggle(content: &[u8], cut: usize, by_chunks: bool) -> Result<(), String> {
    let (first, second) = content.split_at(cut);
    let spelt = |octets: &[u8]| -> String {
        let hex = octets.iter().map(|octet| format!("\\x{octet:02x}"));
        hex.collect()
    };
    let (first, second) = match by_chunks {
        false => (
            format!("C: DATA\nwait 1s\nC: {}\\\n", spelt(first)),
            format!("wait 1s\nC: {}\\\nC: .\n", spelt(second)),
        ),
        true => (
            format!("C: BDAT {}\nC: {}\\\n", first.len(), spelt(first)),
            format!(
                "wait 1s\nC: BDAT {} LAST\nC: {}\\\n",
                second.len(),
                spelt(second)
            ),
        ),
    };
    let text = format!(
        "# smuggling\nsubmission\nC: AUTH PLAIN {{base64 \"\\0joe\\0secret\"}}\ndial\n\
         s: 220 x\nc: EHLO popgate.localdomain\ns: 250-x\ns: 250 AUTH PLAIN\n\
         c: AUTH PLAIN {{base64 \"\\0joe\\0secret\"}}\ns: 235 x\n\
         C: MAIL FROM:<joe@example.org>\nC: RCPT TO:<ann@example.org>\n\
         c: MAIL FROM:<joe@example.org>\ns: 250 x\nc: RCPT TO:<ann@example.org>\ns: 250 x\n\
         {first}c: DATA\ns: 354 x\n{second}wait 1s\nC: QUIT\n"
    );
    let transcript = Transcript::parse("smuggling", &text, &|_| String::new())?;
    let run = run(&Scenery::of(&transcript), Faults::NONE).await?;
    let said = &run.commands[0];
    if has_bare_newline(said) {
        return Err(format!("a bare CR or LF upstream:\n{}", shown(said)));
    }
    // Whoever takes any of CR, LF and CRLF for a line end sees the same lines.
    let lines = said.split(|octet| matches!(octet, b'\r' | b'\n'));
    match lines.filter(|line| *line == b".").count() {
        1 => Ok(()),
        ends => Err(format!("the end of {ends} messages:\n{}", shown(said))),
    }
}
