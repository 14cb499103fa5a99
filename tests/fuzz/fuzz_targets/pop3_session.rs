//! A POP3 session between a client and an upstream that both say anything: every line that the upstream
//! hears is one command of ours; nothing is changed there before QUIT, nor more than was marked by DELE; and
//! no body gets its terminator before the upstream's tagged OK.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate_fuzz::{
    Event, Service, connections, has_only_crlf, heard_by_upstream, next_line, play,
};

/// With what a tagged line may go on.
const COMMANDS: [&[u8]; 19] = [
    b"CAPABILITY",
    b"LOGIN ",
    b"AUTHENTICATE ",
    b"ID ",
    b"ENABLE ",
    b"NAMESPACE",
    b"LIST ",
    b"XLIST ",
    b"CREATE ",
    b"SELECT ",
    b"FETCH ",
    b"UID FETCH ",
    b"UID SEARCH ",
    b"UID STORE ",
    b"UID COPY ",
    b"UID MOVE ",
    b"UID EXPUNGE ",
    b"NOOP",
    b"LOGOUT",
];

fuzz_target!(|script: &[u8]| {
    let events = play(script, Service::Pop3);
    for connection in 0..connections(&events) {
        let asked_for = asked_for(&events, connection);
        check_commands(&heard_by_upstream(&events, connection), &asked_for);
    }
    check_changes(&events);
    check_terminators(&events);
});

/// One command a line, each with the next tag, but for literals and the answers to challenges.
fn check_commands(heard: &[u8], asked_for: &[usize]) {
    let mut rest = heard;
    let mut in_authenticate = false;
    let mut may_answer_refusal = false;
    let mut tags = 0;
    while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
        let mut line = rest[..end + 1].to_vec();
        rest = &rest[end + 1..];
        // The octets of a literal are arguments, whatever they are. An upstream that was asked for them may
        // have answered the command instead: then nobody can tell what it takes the next command for.
        while let Some(octets) = literal(&line) {
            let is_asked = !line.ends_with(b"+}\r\n");
            if is_asked
                && !asked_for.contains(&(heard.len() - rest.len()))
                && rest.starts_with(format!("g{} ", tags + 2).as_bytes())
            {
                return;
            }
            let Some(behind) = rest.get(octets..) else {
                return;
            };
            let Some(end) = behind.iter().position(|octet| *octet == b'\n') else {
                return;
            };
            line.truncate(
                line.iter()
                    .rposition(|octet| *octet == b'{')
                    .expect("a literal"),
            );
            line.extend_from_slice(&behind[..end + 1]);
            rest = &behind[end + 1..];
        }
        has_only_crlf(&line);
        let line = line.strip_suffix(b"\r\n").expect("CRLF");
        if in_authenticate && !line.starts_with(format!("g{} ", tags + 1).as_bytes()) {
            assert!(
                line.iter()
                    .all(|octet| octet.is_ascii_alphanumeric() || b"+/=*".contains(octet))
            );
            continue;
        }
        // What answers the refusal of a token may come behind commands that went out with the token.
        if may_answer_refusal && (line.is_empty() || line == b"AQ==") {
            may_answer_refusal = false;
            continue;
        }
        tags += 1;
        let command = line.strip_prefix(format!("g{tags} ").as_bytes());
        let command = command.unwrap_or_else(|| panic!("no command: {}", line.escape_ascii()));
        assert!(
            COMMANDS.iter().any(|known| command.starts_with(known)),
            "{}",
            command.escape_ascii()
        );
        in_authenticate = command.starts_with(b"AUTHENTICATE ");
        may_answer_refusal |= in_authenticate;
    }
}

/// How many octets an upstream had heard each time that it asked for more.
fn asked_for(events: &[Event], connection: usize) -> Vec<usize> {
    let (mut heard, mut asked_for) = (0, Vec::new());
    for event in events {
        match event {
            Event::UpstreamHears(number, octets) if *number == connection => heard += octets.len(),
            Event::UpstreamSays(number, line)
                if *number == connection && line.starts_with(b"+") =>
            {
                asked_for.push(heard);
            }
            _ => {}
        }
    }
    asked_for
}

/// How many octets of a literal follow this line.
fn literal(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"}\r\n")?;
    let line = line
        .strip_suffix(b"+")
        .or(line.strip_suffix(b"-"))
        .unwrap_or(line);
    let brace = line.iter().rposition(|octet| *octet == b'{')?;
    str::from_utf8(&line[brace + 1..]).ok()?.parse().ok()
}

/// STORE, COPY, MOVE and EXPUNGE come behind QUIT, and name no more messages than DELE did.
fn check_changes(events: &[Event]) {
    let (mut deletions, mut has_quit) = (0, false);
    let mut unfinished = Vec::new();
    for event in events {
        match event {
            Event::ClientSays(octets) => {
                unfinished.extend_from_slice(octets);
                while let Some(line) = next_line(&mut unfinished) {
                    let line = line.to_ascii_uppercase();
                    deletions += u64::from(line.starts_with(b"DELE"));
                    has_quit |= line.trim_ascii() == b"QUIT";
                }
            }
            Event::UpstreamHears(_, octets) => {
                for line in octets.split(|octet| *octet == b'\n') {
                    if let Some(uids) = changed(line) {
                        assert!(has_quit, "changed before QUIT: {}", line.escape_ascii());
                        assert!(
                            uids <= deletions,
                            "{deletions} DELE: {}",
                            line.escape_ascii()
                        );
                    }
                }
            }
            Event::ClientHears(_) | Event::UpstreamSays(..) => {}
        }
    }
}

/// How many messages a line changes.
fn changed(line: &[u8]) -> Option<u64> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace().skip(1);
    let is_change = words.next() == Some("UID")
        && ["STORE", "COPY", "MOVE", "EXPUNGE"].contains(&words.next()?);
    let count = |range: &str| {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        let (first, last): (u64, u64) =
            (first.parse().expect("a UID"), last.parse().expect("a UID"));
        last.abs_diff(first) + 1
    };
    is_change.then(|| words.next().expect("a set").split(',').map(count).sum())
}

/// Where the client is with a body that was asked for by the command of this tag.
enum Transfer {
    Idle,
    /// Its status line has not come.
    Asked(Vec<u8>),
    InBody(Vec<u8>),
}

/// A body gets its terminator only when the upstream has said that it was all.
fn check_terminators(events: &[Event]) {
    let mut said = Vec::new();
    let mut transfer = Transfer::Idle;
    let mut unfinished = Vec::new();
    for event in events {
        match event {
            Event::UpstreamHears(_, octets) => {
                for line in octets.split(|octet| *octet == b'\n') {
                    if line.windows(5).any(|part| part == b".PEEK") {
                        let tag = line.split(|octet| *octet == b' ').next();
                        let tag = tag.unwrap_or_default().to_vec();
                        // TOP may ask for its parts one by one.
                        transfer = match transfer {
                            Transfer::InBody(_) => Transfer::InBody(tag),
                            Transfer::Idle | Transfer::Asked(_) => Transfer::Asked(tag),
                        };
                    }
                }
            }
            // An upstream that answers before it is asked has answered.
            Event::UpstreamSays(_, line) => said.push(line.to_ascii_lowercase()),
            Event::ClientSays(_) => {}
            Event::ClientHears(octets) => {
                unfinished.extend_from_slice(octets);
                while let Some(line) = next_line(&mut unfinished) {
                    transfer = after_line(transfer, line.trim_ascii_end(), &said);
                }
            }
        }
    }
}

fn after_line(transfer: Transfer, line: &[u8], said: &[Vec<u8>]) -> Transfer {
    match transfer {
        Transfer::Asked(_) if line.starts_with(b"-ERR") => Transfer::Idle,
        Transfer::Asked(tag) | Transfer::InBody(tag) if line == b"." => {
            let completion = [&tag[..], b" ok"].concat();
            assert!(
                said.iter().any(|line| line.starts_with(&completion)),
                "a terminator without {}",
                completion.escape_ascii()
            );
            Transfer::Idle
        }
        Transfer::Asked(tag) | Transfer::InBody(tag) => Transfer::InBody(tag),
        Transfer::Idle => Transfer::Idle,
    }
}
