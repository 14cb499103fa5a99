//! A submission session between a client and an upstream that both say anything: every line that the
//! upstream hears is one command of ours or belongs to a message; no bare CR or LF comes to it; and it gets
//! the end of no message that the client has not ended.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate_fuzz::{Event, Service, connections, has_only_crlf, heard_by_upstream, play};

const COMMANDS: [&[u8]; 9] = [
    b"EHLO ",
    b"HELO ",
    b"AUTH ",
    b"MAIL FROM:<",
    b"RCPT TO:<",
    b"DATA",
    b"RSET",
    b"QUIT",
    b"NOOP",
];

fuzz_target!(|script: &[u8]| {
    let events = play(script, Service::Submission);
    let connections = connections(&events);
    for connection in 0..connections {
        has_only_crlf(&heard_by_upstream(&events, connection));
    }
    check(&events, connections);
});

#[derive(Clone, Copy, Default)]
struct Upstream {
    in_auth: bool,
    /// DATA was sent.
    asks: bool,
    /// It was taken.
    in_message: bool,
}

fn check(events: &[Event], connections: usize) {
    let mut upstreams = vec![Upstream::default(); connections];
    let mut unfinished = vec![Vec::new(); connections];
    let (mut ended_by_client, mut ended_upstream) = (0, 0);
    let mut current = 0;
    for event in events {
        match event {
            Event::ClientSays(line) => {
                let upper = line.to_ascii_uppercase();
                let is_last_chunk =
                    upper.starts_with(b"BDAT") && upper.trim_ascii().ends_with(b"LAST");
                // CR and LF within a line may begin one of their own.
                let is_end = line
                    .split(|octet| *octet == b'\n')
                    .any(|part| part.trim_ascii() == b".");
                ended_by_client += u32::from(is_last_chunk || is_end);
            }
            Event::UpstreamSays(line) => {
                if let Some(upstream) = upstreams.get_mut(current)
                    && upstream.asks
                    && line.starts_with(b"354")
                {
                    upstream.in_message = true;
                }
            }
            Event::UpstreamHears(number, octets) => {
                current = *number;
                let unfinished = &mut unfinished[*number];
                unfinished.extend_from_slice(octets);
                while let Some(end) = unfinished.iter().position(|octet| *octet == b'\n') {
                    let line: Vec<u8> = unfinished.drain(..=end).collect();
                    let line = line.strip_suffix(b"\r\n").expect("CRLF");
                    ended_upstream += u32::from(upstreams[*number].hear(line));
                    assert!(
                        ended_upstream <= ended_by_client,
                        "a message that the client has not ended"
                    );
                }
            }
            Event::ClientHears(_) => {}
        }
    }
}

impl Upstream {
    /// Whether this is the end of a message.
    fn hear(&mut self, line: &[u8]) -> bool {
        if self.in_message {
            let is_end = line == b".";
            if is_end {
                *self = Self::default();
            }
            return is_end;
        }
        let is_command = COMMANDS.iter().any(|known| line.starts_with(known));
        let is_answer = line
            .iter()
            .all(|octet| octet.is_ascii_alphanumeric() || b"+/=*".contains(octet));
        assert!(
            is_command || self.in_auth && is_answer,
            "{}",
            line.escape_ascii()
        );
        self.in_auth = line.starts_with(b"AUTH ") || self.in_auth && !is_command;
        self.asks |= line == b"DATA";
        false
    }
}
