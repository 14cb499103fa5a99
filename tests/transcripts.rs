//! Every transcript, played line by line: see `support/script.rs` for their language.
//!
//! `TRANSCRIPT=retrieve/top cargo test --test transcripts` plays those whose name contains that.

mod support;

use std::fmt::Write;

use support::end::End;
use support::script::{Act, Dialled, Handshake, Side, Step, Transcript};
use support::spelling::{difference, shown, without_references};
use support::stage::{Faults, Scenery, Stage};
use support::tls::Tls;
use support::wire::Wire;
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn both_legs_are_as_written() {
    let transcripts = support::all_transcripts();
    let mut failures = String::new();
    let mut failed = 0;
    for transcript in &transcripts {
        if let Err(mismatch) = check(transcript).await {
            failed += 1;
            // Writing into a string cannot fail.
            let _ = writeln!(failures, "\n{mismatch}");
        }
    }
    let played = transcripts.len();
    println!("{played} transcripts played, {failed} failed");
    assert!(played > 0, "there is no such transcript");
    assert!(
        failures.is_empty(),
        "{failed} of {played} transcripts:\n{failures}"
    );
}

/// Plays one transcript; what is not as written comes back, for a person to read.
async fn check(transcript: &Transcript) -> Result<(), String> {
    let mut play = Play {
        stage: Scenery::of(transcript).set(Faults::NONE),
        legs: Vec::new(),
        transcript,
    };
    for step in &transcript.steps {
        play.step(step)
            .await
            .map_err(|error| format!("{}:{}: {error}", transcript.name, step.line))?;
    }
    play.end()
        .await
        .map_err(|error| format!("{}: at its end: {error}", transcript.name))
}

struct Play<'a> {
    transcript: &'a Transcript,
    stage: Stage,
    legs: Vec<Leg>,
}

/// The test's end of one connection.
struct Leg {
    side: Side,
    client: usize,
    end: End,
    /// Heard, but not yet asked for.
    heard: Vec<u8>,
}

impl Play<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        self.stage.settle().await;
        self.notice_dials(step.client);
        self.listen()?;
        match &step.act {
            Act::ClientHears(expected) => self.hear(Side::Client, step.client, expected)?,
            Act::UpstreamHears(dial, expected) => {
                self.hear(Side::Upstream(*dial), step.client, expected)?;
            }
            Act::Dial(number) => self.expect_dial(*number)?,
            // Whoever begins a handshake has begun it by now.
            Act::Tls(side, handshake) => self.shake_hands(*side, *handshake, step.client).await?,
            Act::Closed(side) => {
                self.expect_quiet()?;
                if !self
                    .leg(*side, step.client)?
                    .end
                    .wire
                    .is_closed_by_popgate()
                {
                    return Err("popgate has not closed that connection".to_owned());
                }
            }
            _ => {
                self.expect_quiet()?;
                self.act(step).await?;
            }
        }
        Ok(())
    }

    /// Whatever somebody else than popgate does.
    async fn act(&mut self, step: &Step) -> Result<(), String> {
        match &step.act {
            Act::ClientSays(octets) => self.leg(Side::Client, step.client)?.end.say(octets),
            Act::UpstreamSays(dial, octets) => {
                self.leg(Side::Upstream(*dial), step.client)?
                    .end
                    .say(octets);
            }
            Act::Connect => {
                self.stage.connect(self.transcript);
                let wire = self.stage.clients[step.client].wire.clone();
                self.legs.push(Leg::new(Side::Client, step.client, wire));
            }
            Act::GetToKnow => self.stage.get_to_know(self.transcript),
            Act::KeepWarm => self.stage.keep_warm(),
            Act::Wait(time) => sleep(*time).await,
            Act::Eof(side) => self.leg(*side, step.client)?.end.wire.end(),
            Act::Reset(side) => self.leg(*side, step.client)?.end.wire.reset(),
            Act::Room(octets) => self
                .leg(Side::Client, step.client)?
                .end
                .wire
                .limit_room(*octets),
            Act::Drain => self.stage.gateway.draining.cancel(),
            Act::Drained => self.stage.gateway.drained.cancel(),
            Act::ClientHears(_)
            | Act::UpstreamHears(..)
            | Act::Dial(_)
            | Act::Closed(_)
            | Act::Tls(..) => {}
        }
        Ok(())
    }

    /// A connection to the upstream belongs to the client whose turn it was.
    fn notice_dials(&mut self, client: usize) {
        let is_upstream = |leg: &&Leg| leg.side != Side::Client;
        let known = self.legs.iter().filter(is_upstream).count();
        let wires = self.stage.dials().into_iter().enumerate();
        let opened = wires.filter_map(|(number, wire)| Some((number, wire?)));
        for (number, wire) in opened.skip(known) {
            self.legs
                .push(Leg::new(Side::Upstream(number), client, wire));
        }
    }

    fn listen(&mut self) -> Result<(), String> {
        self.legs.iter_mut().try_for_each(Leg::listen)
    }

    fn leg(&mut self, side: Side, client: usize) -> Result<&mut Leg, String> {
        let is_it =
            |leg: &&mut Leg| leg.side == side && (side != Side::Client || leg.client == client);
        let leg = self.legs.iter_mut().find(is_it);
        leg.ok_or_else(|| "popgate has not opened that connection".to_owned())
    }

    /// Just this was heard, to the octet.
    fn hear(&mut self, side: Side, client: usize, expected: &[u8]) -> Result<(), String> {
        let heard = std::mem::take(&mut self.leg(side, client)?.heard);
        let heard = match side {
            Side::Client => without_references(&heard),
            Side::Upstream(_) => heard,
        };
        if heard == expected {
            return Ok(());
        }
        let (expected, heard) = difference(expected, &heard);
        // What else was heard often tells why.
        let elsewhere: String = self.legs.iter().filter_map(Leg::unheard).collect();
        Err(format!(
            "{} should hear\n{expected}    but hears\n{heard}{elsewhere}",
            name(side)
        ))
    }

    fn expect_dial(&self, number: usize) -> Result<(), String> {
        let dialled = self.stage.dials();
        let expected = self.transcript.dials[number] == Dialled::Accepted;
        match dialled.get(number) {
            Some(wire) if wire.is_some() == expected && dialled.len() == number + 1 => Ok(()),
            _ => Err(format!("popgate has dialled {} times", dialled.len())),
        }
    }

    /// Everything that popgate said has been heard.
    fn expect_quiet(&self) -> Result<(), String> {
        let unheard: String = self.legs.iter().filter_map(Leg::unheard).collect();
        if !unheard.is_empty() {
            return Err(format!("before this\n{unheard}"));
        }
        match self.stage.dials().len() > self.transcript.dials.len() {
            true => Err("popgate dials, which is not in the transcript".to_owned()),
            false => Ok(()),
        }
    }

    async fn shake_hands(
        &mut self,
        side: Side,
        handshake: Handshake,
        client: usize,
    ) -> Result<(), String> {
        let leg = self.leg(side, client)?;
        let tls = match (side, handshake) {
            (Side::Client, Handshake::SucceedsNameless) => Tls::as_nameless_client(),
            (Side::Client, Handshake::Succeeds | Handshake::Fails) => Tls::as_client(),
            (Side::Upstream(_), _) => Tls::as_server(),
        };
        let first_flight = std::mem::take(&mut leg.heard);
        let begun = leg.end.begin_tls(tls, &first_flight);
        let mut result = begun.map_err(|error| error.to_string());
        // A handshake is two flights; a few more do no harm.
        for _ in 0..6 {
            self.stage.settle().await;
            result = result.and(self.leg(side, client)?.listen());
        }
        let is_done = result.is_ok() && self.leg(side, client)?.end.is_secured();
        match (is_done, handshake) {
            (true, Handshake::Succeeds | Handshake::SucceedsNameless) => Ok(()),
            (false, Handshake::Fails) => {
                let leg = self.leg(side, client)?;
                leg.end.forget_tls();
                leg.heard.clear();
                Ok(())
            }
            (true, Handshake::Fails) => Err("the handshake has succeeded".to_owned()),
            (false, Handshake::Succeeds | Handshake::SucceedsNameless) => {
                Err(format!("the handshake has failed: {result:?}"))
            }
        }
    }

    /// Nothing is left over, and no session has panicked.
    async fn end(&mut self) -> Result<(), String> {
        self.stage.settle().await;
        self.notice_dials(0);
        self.listen()?;
        self.expect_quiet()?;
        for client in &mut self.stage.clients {
            client.wire.end();
        }
        self.stage.settle().await;
        for client in &mut self.stage.clients {
            match client.session.is_finished() {
                true => (&mut client.session)
                    .await
                    .map_err(|error| error.to_string())?,
                // Nothing can be learned from what is still waiting for its upstream.
                false => client.session.abort(),
            }
        }
        Ok(())
    }
}

impl Leg {
    fn new(side: Side, client: usize, wire: Wire) -> Self {
        Self {
            side,
            client,
            end: End::new(wire),
            heard: Vec::new(),
        }
    }

    fn listen(&mut self) -> Result<(), String> {
        let octets = self.end.listen().map_err(|error| error.to_string())?;
        self.heard.extend(octets);
        Ok(())
    }

    fn unheard(&self) -> Option<String> {
        let text = format!("    {} hears\n{}", name(self.side), shown(&self.heard));
        (!self.heard.is_empty()).then_some(text)
    }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Client => "the client",
        Side::Upstream(_) => "the upstream",
    }
}
