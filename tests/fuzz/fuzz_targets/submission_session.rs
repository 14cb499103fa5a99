//! A submission session between a client and an upstream that both say anything: every line that the
//! upstream hears is one command of ours or belongs to a message; no bare CR or LF comes to it; and it gets
//! the end of no message that the client has not ended. The client hears 250 for a message only behind the
//! upstream's own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate_fuzz::{
    Event, Service, connections, has_only_crlf, heard_by_upstream, next_line, play,
};

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

/// What came and went on one connection. Its replies are counted, since an upstream may send them before
/// it is asked, and popgate may ask for several at once.
#[derive(Clone, Default)]
struct Upstream {
    in_auth: bool,
    /// The last line of each reply; the first is the greeting.
    replies: Vec<Vec<u8>>,
    /// How many replies popgate has asked for.
    asked: usize,
    /// Which of them answers a DATA whose message has not begun.
    data: Option<usize>,
    in_message: bool,
    unfinished: Vec<u8>,
}

fn check(events: &[Event], connections: usize) {
    let mut upstreams = vec![Upstream::default(); connections];
    let (mut ended_by_client, mut ended_upstream) = (0, 0);
    // Which replies, on which connection, decide about messages of which the client knows nothing yet.
    let mut verdicts = Vec::new();
    let mut client = Client::default();
    for event in events {
        match event {
            Event::ClientSays(octets) => {
                client.saying.extend_from_slice(octets);
                while let Some(line) = next_line(&mut client.saying) {
                    ended_by_client += u32::from(may_end_a_message(&line));
                }
            }
            Event::UpstreamSays(number, line) => {
                // On a connection of which nothing was heard, nothing can have gone wrong.
                if let Some(upstream) = upstreams.get_mut(*number)
                    && line.get(3) != Some(&b'-')
                {
                    upstream.replies.push(line.clone());
                }
            }
            Event::UpstreamHears(number, octets) => {
                let upstream = &mut upstreams[*number];
                upstream.unfinished.extend_from_slice(octets);
                while let Some(line) = next_line(&mut upstream.unfinished) {
                    if upstream.hear(line.strip_suffix(b"\r\n").expect("CRLF")) {
                        ended_upstream += 1;
                        verdicts.push((*number, upstream.asked));
                    }
                    assert!(
                        ended_upstream <= ended_by_client,
                        "a message that the client has not ended"
                    );
                }
            }
            Event::ClientHears(octets) => {
                client.hearing.extend_from_slice(octets);
                while let Some(line) = next_line(&mut client.hearing) {
                    if client.hears_that_it_is_sent(&line) {
                        let is_sent = |verdict: &(usize, usize)| {
                            let reply = upstreams[verdict.0].replies.get(verdict.1);
                            reply.is_some_and(|reply| reply.starts_with(b"2"))
                        };
                        let sent = verdicts.iter().position(is_sent);
                        let sent = sent.expect("sent, although no upstream has said so");
                        verdicts.drain(..=sent);
                    }
                }
            }
        }
    }
}

fn may_end_a_message(line: &[u8]) -> bool {
    let upper = line.to_ascii_uppercase();
    let is_last_chunk = upper.starts_with(b"BDAT") && upper.trim_ascii().ends_with(b"LAST");
    // Behind a bare CR may begin a line of its own.
    let mut parts = line.split(|octet| *octet == b'\r');
    is_last_chunk || parts.any(|part| part.trim_ascii() == b".")
}

impl Upstream {
    /// Whether this is the end of a message, of which the reply of number `asked` will tell.
    fn hear(&mut self, line: &[u8]) -> bool {
        if let Some(reply) = self.data
            && let Some(reply) = self.replies.get(reply)
        {
            self.in_message = reply.starts_with(b"354");
            self.data = None;
        }
        if self.in_message {
            let is_end = line == b".";
            self.in_message = !is_end;
            self.asked += usize::from(is_end);
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
        self.asked += 1;
        if line == b"DATA" {
            self.data = Some(self.asked);
        }
        false
    }
}

/// What the client knows of its messages after DATA; BDAT's chunks have replies of popgate's own.
#[derive(Default)]
struct Client {
    in_message: bool,
    /// What it has said of a line, and what it has heard of one.
    saying: Vec<u8>,
    hearing: Vec<u8>,
}

impl Client {
    fn hears_that_it_is_sent(&mut self, line: &[u8]) -> bool {
        if line.get(3) == Some(&b'-') {
            return false;
        }
        let is_sent = self.in_message && line.starts_with(b"2");
        self.in_message = line.starts_with(b"354");
        is_sent
    }
}
