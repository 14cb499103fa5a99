//! The memory of the whole program rises by at most 64 MiB under any attack, and whoever is honest is served
//! meanwhile (SECURITY.md R1–R9, U3, U4, O6).

mod process;

use std::io::Write;
use std::thread;
use std::time::Duration;

use process::{LARGE_OCTETS, MANY_MESSAGES, PASSWORD, Popgate, right_response};

/// KiB by which the resident memory may rise.
const RISE_KIB_MAX: u64 = 64 * 1024;

/// The same where only replies could pile up.
const REPLIES_RISE_KIB_MAX: u64 = 16 * 1024;

/// Attackers at once, where one has not enough to do.
const MANY: usize = 6;

type Attack = fn(&Popgate);

/// Attackers at once, where each of them is let have a little.
const VERY_MANY: usize = 32;

/// By the rows of SECURITY.md.
const ATTACKS: [(&str, usize, Attack); 17] = [
    ("R1: an endless line before login", MANY, |popgate| {
        pour(&mut popgate.client().stream, &[b'x'; 65536]);
    }),
    ("R1: an endless line after login", MANY, |popgate| {
        pour(&mut popgate.session("joe").stream, &[b'x'; 65536]);
    }),
    ("R1: an endless line to submission", MANY, |popgate| {
        pour(&mut popgate.sender().stream, &[b'x'; 65536]);
    }),
    ("R2: junk", MANY, |popgate| {
        let junk: Vec<u8> = (0..65536_u32)
            .map(|number| ((number * 7919) >> 5) as u8)
            .collect();
        pour(&mut popgate.client().stream, &junk);
        pour(&mut popgate.sender().stream, &junk);
    }),
    ("R3: replies that nobody reads", 1, |popgate| {
        demand(popgate.session("many"), b"UIDL\r\nLIST\r\n");
    }),
    ("R3: replies before login", VERY_MANY, |popgate| {
        demand(popgate.client(), b"CAPA\r\n");
    }),
    ("R3: replies of submission", VERY_MANY, |popgate| {
        demand(popgate.sender(), b"EHLO x\r\n");
    }),
    ("R7: a large message", 1, |popgate| {
        let mut client = popgate.session("large");
        client.say("RETR 1");
        assert!(client.line().starts_with("+OK"));
        assert_eq!(client.multi_line_octets(), LARGE_OCTETS);
    }),
    ("R7: a large message that is sent", 1, |popgate| {
        let mut sender = authenticated(popgate);
        assert!(sender.ask("MAIL FROM:<joe@example.org>").starts_with("250"));
        assert!(sender.ask("RCPT TO:<ann@example.org>").starts_with("250"));
        assert!(sender.ask("DATA").starts_with("354"));
        // Of one line.
        for _ in 0..LARGE_OCTETS / 65536 {
            sender.stream.write_all(&[b'x'; 65536]).expect("taken");
        }
        assert!(sender.ask("\r\n.").starts_with("250"));
    }),
    ("R8: many messages", 1, |popgate| {
        let mut client = popgate.session("many");
        for command in ["LIST", "UIDL"] {
            assert!(client.ask(command).starts_with("+OK"));
            assert!(client.multi_line_octets() > MANY_MESSAGES);
        }
    }),
    ("R9: many recipients", 1, |popgate| {
        let mut sender = authenticated(popgate);
        assert!(sender.ask("MAIL FROM:<joe@example.org>").starts_with("250"));
        for number in 0..3000 {
            let reply = sender.ask(&format!("RCPT TO:<user{number}@example.org>"));
            let expected = if number < 1000 { "250" } else { "452" };
            assert!(reply.starts_with(expected), "{number}: {reply}");
        }
    }),
    ("U3: a huge literal", MANY, |popgate| {
        refused(popgate, "literal");
    }),
    ("U3: a negative literal", MANY, |popgate| {
        refused(popgate, "negative");
    }),
    ("U4: an endless line", MANY, |popgate| {
        refused(popgate, "endless");
    }),
    ("U4: endless nesting", MANY, |popgate| {
        refused(popgate, "nested");
    }),
    ("U4: four billion messages", MANY, |popgate| {
        refused(popgate, "exists");
    }),
    ("U4: a flood", 1, |popgate| {
        // As long as it goes on, nobody waits for it here.
        for login in ["flood", "flags"] {
            let mut client = popgate.client();
            client.line();
            client.ask(&format!("USER {login}"));
            client.say(&format!("PASS {PASSWORD}"));
            thread::sleep(Duration::from_millis(500));
        }
    }),
];

#[test]
fn no_attack_takes_memory_or_the_service() {
    // Attackers come from one address, and should not be held up by that.
    let popgate = Popgate::start(
        "info",
        "[limits]\nupstream_connections_per_account = 100\n[timeouts]\nupstream = \"3s\"\n",
    );
    be_honest(&popgate);
    let mut report = String::new();
    for (name, attackers, attack) in ATTACKS {
        let before = popgate.forget_peak();
        thread::scope(|scope| {
            let attackers: Vec<_> = (0..attackers)
                .map(|_| scope.spawn(|| attack(&popgate)))
                .collect();
            be_honest(&popgate);
            for attacker in attackers {
                attacker.join().unwrap_or_else(|_| panic!("{name}"));
            }
        });
        let rise = popgate.peak_kib().saturating_sub(before);
        report += &format!("{rise:8} KiB  {name}\n");
        let rise_max = match name.starts_with("R3") {
            true => REPLIES_RISE_KIB_MAX,
            false => RISE_KIB_MAX,
        };
        assert!(rise <= rise_max, "{name}: {rise} KiB more\n{report}");
    }
    // O6; R7 to R9 are work rather than attacks, and take long among all others.
    let before = popgate.forget_peak();
    thread::scope(|scope| {
        for (name, _, attack) in ATTACKS {
            if !["R7", "R8", "R9"].contains(&&name[..2]) {
                let popgate = &popgate;
                scope.spawn(move || attack(popgate));
            }
        }
        be_honest(&popgate);
    });
    let rise = popgate.peak_kib().saturating_sub(before);
    report += &format!("{rise:8} KiB  O6: all at once\n");
    assert!(
        rise <= RISE_KIB_MAX,
        "all at once: {rise} KiB more\n{report}"
    );
    be_honest(&popgate);
    assert!(!popgate.log().contains("panicked"));
    println!("{report}");
}

/// What an honest client wants.
fn be_honest(popgate: &Popgate) {
    let mut client = popgate.session("joe");
    assert!(client.ask("STAT").starts_with("+OK 2 "));
    assert!(client.ask("RETR 1").starts_with("+OK"));
    client.multi_line_octets();
    assert!(client.ask("QUIT").starts_with("+OK"));
}

fn authenticated(popgate: &Popgate) -> process::Client {
    let mut sender = popgate.sender();
    sender.line();
    let reply = sender.ask(&format!("AUTH PLAIN {}", right_response()));
    assert!(reply.starts_with("235"), "{reply}");
    sender
}

/// More than may be kept, or until nobody takes it any more.
fn pour(stream: &mut impl Write, octets: &[u8]) {
    for _ in 0..(16 << 20) / octets.len() {
        if stream.write_all(octets).is_err() {
            return;
        }
    }
}

/// One command after the other, and no reply is read.
fn demand(mut client: process::Client, command: &[u8]) {
    let patience = Some(Duration::from_secs(2));
    client.stream.set_write_timeout(patience).expect("a limit");
    pour(&mut client.stream, &command.repeat(1000));
}

/// The upstream makes no sense, which is no mistake of the password.
fn refused(popgate: &Popgate, login: &str) {
    let mut client = popgate.client();
    client.line();
    client.ask(&format!("USER {login}"));
    let reply = client.ask(&format!("PASS {PASSWORD}"));
    assert!(reply.starts_with("-ERR [SYS/"), "{login}: {reply}");
}
