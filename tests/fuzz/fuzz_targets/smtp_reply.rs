//! Replies of an upstream: whatever it says, the client hears one reply of printable ASCII with the code
//! that it should have; and EHLO's lines are understood somehow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate::smtp::extension::Extensions;
use popgate::smtp::reply::{Reply, ReplyLine};

fuzz_target!(|octets: &[u8]| {
    let lines: Vec<&[u8]> = octets.split(|octet| *octet == b'\n').collect();
    let parsed: Vec<ReplyLine<'_>> = lines
        .iter()
        .filter_map(|line| ReplyLine::parse(line).ok())
        .collect();
    let Some(first) = parsed.first() else {
        return;
    };
    let extensions = Extensions::parse(parsed.iter().map(|line| line.text));
    assert_eq!(extensions.both(extensions), extensions);
    let reply = Reply {
        code: first.code,
        lines: parsed.iter().map(|line| line.text.to_vec()).collect(),
    };
    if reply.code / 100 == 3 {
        return;
    }
    let mut out = Vec::new();
    reply.pass_on(reply.code, &mut out);
    let text = std::str::from_utf8(&out).expect("ASCII");
    let told: Vec<&str> = text.split_terminator("\r\n").collect();
    for (number, line) in told.iter().enumerate() {
        assert!(line.len() <= 510 && line.bytes().all(|octet| matches!(octet, b' '..=b'~')));
        let parsed = ReplyLine::parse(line.as_bytes()).expect("a reply");
        assert_eq!(parsed.code, reply.code);
        assert_eq!(parsed.is_last, number + 1 == told.len());
        let class = line.as_bytes()[4];
        assert_eq!(u16::from(class - b'0'), reply.code / 100);
    }
});
