//! The program as scripts see it: exit codes, what is on which stream, signals.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Generous: it takes milliseconds on an idle machine.
const READY_MAX: Duration = Duration::from_secs(60);

/// popgate in an empty folder, with no settings from this environment.
fn popgate(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_popgate"));
    command
        .args(arguments)
        .current_dir(folder.path())
        .env_clear();
    command
}

fn folder(config: Option<&str>) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    if let Some(config) = config {
        fs::write(folder.path().join("popgate.toml"), config).expect("written");
    }
    folder
}

fn output(folder: &TempDir, arguments: &[&str]) -> Output {
    popgate(folder, arguments).output().expect("it runs")
}

fn text(octets: &[u8]) -> &str {
    str::from_utf8(octets).expect("text")
}

const SOUND: &str = "[upstream.default]\nimap = \"imaps://imap.example.com\"\n";

#[test]
fn exit_codes_are_a_contract() {
    let empty = folder(None);
    let sound = folder(Some(SOUND));
    for (folder, arguments, code) in [
        (&empty, &["--version"][..], 0),
        (&empty, &["--help"], 0),
        (&empty, &["serve", "--help"], 0),
        (&empty, &["completions", "bash"], 0),
        (&empty, &["man"], 0),
        (&empty, &["man", "serve"], 0),
        (&empty, &["man", "nothing"], 2),
        (&empty, &[], 2),
        (&empty, &["serv"], 2),
        (&empty, &["check"], 2),
        (&empty, &["serve"], 2),
        (&empty, &["serve", "--submission", "smtps://x"], 2),
        (&empty, &["check", "-c", "none.toml"], 2),
        (&empty, &["demo", "--port-base", "0"], 2),
        (&empty, &["demo", "--port-base", "65500"], 2),
        (&empty, &["account", "add", "--any", "thing"], 2),
        (&empty, &["connect", "me@example.org"], 2),
        (&sound, &["check"], 0),
        (&sound, &["check", "--config", "popgate.toml"], 0),
    ] {
        let output = output(folder, arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        // What was asked for is on standard output, what is wrong on standard error.
        let (filled, silent) = match code {
            0 => (&output.stdout, &output.stderr),
            _ => (&output.stderr, &output.stdout),
        };
        assert!(
            !filled.is_empty() && silent.is_empty(),
            "{arguments:?}: {output:?}"
        );
    }
}

#[test]
fn check_shows_every_mistake_on_a_line_of_its_own() {
    let folder = folder(Some(
        "[pop3]\nlistn = 1\n[upstream.default]\nimap = \"x\"\n",
    ));
    let output = output(&folder, &["check"]);
    assert_eq!(
        text(&output.stderr),
        "popgate.toml:2: [pop3] listn: unknown key; did you mean listen?\n\
         popgate.toml:4: [upstream.default] imap: \"x\" is not a URL; write \"imaps://x\"\n"
    );
}

#[test]
fn check_says_what_sound_settings_mean() {
    let folder = folder(Some(&format!(
        "{SOUND}[upstream.other]\nprovider = \"gmail\"\n[upstream.other.maildrop]\non_delete = \"keep\"\n\
         [[route]]\nlogin = \"*@example.org\"\nupstream = \"other\"\n"
    )));
    assert_eq!(
        text(&output(&folder, &["check"]).stdout),
        "pop3 127.0.0.1:1110: clear text, passwords in clear text from this machine only\n\
         smtp 127.0.0.1:1587: clear text, passwords in clear text from this machine only\n\
         admin 127.0.0.1:9110: /metrics /livez /readyz\n\
         upstream default: imaps://imap.example.com:993, folder INBOX, deleted messages go to the trash\n\
         upstream other: imaps://imap.gmail.com:993, folder INBOX, deleted messages stay, sends through smtps://smtp.gmail.com:465\n\
         login *@example.org goes to upstream other\n\
         every other login goes to upstream default\n"
    );
}

#[test]
fn a_port_that_is_taken_ends_serve_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = taken.local_addr().expect("bound").to_string();
    let arguments = [
        "serve",
        "--upstream",
        "imaps://127.0.0.1:9",
        "--listen",
        &address,
    ];
    let output = popgate(&folder(None), &arguments)
        .env("POPGATE__ADMIN__LISTEN", "off")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_filter_that_is_none_is_a_usage_mistake() {
    let output = popgate(&folder(Some(SOUND)), &["serve"])
        .env("POPGATE_LOG", "popgate=loud")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        text(&output.stderr).starts_with("POPGATE_LOG: \"popgate=loud\""),
        "{output:?}"
    );
}

/// A popgate that serves; killed when a test fails.
struct Serving {
    child: Child,
    folder: TempDir,
}

impl Serving {
    /// With an admin port of which nobody else knows.
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let admin = port.expect("loopback").to_string();
        let folder = folder(Some(&format!(
            "[pop3]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"{admin}\"\n\
             [upstream.default]\nimap = \"imap://127.0.0.1:9\"\n"
        )));
        let child = popgate(&folder, &["serve", "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Self { child, folder }
    }

    fn healthcheck(&self) -> Option<i32> {
        output(&self.folder, &["healthcheck"]).status.code()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_is_healthy_until_a_signal_ends_it() {
    for signal in ["TERM", "INT"] {
        let mut serving = Serving::start();
        let began = Instant::now();
        while serving.healthcheck() != Some(0) {
            assert!(began.elapsed() < READY_MAX, "it never became ready");
            assert!(
                matches!(serving.child.try_wait(), Ok(None)),
                "it ended by itself"
            );
        }
        serving.signal(signal);
        let log = serving.child.stderr.take().expect("piped");
        for line in BufReader::new(log).lines() {
            let line = line.expect("text");
            assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
        }
        let ended = serving.child.wait().expect("ended");
        assert_eq!(ended.code(), Some(0), "{signal}");
        assert_eq!(serving.healthcheck(), Some(1));
    }
}
