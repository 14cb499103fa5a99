//! What clients may cost: connections, descriptors, and the admin port.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::certificates::write_pair;
use crate::process::{Connection, PATIENCE, Popgate, Setting, Upstream, get, wait_for};

/// Connections of the one who listens for POP3 in the clear, and of the one with TLS.
const ACTIVE: &str = "popgate_connections_active{listener=\"pop3\"}";
const ACTIVE_TLS: &str = "popgate_connections_active{listener=\"pop3s\"}";

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
    thread::sleep(Duration::from_secs(2));
    let used = popgate.processor_seconds() - before;
    assert!(used < 1.0, "{used} s of processor time in 2 s");
    assert_eq!(&honest.ask("STAT")[..3], "+OK");
    waiting.into_iter().for_each(Connection::close);
    popgate.connect().log_in();
    let complaints = popgate.log().into_iter();
    let complaints = complaints.filter(|line| line.contains("no client can be accepted"));
    assert_eq!(complaints.count(), 1, "not ten times a second");
}

/// SECURITY R4: of those who say nothing, and of those who begin a handshake and no more.
#[test]
fn silence_costs_little() {
    const RISE_KIB_MAX: u64 = 64 * 1024;
    const SILENT: usize = 400;
    const STALLED: usize = 150;
    let prepare = |folder: &Path| drop(write_pair(folder, "a", "a.example", 2090));
    let popgate = Popgate::start(&Setting {
        pop3: "listen_tls = [\"127.0.0.1:0\"]",
        sections: "[tls]\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"\n\
                   [limits]\nconnections_per_address = 1000\n",
        first: "",
        prepare: Some(&prepare),
    });
    let [_, pop3s, _] = popgate.addresses()[..] else {
        panic!("{:#?}", popgate.log())
    };
    popgate.connect().log_in();
    let before = popgate.memory_kib();
    let mut open: Vec<_> = (0..SILENT).map(|_| popgate.connect()).collect();
    for silent in &mut open {
        silent.expect("+OK");
    }
    for _ in 0..STALLED {
        let mut stalled = Connection::to(pop3s);
        // The beginning of a record of 512 octets.
        stalled.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03xxxxxxxxx");
        open.push(stalled);
    }
    popgate.wait_for_metric(ACTIVE_TLS, STALLED as f64);
    popgate.connect().log_in();
    let rise = popgate.memory_kib().saturating_sub(before);
    println!("{rise} KiB for {} of them", open.len());
    assert!(rise < RISE_KIB_MAX, "{rise} KiB more");
    drop(open);
    popgate.wait_for_metric(ACTIVE, 0.0);
    popgate.wait_for_metric(ACTIVE_TLS, 0.0);
    popgate.connect().log_in();
}

/// An upstream that breaks each connection with a reset when somebody logs in, until it is well again.
struct Stormy {
    address: SocketAddr,
    is_well: Arc<AtomicBool>,
}

impl Stormy {
    fn start(well: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let is_well = Arc::new(AtomicBool::new(false));
        let flag = is_well.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let is_well = flag.load(Ordering::SeqCst);
                thread::spawn(move || match is_well {
                    true => pass_on(stream, well),
                    false => break_off(stream),
                });
            }
        });
        Self { address, is_well }
    }
}

/// What is not read when a socket is closed makes a reset of it.
fn break_off(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.peek(&mut [0]).map(drop)
}

fn pass_on(client: TcpStream, well: SocketAddr) -> io::Result<()> {
    let upstream = TcpStream::connect(well)?;
    let (mut from_client, mut to_upstream) = (client.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || io::copy(&mut from_client, &mut to_upstream));
    io::copy(&mut &upstream, &mut &client).map(drop)
}

/// SECURITY U8: nobody is to blame for it, and nobody has to do anything once it is over.
#[test]
fn a_storm_of_resets_passes() {
    let well = Upstream::start();
    let stormy = Stormy::start(well.address);
    let popgate = Popgate::start(&Setting {
        sections: &format!(
            "[[route]]\nlogin = \"*\"\nupstream = \"stormy\"\n\
             [upstream.stormy]\nimap = \"imap://{}\"\n",
            stormy.address
        ),
        ..Setting::default()
    });
    // Of many users, since one who tries again and again has to wait.
    for login in ["demo", "a", "b", "c", "d", "e", "f", "g", "h", "demo"] {
        let mut client = popgate.connect();
        client.expect("+OK");
        assert_eq!(&client.ask(&format!("USER {login}"))[..3], "+OK");
        let reply = client.ask("PASS demo");
        assert!(reply.starts_with("-ERR [SYS/TEMP]"), "{reply}");
    }
    stormy.is_well.store(true, Ordering::SeqCst);
    popgate.connect().log_in();
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
