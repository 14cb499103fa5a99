//! RETR and TOP: a literal in, byte-stuffed lines out, in constant memory.
//!
//! `+OK` is the last moment at which a failure can be told. After it the terminator follows only when
//! the upstream has confirmed the whole of the message; otherwise the connection ends without it.

use super::{LoggedIn, Record};
use crate::config::ClientWorkaround;
use crate::failure::FailureKind;
use crate::imap::command::Section;
use crate::imap::ids::Uid;
use crate::line_stream::OUTPUT_OCTETS_MAX;
use crate::maildrop::{Message, Octets};
use crate::pop3::multi_line::{DotStuffer, Nul, TopLines};
use crate::pop3::reply;
use crate::session::{Client, Gateway, SessionEnd};
use crate::upstream::LiteralReader;

/// Octets of the first partial fetch of a TOP, its lines apart: most headers fit.
const TOP_HEADER_OCTETS: u64 = 8 * 1024;

/// Octets of a chunk that is sent by itself when it needs little change. To copy a smaller one behind what
/// waits already is cheaper than a packet of its own.
const UNCOPIED_OCTETS_MIN: usize = 16 * 1024;

/// Octets that a TOP expects of a body line.
const TOP_LINE_OCTETS: u64 = 80;

/// Octets of a partial fetch at most.
const TOP_PART_OCTETS_MAX: Octets = 1024 * 1024;

/// RETR (RFC 1939 §5)
pub(super) async fn retr(
    message: Message,
    client: &mut Client,
    gateway: &Gateway,
    logged_in: &mut LoggedIn,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    let beginning = Beginning::of(message, logged_in);
    let next = expected_next(message, None, logged_in);
    let Some(body) = open(
        message,
        Section::Whole,
        &next,
        client,
        gateway,
        logged_in,
        record,
    )
    .await?
    else {
        return Ok(());
    };
    let mut lines = Lines::new(gateway, TopLines::all());
    beginning.say(client, record);
    relay(body, client, &mut lines).await?;
    lines.end(client);
    end(client, record);

    logged_in.maildrop.mark_retrieved(message.number);
    record.retrieved += 1;
    record.retrieved_octets += lines.stuffer.octets();
    gateway.metrics.message_retrieved(&logged_in.key.upstream);
    learn_octets(message, lines.stuffer.octets(), gateway, logged_in);
    Ok(())
}

/// TOP (RFC 1939 §7), by partial fetches that grow only when the lines asked for need it.
pub(super) async fn top(
    message: Message,
    lines: u64,
    client: &mut Client,
    gateway: &Gateway,
    logged_in: &mut LoggedIn,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    let beginning = Beginning::of(message, logged_in);
    let mut top = Lines::new(gateway, TopLines::new(lines));
    let wanted = TOP_HEADER_OCTETS.saturating_add(lines.saturating_mul(TOP_LINE_OCTETS));
    // Of `TOP n 99999999` (fetchmail) it is clear that it means all. The size in the listing says
    // nothing: it may be wrong.
    let all_at_once = Octets::try_from(wanted).is_err();
    let mut octets = Octets::try_from(wanted).unwrap_or(Octets::MAX);
    octets = octets.min(TOP_PART_OCTETS_MAX);
    let part = (!all_at_once).then_some(octets);
    let mut next = expected_next(message, part, logged_in);
    let mut first: Octets = 0;
    loop {
        let section = match all_at_once {
            true => Section::Whole,
            false => Section::Part { first, octets },
        };
        let Some(body) = open(message, section, &next, client, gateway, logged_in, record).await?
        else {
            if record.in_multi_line {
                // It began as a message and ends as none: what was sent must not look complete.
                let failure = FailureKind::UpstreamLost.because("the message vanished within TOP");
                return Err(SessionEnd::Upstream(failure));
            }
            return Ok(());
        };
        next.clear();
        let received = body.octets();
        if first == 0 {
            beginning.say(client, record);
        }
        relay(body, client, &mut top).await?;
        let more_to_come = !all_at_once && received == u64::from(octets);
        if top.end_of_top.is_complete() || !more_to_come {
            break;
        }
        first = first.checked_add(octets).ok_or_else(|| {
            let cause = "a message longer than IMAP can count";
            SessionEnd::Upstream(FailureKind::UpstreamGarbled.because(cause))
        })?;
        octets = octets.saturating_mul(4).min(TOP_PART_OCTETS_MAX);
    }
    top.end(client);
    end(client, record);
    Ok(())
}

/// What the client will probably fetch behind this message, in the same way.
fn expected_next(
    message: Message,
    part_octets: Option<Octets>,
    logged_in: &mut LoggedIn,
) -> Vec<(Uid, u64)> {
    let LoggedIn {
        imap,
        window,
        maildrop,
        ..
    } = logged_in;
    let others = imap.under_way().filter(|(uid, _)| *uid != message.uid);
    let under_way = others.collect();
    let way = imap.octets_on_the_way();
    window.slide(message, part_octets, under_way, way, maildrop)
}

/// Asks for a body; `None` when there is none and the client has been told so.
async fn open<'a>(
    message: Message,
    section: Section,
    next: &[(Uid, u64)],
    client: &mut Client,
    gateway: &Gateway,
    logged_in: &'a mut LoggedIn,
    record: &mut Record,
) -> Result<Option<LiteralReader<'a>>, SessionEnd> {
    // What was said so far must not wait for the upstream; where its answer is here, it need not.
    if !logged_in.imap.has_input() {
        client.lines.flush().await?;
    }
    let is_first = matches!(section, Section::Whole | Section::Part { first: 0, .. });
    let failure = match logged_in.imap.fetch_body(message.uid, section, next).await {
        Ok(Some(body)) if body.octets() == 0 && is_first && message.octets > 0 => {
            // Some servers show a message that they cannot read as an empty one. A client that
            // believed it would delete it.
            body.finish().await?;
            FailureKind::UpstreamRefused
                .because("the upstream shows a message as empty that has a size")
        }
        Ok(Some(body)) => return Ok(Some(body)),
        Ok(None) if record.in_multi_line => return Ok(None),
        Ok(None) => {
            record.refused += 1;
            reply::err(
                client.lines.output(),
                "that message was removed by another client",
            );
            return Ok(None);
        }
        Err(failure) => failure,
    };
    if record.in_multi_line || !failure.kind.leaves_upstream_usable() {
        return Err(SessionEnd::Upstream(failure));
    }
    record.failed(&failure, gateway);
    failure.kind.reply(client.lines.output(), record.id);
    Ok(None)
}

/// What goes before the message itself. None of it is learned from, nor counted as lines of TOP.
struct Beginning {
    octets: u64,
    header: &'static [u8],
}

impl Beginning {
    fn of(message: Message, logged_in: &LoggedIn) -> Self {
        Self {
            octets: logged_in.maildrop.octets(message),
            header: logged_in.maildrop.header(message),
        }
    }

    fn say(&self, client: &mut Client, record: &mut Record) {
        let out = client.lines.output();
        reply::ok(out, format_args!("{} octets", self.octets));
        out.extend_from_slice(self.header);
        record.in_multi_line = true;
    }
}

fn end(client: &mut Client, record: &mut Record) {
    reply::terminator(client.lines.output());
    record.in_multi_line = false;
}

/// Copies a body to the client while it arrives. It was all only if this succeeds.
async fn relay(
    mut body: LiteralReader<'_>,
    client: &mut Client,
    lines: &mut Lines,
) -> Result<(), SessionEnd> {
    while let Some(chunk) = body.chunk().await? {
        lines.send(chunk, client).await?;
        if client.lines.output_octets() >= OUTPUT_OCTETS_MAX || !body.has_input() {
            client.lines.flush().await?;
        }
        if lines.end_of_top.is_complete() {
            break;
        }
    }
    body.finish().await?;
    Ok(())
}

/// A message on its way into a multi-line reply.
struct Lines {
    stuffer: DotStuffer,
    end_of_top: TopLines,
    end_header: bool,
}

impl Lines {
    fn new(gateway: &Gateway, end_of_top: TopLines) -> Self {
        Self {
            stuffer: DotStuffer::new(
                match gateway.works_around(ClientWorkaround::OutlookNoNuls) {
                    true => Nul::Replaced,
                    false => Nul::Kept,
                },
            ),
            end_of_top,
            end_header: gateway.works_around(ClientWorkaround::OeNsEoh),
        }
    }

    async fn send(&mut self, chunk: &[u8], client: &mut Client) -> Result<(), SessionEnd> {
        let octets = self.end_of_top.take(chunk);
        let chunk = &chunk[..octets];
        if octets >= UNCOPIED_OCTETS_MIN
            && let Some(pieces) = self.stuffer.pieces(chunk)
        {
            return Ok(client.lines.send(&pieces).await?);
        }
        // What is copied at once goes out before more is.
        for part in chunk.chunks(OUTPUT_OCTETS_MAX) {
            client.lines.relieve().await?;
            self.stuffer.push(part, client.lines.body_output());
        }
        Ok(())
    }

    fn end(&mut self, client: &mut Client) {
        let out = client.lines.output();
        self.stuffer.end_line(out);
        if self.end_header && !self.end_of_top.has_header_end() {
            self.stuffer.push(b"\r\n", out);
        }
    }
}

/// From the next listing on, LIST tells the size that RETR has. With UTF8 a message may be another one
/// than without, so that its size says nothing.
fn learn_octets(message: Message, octets: u64, gateway: &Gateway, logged_in: &LoggedIn) {
    if !logged_in.imap.is_utf8()
        && let Ok(octets) = Octets::try_from(octets)
        && octets != message.octets
    {
        let validity = logged_in.selected.validity;
        gateway
            .memory
            .learn_octets(&logged_in.key, validity, message.uid, octets);
    }
}
