//! A message cut into chunks anywhere, against RFC 1939 said one octet at a time.
//!
//! The input: a digit for the lines of TOP, a letter for NUL (`k`ept, `r`eplaced), a blank, the sizes
//! of the chunks as digits which repeat for as long as there is something to cut, a blank, the message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate::pop3::multi_line::{DotStuffer, Nul, TopLines};

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |octet| *octet == b' ');
    let (Some([lines, nul]), Some(sizes), Some(message)) =
        (parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let lines = u64::from(lines.wrapping_sub(b'0'));
    let nul = match nul {
        b'r' => Nul::Replaced,
        _ => Nul::Kept,
    };
    check_stuffing(message, sizes, nul);
    check_top(message, sizes, lines);
});

fn check_stuffing(message: &[u8], sizes: &[u8], nul: Nul) {
    let mut stuffer = DotStuffer::new(nul);
    let mut out = Vec::new();
    for chunk in chunks(message, sizes) {
        stuffer.push(chunk, &mut out);
    }
    stuffer.end_line(&mut out);
    let (expected, octets) = stuffed(message, nul);
    assert_eq!(out, expected);
    assert_eq!(stuffer.octets(), octets);
    assert!(out.is_empty() || out.ends_with(b"\r\n"));
    assert!(!out.starts_with(b".\r\n"), "a terminator within a message");
    assert!(!out.windows(5).any(|window| window == b"\r\n.\r\n"));
}

fn check_top(message: &[u8], sizes: &[u8], lines: u64) {
    let mut top = TopLines::new(lines);
    let mut taken = Vec::new();
    for chunk in chunks(message, sizes) {
        let was_complete = top.is_complete();
        let octets = top.take(chunk);
        assert!(!was_complete || octets == 0);
        assert!(octets == chunk.len() || top.is_complete());
        taken.extend_from_slice(&chunk[..octets]);
    }
    let (expected, has_header_end) = top_of(message, lines);
    assert_eq!(taken, expected);
    assert_eq!(top.has_header_end(), has_header_end);
}

/// Chunks of these sizes, empty ones too, over and over.
fn chunks<'a>(mut message: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for size in sizes.iter().chain(b"7").cycle() {
        if message.is_empty() {
            break;
        }
        let size = usize::from(size.wrapping_sub(b'0')).min(message.len());
        let (chunk, rest) = message.split_at(size);
        chunks.push(chunk);
        message = rest;
    }
    chunks
}

/// On the wire without the terminator, and its octets without the stuffing.
fn stuffed(message: &[u8], nul: Nul) -> (Vec<u8>, u64) {
    let mut wire = Vec::new();
    let mut octets = 0;
    let mut before = b'\n';
    let mut at_line_start = true;
    let mut say = |octet: u8, counts: bool| {
        wire.push(octet);
        octets += u64::from(counts);
    };
    for octet in message {
        if at_line_start && *octet == b'.' {
            say(b'.', false);
        }
        match octet {
            b'\n' if before != b'\r' => {
                say(b'\r', true);
                say(b'\n', true);
            }
            0 if nul == Nul::Replaced => say(0x80, true),
            _ => say(*octet, true),
        }
        at_line_start = *octet == b'\n';
        before = *octet;
    }
    if !at_line_start {
        say(b'\r', true);
        say(b'\n', true);
    }
    (wire, octets)
}

/// The header, its blank line and so many lines; whether there was a blank line.
fn top_of(message: &[u8], lines: u64) -> (Vec<u8>, bool) {
    let mut taken = Vec::new();
    let mut body_lines = None;
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        if body_lines == Some(lines) {
            break;
        }
        taken.extend_from_slice(line);
        body_lines = match body_lines {
            None if matches!(line, b"\n" | b"\r\n") => Some(0),
            None => None,
            Some(count) => Some(count + 1),
        };
    }
    (taken, body_lines.is_some())
}
