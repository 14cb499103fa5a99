//! [`paired`]: a transcript of submission whose upstream answers every command as it comes, so that it
//! does not matter how many of them popgate sends at once.

use std::collections::HashMap;

use super::script::{Act, Dial, Step, Transcript};
use super::smtp_client::{Unsaid, one_reply};

/// The same play with finer steps. What an upstream hears of IMAP stays in one piece.
pub(crate) fn paired(transcript: &Transcript) -> Transcript {
    let mut steps: Vec<Step> = Vec::new();
    let mut behind_354: HashMap<Dial, bool> = HashMap::new();
    let mut is_smtp: HashMap<Dial, bool> = HashMap::new();
    let mut rest = transcript.steps.as_slice();
    while let Some((step, after)) = rest.split_first() {
        rest = after;
        let (dial, heard) = match &step.act {
            Act::UpstreamHears(dial, heard) if is_smtp.get(dial) == Some(&true) => (*dial, heard),
            Act::UpstreamSays(dial, said) => {
                is_smtp
                    .entry(*dial)
                    .or_insert_with(|| said.starts_with(b"2"));
                steps.push(step.clone());
                continue;
            }
            _ => {
                steps.push(step.clone());
                continue;
            }
        };
        let mut said: &[u8] = match rest.first().map(|next| &next.act) {
            Some(Act::UpstreamSays(other, said)) if *other == dial => said,
            _ => &[],
        };
        let has_answer = !said.is_empty();
        let is_content = behind_354.entry(dial).or_default();
        let mut unsaid = Unsaid::new(heard, *is_content);
        while let Some(command) = unsaid.next() {
            steps.push(Step {
                act: Act::UpstreamHears(dial, command.to_vec()),
                ..step.clone()
            });
            let (reply, _) = one_reply(said);
            said = &said[reply.len()..];
            if !reply.is_empty() {
                unsaid.is_content = reply.starts_with(b"354");
                *is_content = unsaid.is_content;
                steps.push(Step {
                    act: Act::UpstreamSays(dial, reply.to_vec()),
                    ..rest[0].clone()
                });
            }
        }
        if !unsaid.rest().is_empty() {
            steps.push(Step {
                act: Act::UpstreamHears(dial, unsaid.rest().to_vec()),
                ..step.clone()
            });
        }
        if has_answer {
            if !said.is_empty() {
                steps.push(Step {
                    act: Act::UpstreamSays(dial, said.to_vec()),
                    ..rest[0].clone()
                });
            }
            rest = &rest[1..];
        }
    }
    Transcript {
        steps,
        ..transcript.clone()
    }
}
