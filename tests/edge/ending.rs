//! SIGTERM, SIGHUP, and a log that nobody reads.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Connection, PATIENCE, Popgate, Setting, get, wait_for};

/// Of open(2), on Linux.
const O_NONBLOCK: i32 = 0o4000;

/// SECURITY O1, O2
#[test]
fn a_drain_turns_nobody_away_without_a_word_and_ends_in_order() {
    let popgate = Popgate::start(&Setting {
        sections: "[smtp]\nlisten = [\"127.0.0.1:0\"]\n[timeouts]\nshutdown_delay = \"2s\"\n\
                   [upstream.sending]\nimap = \"imap://127.0.0.1:9\"\nsmtp = \"smtp://127.0.0.1:9\"\n",
        ..Setting::default()
    });
    let [pop3, smtp, admin] = popgate.addresses()[..] else {
        panic!("{:#?}", popgate.log())
    };
    let mut transaction = Connection::to(pop3);
    transaction.log_in();
    let mut authorization = Connection::to(pop3);
    authorization.expect("+OK");
    popgate.signal("TERM");
    let unready = wait_for(|| {
        get(admin, "/readyz")
            .starts_with("HTTP/1.1 503")
            .then_some(())
    });
    assert!(unready.is_some());
    // The listeners are open for the time being.
    for (address, greeting) in [(pop3, "-ERR [SYS/TEMP]"), (smtp, "421 4.3.2")] {
        let mut late = Connection::to(address);
        late.expect(greeting);
        assert_eq!(late.rest(), "");
    }
    authorization.expect("-ERR [SYS/TEMP]");
    let closed = wait_for(|| TcpStream::connect(pop3).is_err().then_some(()));
    assert!(closed.is_some(), "the listeners close");
    assert!(get(admin, "/livez").ends_with("ok\n"));
    // Who is logged in goes on.
    assert_eq!(&transaction.ask("RETR 1")[..3], "+OK");
    while transaction.line() != "." {}
    assert_eq!(&transaction.ask("DELE 1")[..3], "+OK");
    assert_eq!(&transaction.ask("QUIT")[..3], "+OK");
    assert_eq!(popgate.wait().code(), Some(0));
}

#[test]
fn an_idle_session_ends_with_the_drain() {
    let popgate = Popgate::start(&Setting {
        sections: "[timeouts]\nshutdown_delay = \"0s\"\ndrain = \"1s\"\n",
        ..Setting::default()
    });
    let mut transaction = popgate.connect();
    transaction.log_in();
    assert_eq!(&transaction.ask("DELE 1")[..3], "+OK");
    popgate.signal("TERM");
    transaction.expect("-ERR [SYS/TEMP]");
    assert_eq!(transaction.rest(), "");
    assert_eq!(popgate.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_now() {
    let mut popgate = Popgate::start(&Setting::default());
    let mut transaction = popgate.connect();
    transaction.log_in();
    popgate.signal("TERM");
    popgate.wait_for_log("a second signal stops at once");
    let began = Instant::now();
    popgate.signal("TERM");
    assert_eq!(popgate.wait().code(), Some(1));
    // Not after `drain`, which is 45 s.
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// As where a disk hangs, or a name server says nothing: a thread waits, for ever.
#[test]
fn it_ends_although_a_thread_does_not() {
    let mut popgate = Popgate::start(&Setting {
        sections: "[timeouts]\nshutdown_delay = \"0s\"\n",
        ..Setting::default()
    });
    let config = popgate.folder.path().join("popgate.toml");
    fs::remove_file(&config).expect("there");
    let made = Command::new("mkfifo").arg(&config).status();
    assert!(made.expect("mkfifo runs").success());
    popgate.signal("HUP");
    // That succeeds as soon as somebody reads; there is never anything to be read.
    let mut options = File::options();
    options.write(true).custom_flags(O_NONBLOCK);
    let writer = wait_for(|| options.open(&config).ok());
    assert!(writer.is_some(), "the settings are not read");
    popgate.signal("TERM");
    popgate.wait_for_log("all sessions have ended");
    assert_eq!(popgate.wait().code(), Some(0));
}

const RELOADED: &str = "popgate_config_last_reload_successful";

#[test]
fn a_reload_is_for_new_sessions_and_all_or_nothing() {
    let mut popgate = Popgate::start(&Setting::default());
    popgate.wait_for_metric(RELOADED, 1.0);
    let mut before = popgate.connect();
    before.log_in();

    popgate.configure(&Setting {
        sections: "[security]\ncleartext_login = \"never\"\n",
        ..Setting::default()
    });
    popgate.signal("HUP");
    popgate.wait_for_log("the settings have been read again");
    let mut new = popgate.connect();
    new.expect("+OK");
    assert_eq!(&new.ask("USER demo")[..4], "-ERR");
    assert_eq!(&before.ask("STAT")[..3], "+OK", "what has begun goes on");

    // One mistake, and nothing of the rest counts.
    popgate.configure(&Setting {
        sections: "[security]\ncleartext_login = \"always\"\n[timeouts]\nlogin = \"soon\"\n",
        ..Setting::default()
    });
    popgate.signal("HUP");
    popgate.wait_for_metric(RELOADED, 0.0);
    popgate.wait_for_log("the settings cannot be used; those before stay");
    popgate.wait_for_log("popgate.toml:9: [timeouts] login");
    let mut still = popgate.connect();
    still.expect("+OK");
    assert_eq!(&still.ask("USER demo")[..4], "-ERR");

    // Listeners are not opened and closed, which is said.
    popgate.configure(&Setting {
        pop3: "listen_tls = []",
        sections: "[security]\ncleartext_login = \"always\"\n[smtp]\nlisten = [\"127.0.0.1:0\"]\n\
                   [upstream.sending]\nimap = \"imap://127.0.0.1:9\"\nsmtp = \"smtp://127.0.0.1:9\"\n",
        ..Setting::default()
    });
    popgate.signal("HUP");
    popgate.wait_for_metric(RELOADED, 1.0);
    popgate.wait_for_log("this setting takes effect with a restart only");
    popgate.connect().log_in();
    assert_eq!(&before.ask("QUIT")[..3], "+OK");
    popgate.signal("TERM");
    assert_eq!(popgate.wait().code(), Some(0));
}

const SENDING: &str =
    "[upstream.sending]\nimap = \"imap://127.0.0.1:9\"\nsmtp = \"smtp://127.0.0.1:9\"\n";
const SENDING_UP: &str = "popgate_upstream_up{upstream=\"sending\"}";

/// And those of settings that were refused never come to be.
#[test]
fn an_upstream_that_is_gone_is_not_down() {
    let mut popgate = Popgate::start(&Setting::default());
    let trace = popgate.folder.path().join("trace");
    fs::write(&trace, "").expect("written");
    let permit = |mode| fs::set_permissions(&trace, Permissions::from_mode(mode)).expect("ours");
    permit(0o644);
    let traced = "[trace]\nlogin = \"demo\"\nfile = \"trace\"\n";
    let sending = &format!("{traced}{SENDING}");
    let configure = |popgate: &Popgate, sections| {
        popgate.configure(&Setting {
            sections,
            ..Setting::default()
        });
        popgate.signal("HUP");
    };
    configure(&popgate, sending);
    popgate.wait_for_log("others may read or write it; chmod 600 it");
    popgate.wait_for_metric(RELOADED, 0.0);
    assert!(!popgate.metrics().contains_key(SENDING_UP));

    permit(0o600);
    configure(&popgate, sending);
    popgate.wait_for_metric(SENDING_UP, 0.0);
    configure(&popgate, traced);
    let gone = wait_for(|| (!popgate.metrics().contains_key(SENDING_UP)).then_some(()));
    assert!(gone.is_some(), "it is still said to be down");
    // The trace is the same, and went on.
    let log = popgate.log();
    let opened = log
        .iter()
        .filter(|line| line.contains("is written to a file"));
    assert_eq!(opened.count(), 1, "{log:#?}");
}

/// The admin port is not known where nobody reads the log; a port that was free a moment ago is.
fn with_known_port(log: Stdio, first: &str) -> (Popgate, std::net::SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let admin = free.expect("loopback");
    let first = format!("export POPGATE__ADMIN__LISTEN={admin} POPGATE_LOG=trace\n{first}");
    let first = format!("export POPGATE__TIMEOUTS__SHUTDOWN_DELAY=0s\n{first}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let pop3 = free.expect("loopback");
    let first = format!("export POPGATE__POP3__LISTEN={pop3}\n{first}");
    let setting = Setting {
        first: &first,
        ..Setting::default()
    };
    let popgate = Popgate::start_silently(&setting, log);
    let ready = wait_for(|| {
        TcpStream::connect(admin).ok()?;
        get(admin, "/readyz")
            .starts_with("HTTP/1.1 200")
            .then_some(())
    });
    assert!(ready.is_some());
    (popgate, pop3)
}

fn whole_session(address: std::net::SocketAddr) {
    let mut connection = Connection::to(address);
    connection.log_in();
    assert_eq!(&connection.ask("RETR 1")[..3], "+OK");
    while connection.line() != "." {}
    assert_eq!(&connection.ask("QUIT")[..3], "+OK");
}

#[test]
fn a_log_that_cannot_be_written_fails_no_session() {
    // A pipe whose reader is gone.
    let (mut popgate, address) = with_known_port(Stdio::piped(), "");
    drop(popgate.take_log());
    for _ in 0..3 {
        whole_session(address);
    }
    popgate.signal("TERM");
    assert_eq!(popgate.wait().code(), Some(0));

    // No standard error at all, and one on a disk that is full.
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("there");
    for (log, first) in [(Stdio::null(), "exec 2>&-"), (Stdio::from(full), "")] {
        let (popgate, address) = with_known_port(log, first);
        whole_session(address);
        popgate.signal("TERM");
        assert_eq!(popgate.wait().code(), Some(0), "{first}");
    }
}

#[test]
fn a_log_that_nobody_reads_stops_no_session() {
    // A pipe holds 64 KiB; a session at `trace` says some of them.
    let (popgate, address) = with_known_port(Stdio::piped(), "");
    let began = Instant::now();
    for _ in 0..100 {
        whole_session(address);
    }
    assert!(began.elapsed() < PATIENCE);
    popgate.signal("TERM");
    assert_eq!(popgate.wait().code(), Some(0));
}

#[test]
fn a_key_that_is_missing_is_named() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    crate::certificates::write_pair(folder.path(), "a", "a.example", 2090);
    fs::remove_file(folder.path().join("a.key"))?;
    fs::write(
        folder.path().join("popgate.toml"),
        "[tls]\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"\n\
         [upstream.default]\nimap = \"imap://127.0.0.1:9\"\n",
    )?;
    let output = Command::new(env!("CARGO_BIN_EXE_popgate"))
        .arg("serve")
        .current_dir(folder.path())
        .env_clear()
        .output()?;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("popgate.toml:3: [tls] private_key: \"a.key\" cannot be read"),
        "{said}"
    );
    Ok(())
}
