//! No password comes out of the real program: not in its log at the loudest, not in metrics, arguments,
//! environment or the trace, on whatever way it came in, and whatever an upstream makes of it (SECURITY.md
//! A6, A7).

mod process;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use process::{PASSWORD, Popgate, plain, right_response};

/// Generous: what is waited for takes moments on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Words that stand nowhere but in passwords.
const CANARY: &str = "canary-4711-of-norwich";

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
            &right_response(),
            &response[8..],
            &right_response()[8..],
        ] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "in {place}");
        }
    }
}
