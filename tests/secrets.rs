//! No password comes out of the real program: not in its log at the loudest, not in metrics, arguments,
//! environment or the trace, on whatever way it came in, and whatever an upstream makes of it (SECURITY.md
//! A6, A7, A8, A10).

mod process;

use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use process::{FORGING, PASSWORD, Popgate, plain, right_response, xoauth2};

/// Generous: what is waited for takes moments on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Words that stand nowhere but in passwords.
const CANARY: &str = "canary-4711-of-norwich";

/// A wrong password, as long as the right one.
const WRONG: &str = "another-nag-18-charger-paperclip-or-anything-that-passed-by-at-king-s-lynn-81";

/// A thread writes it, so that its last line may come a little later.
fn trace_with(popgate: &Popgate, last: &str) -> String {
    let began = Instant::now();
    loop {
        let trace = fs::read_to_string(popgate.folder.path().join("trace")).expect("a trace");
        if trace.contains(last) {
            return trace;
        }
        assert!(began.elapsed() < PATIENCE, "no {last:?} in\n{trace}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_password_comes_out() {
    let popgate = Popgate::start("trace", "[trace]\nlogin = \"joe\"\nfile = \"trace\"\n");
    // What is wrong, mistyped or in the wrong place.
    for lines in [
        &["USER joe", "PASS canary-4711-of-norwich"][..],
        &[
            "USER joe",
            "PASSS canary-4711-of-norwich",
            "canary-4711-of-norwich",
        ],
        &[
            "canary-4711-of-norwich",
            "USER canary-4711-of-norwich x",
            "LIST canary-4711-of-norwich",
        ],
        &[
            "PASS canary-4711-of-norwich",
            "AUTH canary-4711-of-norwich",
            "AUTH PLAIN canary-4711-of-norwich",
        ],
        &[
            "USER joe",
            "PASS  canary-4711-of-norwich canary-4711-of-norwich",
        ],
    ] {
        let mut client = popgate.client();
        client.line();
        for line in lines {
            let reply = client.ask(line);
            assert!(!reply.contains(CANARY), "{line}: {reply}");
        }
        client.say("QUIT");
        client.line();
    }
    let response = plain(CANARY);
    for lines in [
        &["AUTH PLAIN", &response][..],
        &["AUTH LOGIN", "am9l", &response],
        &[&format!("AUTH PLAIN {response}")],
        &[&format!("AUTH XOAUTH2 {response}"), &response],
    ] {
        for mut client in [popgate.client(), popgate.sender()] {
            client.line();
            for line in lines {
                let reply = client.ask(line);
                assert!(
                    !reply.contains(CANARY) && !reply.contains(&response),
                    "{reply}"
                );
            }
            client.say("QUIT");
            client.line();
        }
    }
    // Tokens.
    let token = xoauth2(CANARY);
    for mut client in [popgate.client(), popgate.sender()] {
        client.line();
        for line in [format!("AUTH XOAUTH2 {token}"), token.clone()] {
            let reply = client.ask(&line);
            assert!(
                !reply.contains(CANARY) && !reply.contains(&token),
                "{reply}"
            );
        }
        client.say("QUIT");
        client.line();
    }
    // Where submission does not expect one.
    let mut sender = popgate.sender();
    sender.line();
    for line in [
        CANARY,
        "EHLO canary-4711-of-norwich",
        "MAIL FROM:<canary-4711-of-norwich>",
        "AUTH canary-4711-of-norwich",
    ] {
        sender.say(line);
        let reply = sender.reply();
        assert!(!reply.contains(CANARY), "{line}: {reply}");
    }
    // What is right.
    let mut client = popgate.session("joe");
    assert!(client.ask("canary-4711-of-norwich").starts_with("-ERR"));
    assert!(client.ask("RETR 1").starts_with("+OK"));
    client.multi_line_octets();
    assert!(client.ask("QUIT").starts_with("+OK"));
    let mut sender = popgate.sender();
    sender.line();
    let reply = sender.ask(&format!("AUTH PLAIN {}", right_response()));
    assert!(reply.starts_with("235"), "{reply}");
    assert!(sender.ask("MAIL FROM:<joe@example.org>").starts_with("250"));
    assert!(sender.ask("RCPT TO:<ann@example.org>").starts_with("250"));
    assert!(sender.ask("DATA").starts_with("354"));
    assert!(
        sender
            .ask("Subject: canary-body\r\n\r\nhello\r\n.")
            .starts_with("250")
    );
    assert!(sender.ask("QUIT").starts_with("221"));

    let trace = trace_with(&popgate, " s: 250 2.0.0 mine now");
    for told in [
        " S: +OK popgate ready",
        " C: PASS ***",
        " c: g1 LOGIN ***",
        " C: RETR 1",
        " c: DATA",
        " S: 250 2.0.0",
    ] {
        assert!(trace.contains(told), "no {told:?} in\n{trace}");
    }
    assert!(
        !trace.contains("xxxx") && !trace.contains("canary-body"),
        "a body:\n{trace}"
    );
    let log = popgate.log();
    assert!(log.contains("DEBUG"), "a log at the loudest");
    assert!(!log.contains("panicked"), "{log}");
    let seen = [
        ("the log", log),
        ("the trace", trace),
        ("/metrics", popgate.get("/metrics")),
        (
            "the arguments",
            String::from_utf8_lossy(&popgate.proc("cmdline")).into_owned(),
        ),
        (
            "the environment",
            String::from_utf8_lossy(&popgate.proc("environ")).into_owned(),
        ),
    ];
    for (place, text) in &seen {
        for secret in [
            CANARY,
            PASSWORD,
            &response,
            &token,
            &right_response(),
            &response[8..],
            &token[24..],
            &right_response()[8..],
        ] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "in {place}");
        }
    }
}

/// SECURITY.md A10: when its sessions have ended, a process that is dumped has nothing of what they said.
#[test]
fn no_password_stays_in_memory() {
    // Connections that wait for a login would stay, with nobody logged in.
    let popgate = Popgate::start("info", "warm_connections = 0\n");
    for _ in 0..3 {
        let mut client = popgate.session("joe");
        assert!(client.ask("RETR 1").starts_with("+OK"));
        client.multi_line_octets();
        assert!(client.ask("QUIT").starts_with("+OK"));
        let mut client = popgate.client();
        client.line();
        assert!(client.ask("AUTH PLAIN").starts_with('+'));
        let reply = client.ask(&right_response());
        assert!(reply.starts_with("+OK"), "{reply}");
        assert!(client.ask("QUIT").starts_with("+OK"));
        let mut sender = popgate.sender();
        sender.line();
        let reply = sender.ask(&format!("AUTH PLAIN {}", right_response()));
        assert!(reply.starts_with("235"), "{reply}");
        assert!(sender.ask("QUIT").starts_with("221"));
    }
    // Upstreams repeat what is wrong.
    let mut client = popgate.client();
    client.line();
    assert!(client.ask("USER joe").starts_with("+OK"));
    assert!(client.ask(&format!("PASS {WRONG}")).starts_with("-ERR"));
    assert!(client.ask("QUIT").starts_with("+OK"));
    let mut sender = popgate.sender();
    sender.line();
    let reply = sender.ask(&format!("AUTH PLAIN {}", plain(WRONG)));
    assert!(reply.starts_with("535"), "{reply}");
    assert!(sender.ask("QUIT").starts_with("221"));
    // What it has while a line is not complete is found; so would be what stays.
    let mut client = popgate.client();
    client.line();
    assert!(client.ask("USER joe").starts_with("+OK"));
    write!(client.stream, "PASS {PASSWORD}").expect("sent");
    let began = Instant::now();
    loop {
        match popgate.memory() {
            Ok(memory) if holds(&memory, PASSWORD) => break,
            Ok(_) => assert!(began.elapsed() < PATIENCE, "what is there is not found"),
            Err(error) => {
                println!("skipped: the memory of another process cannot be read here: {error}");
                return;
            }
        }
    }
    drop(client);
    while ["popgate_connections_active", "popgate_upstream_connections"]
        .iter()
        .any(|name| popgate.metric(name) > 0.0)
    {
        assert!(began.elapsed() < PATIENCE, "sessions do not end");
        thread::sleep(Duration::from_millis(20));
    }
    let memory = popgate.memory().expect("it could be read before");
    for secret in [PASSWORD, &right_response(), WRONG, &plain(WRONG)] {
        // What is given back to the allocator is overwritten by it at the beginning; and a stretch as long as
        // a register of the processor, which looks at many octets at once, may lie on a stack.
        let end = &secret[secret.len() / 2..];
        assert!(!holds(&memory, end), "{end:?} of {secret:?} is there");
    }
}

fn holds(memory: &[u8], secret: &str) -> bool {
    memchr::memmem::find(memory, secret.as_bytes()).is_some()
}

/// SECURITY.md A8: one event is one line, whatever is in it.
#[test]
fn nobody_begins_a_line_of_the_log() {
    let popgate = Popgate::start("debug", "");
    let mut client = popgate.client();
    client.line();
    // A terminal would be told to clear itself, and a vertical tab is a new line to some.
    for line in [
        "USER a\x1b[2J\x0bb",
        "PASS wrong",
        "\x1b[2J\x0b",
        "USER joe",
        &format!("PASS {FORGING}"),
    ] {
        client.ask(line);
    }
    client.say("QUIT");
    client.line();
    let mut sender = popgate.sender();
    sender.line();
    for line in [
        "EHLO a\x1b[2J\x0bb",
        &format!("AUTH PLAIN {}", plain(FORGING)),
        "MAIL FROM:<a\x1b[2J\x0bb>",
        "\x1b[2J\x0b",
    ] {
        sender.say(line);
        sender.reply();
    }
    sender.say("QUIT");
    sender.line();
    let began = Instant::now();
    while popgate.metric("popgate_sessions_total") < 2.0 {
        assert!(began.elapsed() < PATIENCE, "sessions do not end");
        thread::sleep(Duration::from_millis(20));
    }
    let log = popgate.log();
    let lines = log.strip_suffix('\n').expect("a last line");
    for line in lines.split('\n') {
        let is_dated = line.as_bytes().first_chunk() == lines.as_bytes().first_chunk::<4>();
        assert!(is_dated, "no time at the beginning of {line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
