//! What an upstream may say, read as the client reads it: line, literal, line, body, tail.
//!
//! A body that is streamed and one that is spliced into its line mean the same; and where an
//! independent codec understands a response, so do we, and alike.
#![no_main]

use imap_codec::ResponseCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::fetch::MessageDataItem;
use imap_codec::imap_types::flag::{Flag, FlagFetch};
use imap_codec::imap_types::mailbox::Mailbox;
use imap_codec::imap_types::response as codec;
use libfuzzer_sys::fuzz_target;
use popgate::imap::fetch::{self, Body, BodyHead, Fetch, Flags, HIDDEN_KEYWORD};
use popgate::imap::framing::{self, Ending, LINE_OCTETS_MAX, LITERALS_MAX, RESPONSE_OCTETS_MAX};
use popgate::imap::ids::{Uid, UidSet};
use popgate::imap::response::{Code, Condition, Response, Untagged};

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    while let Some(received) = receive(&mut input) {
        match received {
            Received::Line(line) => check_against_codec(&line),
            Received::Body {
                line,
                head,
                body,
                tail,
            } => check_body(line, head, body, &tail),
        }
    }
});

enum Received<'a> {
    /// With its literals.
    Line(Vec<u8>),
    Body {
        line: Vec<u8>,
        head: BodyHead,
        body: &'a [u8],
        tail: Vec<u8>,
    },
}

/// `None` where the connection would be given up, or nothing is left.
fn receive<'a>(input: &mut &'a [u8]) -> Option<Received<'a>> {
    let mut line = next_line(input)?.to_vec();
    let ending = framing::ending_of_first(&line).ok()?;
    let Some(head) = complete(&mut line, ending, input)? else {
        return Some(Received::Line(line));
    };
    let body = take(input, usize::try_from(head.octets).ok()?)?;
    let mut tail = next_line(input)?.to_vec();
    let ending = framing::ending_of_next(&tail, 0).ok()?;
    complete(&mut tail, ending, input)?
        .is_none()
        .then_some(Received::Body {
            line,
            head,
            body,
            tail,
        })
}

/// Reads on until the logical line is complete, or comes to a body.
fn complete(
    logical: &mut Vec<u8>,
    mut ending: Ending,
    input: &mut &[u8],
) -> Option<Option<BodyHead>> {
    for _ in 0..=LITERALS_MAX {
        match ending {
            Ending::Complete => return Some(None),
            Ending::Body(head) => return Some(Some(head)),
            Ending::Literal { octets } => {
                assert!(logical.len() + octets <= RESPONSE_OCTETS_MAX);
                framing::splice(logical);
                logical.extend_from_slice(take(input, octets)?);
                let line_start = logical.len();
                logical.extend_from_slice(next_line(input)?);
                ending = framing::ending_of_next(logical, line_start).ok()?;
            }
        }
    }
    None
}

fn next_line<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let newline = input.iter().position(|octet| *octet == b'\n')?;
    let line = &input[..newline];
    *input = &input[newline + 1..];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (line.len() <= LINE_OCTETS_MAX).then_some(line)
}

fn take<'a>(input: &mut &'a [u8], octets: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(octets)?;
    *input = rest;
    Some(taken)
}

fn check_body(mut line: Vec<u8>, head: BodyHead, body: &[u8], tail: &[u8]) {
    assert_eq!(head.octets, body.len() as u64);
    let place = head.place;
    let items_before = head.items.body.is_some();
    let streamed = fetch::body_tail(tail, head.items);
    framing::splice(&mut line);
    line.extend_from_slice(body);
    line.extend_from_slice(tail);
    let spliced = match Response::parse(&line) {
        Ok(Response::Untagged(Untagged::Fetch(spliced))) => Ok(spliced),
        Ok(other) => panic!("{other:?}"),
        Err(garbled) => Err(garbled),
    };
    match (streamed, spliced) {
        (Ok(streamed), Ok(spliced)) => {
            if !items_before && streamed.body.is_none() {
                let content = Some(body.to_vec());
                assert_eq!(spliced.body, Some(Body { place, content }));
            }
            let without_body = |fetch: Fetch| Fetch {
                body: None,
                ..fetch
            };
            assert_eq!(without_body(streamed), without_body(spliced));
        }
        (Err(_), Err(_)) => {}
        // The blank behind a streamed body may be missing.
        (Ok(_), Err(_)) if !matches!(tail.first(), Some(b' ' | b')')) => {}
        (streamed, spliced) => panic!("{streamed:?} but {spliced:?}"),
    }
    check_against_codec(&line);
}

fn check_against_codec(line: &[u8]) {
    let ours = Response::parse(line);
    let wire = [line, b"\r\n"].concat();
    let Ok((b"", theirs)) = ResponseCodec::default().decode(&wire) else {
        return;
    };
    // Its section may quote a bracket. We never ask for it, and so do not look for that.
    if wire
        .windows(13)
        .any(|window| window.eq_ignore_ascii_case(b"HEADER.FIELDS"))
    {
        return;
    }
    let shown = || format!("{ours:?} but {theirs:?}");
    match &theirs {
        codec::Response::Data(data) => {
            let Ok(Response::Untagged(ours)) = &ours else {
                panic!("{}", shown());
            };
            check_data(ours, data);
        }
        codec::Response::Status(codec::Status::Untagged(status)) => {
            let Ok(Response::Untagged(Untagged::Status(ours))) = &ours else {
                panic!("{}", shown());
            };
            let condition = match status.kind {
                codec::StatusKind::Ok => Condition::Ok,
                codec::StatusKind::No => Condition::No,
                codec::StatusKind::Bad => Condition::Bad,
            };
            assert_eq!(ours.condition, condition);
            if let Some(codec::Code::UidValidity(validity)) = status.code {
                let Some(Code::UidValidity(ours)) = &ours.code else {
                    panic!("{}", shown());
                };
                assert_eq!(ours.number(), validity.get());
            }
        }
        codec::Response::Status(codec::Status::Bye(_)) => {
            let Ok(Response::Untagged(Untagged::Status(ours))) = &ours else {
                panic!("{}", shown());
            };
            assert_eq!(ours.condition, Condition::Bye);
        }
        codec::Response::Status(codec::Status::Tagged(_)) => {
            assert!(!matches!(
                ours,
                Ok(Response::Untagged(_) | Response::Continuation(_))
            ));
        }
        codec::Response::CommandContinuationRequest(_) => {
            assert!(matches!(ours, Ok(Response::Continuation(_))), "{}", shown());
        }
    }
}

fn check_data(ours: &Untagged, theirs: &codec::Data<'_>) {
    match (ours, theirs) {
        (Untagged::Fetch(ours), codec::Data::Fetch { items, .. }) => {
            check_fetch(ours, items.as_ref());
        }
        (Untagged::Search(ours), codec::Data::Search(theirs, ..)) => {
            let theirs: UidSet = theirs
                .iter()
                .filter_map(|uid| Uid::new(uid.get()))
                .collect();
            assert_eq!(*ours, theirs);
        }
        (Untagged::Exists(ours), codec::Data::Exists(theirs)) => assert_eq!(ours, theirs),
        (
            Untagged::List(ours),
            codec::Data::List {
                mailbox, delimiter, ..
            },
        ) => {
            match mailbox {
                Mailbox::Inbox => assert!(ours.name.eq_ignore_ascii_case(b"INBOX")),
                Mailbox::Other(theirs) => assert_eq!(ours.name, theirs.as_ref()),
            }
            let theirs = delimiter.as_ref().map(|delimiter| delimiter.inner() as u8);
            assert_eq!(ours.delimiter, theirs);
        }
        (
            ours,
            codec::Data::Fetch { .. }
            | codec::Data::Search(..)
            | codec::Data::Exists(_)
            | codec::Data::List { .. }
            | codec::Data::Capability(_),
        ) => {
            let is_capability = matches!(
                (ours, theirs),
                (Untagged::Capability(_), codec::Data::Capability(_))
            );
            assert!(is_capability, "{ours:?} but {theirs:?}");
        }
        _ => {}
    }
}

/// Of an item that comes twice, the last counts.
fn check_fetch(ours: &Fetch, items: &[MessageDataItem<'_>]) {
    let mut theirs = Fetch::default();
    let mut body = None;
    for item in items {
        match item {
            MessageDataItem::Uid(uid) => theirs.uid = Uid::new(uid.get()),
            MessageDataItem::Rfc822Size(octets) => theirs.octets = Some(u64::from(*octets)),
            MessageDataItem::Flags(flags) => theirs.flags = Some(flags_of(flags)),
            MessageDataItem::BodyExt { origin, data, .. } => {
                let content = data.0.as_ref().map(|content| content.as_ref().to_vec());
                body = Some((*origin, content));
            }
            _ => {}
        }
    }
    assert_eq!(ours.uid, theirs.uid);
    assert_eq!(ours.octets, theirs.octets);
    assert_eq!(ours.flags, theirs.flags);
    let ours = ours
        .body
        .as_ref()
        .map(|body| (body.place.origin, body.content.clone()));
    assert_eq!(ours, body);
}

fn flags_of(flags: &[FlagFetch<'_>]) -> Flags {
    let is_hidden = |flag: &FlagFetch<'_>| match flag {
        FlagFetch::Flag(Flag::Keyword(name)) => name.as_ref().eq_ignore_ascii_case(HIDDEN_KEYWORD),
        _ => false,
    };
    Flags {
        seen: flags.contains(&FlagFetch::Flag(Flag::Seen)),
        deleted: flags.contains(&FlagFetch::Flag(Flag::Deleted)),
        hidden: flags.iter().any(is_hidden),
    }
}
