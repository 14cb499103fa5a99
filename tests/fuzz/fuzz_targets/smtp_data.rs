//! A message on its way: read however it is cut, it is the same; what is written of it has CR and LF in
//! CRLF only, ends once, and is read as the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate::smtp::data::{DotStuffer, Framing, MessageReader};

fuzz_target!(|octets: &[u8]| {
    let Some((cut, input)) = octets.split_first() else {
        return;
    };
    for framing in [Framing::Dots, Framing::Counted] {
        let (message, read) = message(framing, input, input.len());
        let cut = usize::from(*cut).min(input.len());
        assert_eq!(self::message(framing, input, cut), (message.clone(), read));
        let written = written(&message);
        assert_eq!(written_in_two(&message, cut), written);
        has_only_crlf(&written);
        let end = memmem(&[b"\r\n", written.as_slice()].concat(), b"\r\n.\r\n");
        assert_eq!(end, Some(written.len() - 3), "one end, at the end");
        let (again, read) = self::message(Framing::Dots, &written, written.len());
        assert_eq!(read, written.len());
        let again = match message.is_empty() || message.ends_with(b"\r\n") {
            true => again.as_slice(),
            false => again.strip_suffix(b"\r\n").expect("an added line end"),
        };
        assert_eq!(again, message);
    }
});

fn message(framing: Framing, input: &[u8], cut: usize) -> (Vec<u8>, usize) {
    let mut reader = MessageReader::new(framing);
    let mut message = Vec::new();
    let (first, second) = input.split_at(cut);
    let mut read = reader.push(first, &mut message);
    read += reader.push(second, &mut message);
    reader.end(&mut message);
    assert_eq!(reader.octets(), message.len() as u64);
    (message, read)
}

fn written(message: &[u8]) -> Vec<u8> {
    written_in_two(message, 0)
}

fn written_in_two(message: &[u8], cut: usize) -> Vec<u8> {
    let (first, second) = message.split_at(cut.min(message.len()));
    let mut stuffer = DotStuffer::default();
    let mut out = Vec::new();
    stuffer.push(first, &mut out);
    stuffer.push(second, &mut out);
    stuffer.end(&mut out);
    out
}

fn has_only_crlf(octets: &[u8]) {
    for (at, octet) in octets.iter().enumerate() {
        match octet {
            b'\r' => assert_eq!(octets.get(at + 1), Some(&b'\n')),
            b'\n' => assert!(at > 0 && octets[at - 1] == b'\r'),
            _ => {}
        }
    }
}

fn memmem(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    octets
        .windows(wanted.len())
        .position(|window| window == wanted)
}
