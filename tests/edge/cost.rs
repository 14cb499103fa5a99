//! What clients may cost: connections, descriptors, and the admin port.

use std::net::TcpStream;
use std::time::Duration;

use crate::process::{Connection, Popgate, Setting, get, wait_for};

#[test]
fn who_comes_in_excess_is_told_and_the_rest_is_served() {
    for (limit, reason) in [
        ("connections = 3", "connections"),
        ("connections_per_address = 3", "connections_per_address"),
    ] {
        let popgate = Popgate::start(&Setting {
            sections: &format!(
                "[limits]\n{limit}\n[smtp]\nlisten = [\"127.0.0.1:0\"]\n\
                 [upstream.sending]\nimap = \"imap://127.0.0.1:9\"\nsmtp = \"smtp://127.0.0.1:9\"\n"
            ),
            ..Setting::default()
        });
        let [pop3, smtp, _] = popgate.addresses()[..] else {
            panic!("{:#?}", popgate.log())
        };
        let mut honest = Connection::to(pop3);
        honest.log_in();
        let mut others: Vec<_> = (0..2).map(|_| Connection::to(pop3)).collect();
        for other in &mut others {
            other.expect("+OK");
        }
        for (address, refusal) in [(pop3, "-ERR [SYS/TEMP]"), (smtp, "421 4.3.2")] {
            let mut refused = Connection::to(address);
            refused.expect(refusal);
            assert_eq!(refused.rest(), "");
        }
        popgate.wait_for_metric(
            &format!("popgate_connections_rejected_total{{listener=\"pop3\",reason=\"{reason}\"}}"),
            1.0,
        );
        assert_eq!(&honest.ask("STAT")[..3], "+OK");
        others.into_iter().for_each(Connection::close);
        let admitted = wait_for(|| Connection::to(pop3).line().starts_with("+OK").then_some(()));
        assert!(admitted.is_some(), "places come back");
    }
}

/// SECURITY R4, R10: where there are few descriptors, clients are turned away before the last is gone.
#[test]
fn few_descriptors_are_few_clients() {
    let mut popgate = Popgate::start(&Setting {
        first: "ulimit -n 64",
        ..Setting::default()
    });
    popgate.wait_for_log("which takes more descriptors than there may be");
    let mut honest = popgate.connect();
    honest.log_in();
    let mut silent: Vec<_> = (0..40).map(|_| popgate.connect()).collect();
    let told = silent.iter_mut().map(Connection::line);
    let refused = told
        .filter(|line| line.starts_with("-ERR [SYS/TEMP]"))
        .count();
    // 16 have a place, one of which is taken.
    assert_eq!(refused, 25);
    assert_eq!(&honest.ask("STAT")[..3], "+OK");
    assert!(get(popgate.admin(), "/livez").ends_with("ok\n"));
    drop(silent);
    let admitted = wait_for(|| popgate.connect().line().starts_with("+OK").then_some(()));
    assert!(admitted.is_some(), "places come back");
}

/// The same where they run out all the same: no spinning, no death, recovery.
#[test]
fn accept_without_descriptors_waits_and_recovers() {
    let mut popgate = Popgate::start(&Setting::default());
    let mut honest = popgate.connect();
    honest.log_in();
    let open = std::fs::read_dir(format!("/proc/{}/fd", popgate.id())).expect("ours");
    let limit = format!("--nofile={}:{}", open.count() + 2, 4096);
    let lowered = std::process::Command::new("prlimit")
        .args(["--pid", &popgate.id().to_string(), &limit])
        .status();
    assert!(lowered.expect("prlimit runs").success());
    let waiting: Vec<_> = (0..20).map(|_| popgate.connect()).collect();
    popgate.wait_for_log("no client can be accepted for now");
    let before = popgate.processor_seconds();
    std::thread::sleep(Duration::from_secs(2));
    let used = popgate.processor_seconds() - before;
    assert!(used < 1.0, "{used} s of processor time in 2 s");
    assert_eq!(&honest.ask("STAT")[..3], "+OK");
    waiting.into_iter().for_each(Connection::close);
    popgate.connect().log_in();
    let complaints = popgate.log().into_iter();
    let complaints = complaints.filter(|line| line.contains("no client can be accepted"));
    assert_eq!(complaints.count(), 1, "not ten times a second");
}

/// SECURITY O3
#[test]
fn the_admin_port_is_not_to_be_occupied() {
    let popgate = Popgate::start(&Setting::default());
    let admin = popgate.admin();
    for path in [
        "/",
        "/metrics/",
        "/../etc/passwd",
        "/%2e%2e/",
        "/readyz/x",
        "/debug",
    ] {
        let answer = get(admin, path);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    for (request, status) in [
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n",
            "405",
        ),
        ("not HTTP\r\n", "400"),
    ] {
        let mut connection = Connection::to(admin);
        connection.say(request);
        let answer = connection.rest();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    // A head without end is cut, whatever it is about.
    let mut endless = Connection::to(admin);
    endless.send(b"GET /livez HTTP/1.1\r\n");
    let header = format!("X-Long: {}\r\n", "x".repeat(8000)).into_bytes();
    let sent = (0..1000).take_while(|_| {
        use std::io::Write;
        endless.stream.get_mut().write_all(&header).is_ok()
    });
    assert!(sent.count() < 1000, "8 MB of head were read");
    // A flood of those who say nothing leaves the clients of mail alone.
    let flood: Vec<_> = (0..200)
        .filter_map(|_| TcpStream::connect(admin).ok())
        .collect();
    popgate.connect().log_in();
    let began = std::time::Instant::now();
    assert!(get(admin, "/livez").ends_with("ok\n"));
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "it waited for one of them"
    );
    drop(flood);
}
