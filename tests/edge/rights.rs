//! What popgate needs of the system: sockets may be systemd's, and rights there need be none.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::certificates::write_pair;
use crate::process::{Connection, PATIENCE, Upstream, get, wait_for};
use crate::tls::{Client, handshake};

/// Killed when a test fails.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Started {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.0.id().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    fn code(&mut self) -> Option<i32> {
        self.0.wait().expect("it ends").code()
    }
}

fn folder(upstream: SocketAddr, more: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "{more}[timeouts]\nshutdown_delay = \"0s\"\n[upstream.default]\nimap = \"imap://{upstream}\"\n"
    );
    fs::write(folder.path().join("popgate.toml"), config).expect("written");
    folder
}

fn bound() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// As systemd does it: sockets from descriptor 3 on, their names, and a socket for notices.
#[test]
fn sockets_and_notices_of_systemd() {
    let upstream = Upstream::start();
    let (one, pop3s) = bound();
    let (other, admin) = bound();
    let folder = folder(
        upstream.address,
        "[tls]\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"\n",
    );
    write_pair(folder.path(), "a", "a.example", 2090);
    let notices = UnixDatagram::bind(folder.path().join("notices")).expect("a socket");
    notices.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let heard = |beginning: &str| {
        let mut octets = [0; 512];
        let length = notices.recv(&mut octets).expect("a notice");
        let notice = String::from_utf8_lossy(&octets[..length]).into_owned();
        assert!(notice.starts_with(beginning), "{notice} is no {beginning}");
    };
    let script = "exec 3<&0 4<&1 0</dev/null 1>/dev/null\n\
                  export LISTEN_FDS=2 LISTEN_FDNAMES=pop3s:admin LISTEN_PID=$$\n\
                  exec \"$0\" serve";
    let child = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_popgate")])
        .current_dir(folder.path())
        .env_clear()
        .env("NOTIFY_SOCKET", folder.path().join("notices"))
        .stdin(Stdio::from(OwnedFd::from(one)))
        .stdout(Stdio::from(OwnedFd::from(other)))
        .stderr(Stdio::null())
        .spawn();
    let mut started = Started(child.expect("it starts"));
    heard("READY=1");
    assert!(get(admin, "/readyz").starts_with("HTTP/1.1 200"));
    handshake(pop3s, &Client::default()).expect("a handshake");
    // The addresses of the settings are not opened beside them.
    let opened = fs::read_to_string("/proc/net/tcp").expect("there");
    let inodes = sockets_of(started.0.id());
    let listening = opened.lines().skip(1).filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9])
    });
    assert_eq!(listening.count(), 2);
    started.signal("HUP");
    heard("RELOADING=1\nMONOTONIC_USEC=");
    heard("READY=1");
    started.signal("TERM");
    heard("STOPPING=1");
    assert_eq!(started.code(), Some(0));
}

/// The numbers of a process's sockets.
fn sockets_of(process: u32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{process}/fd")).expect("ours");
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            let link = link.to_str()?.strip_prefix("socket:[")?;
            Some(link.trim_end_matches(']').to_owned())
        })
        .collect()
}

#[test]
fn a_socket_for_nothing_is_a_mistake() {
    for (names, expected) in [
        ("imap", "the socket \"imap\" is for nothing; call it pop3"),
        ("pop3s", "a socket for TLS needs a certificate; add [tls]"),
    ] {
        let folder = folder(bound().1, "[admin]\nlisten = \"off\"\n");
        let script = format!(
            "exec 3<&0 0</dev/null\nexport LISTEN_FDS=1 LISTEN_FDNAMES={names} LISTEN_PID=$$\n\
             exec \"$0\" serve"
        );
        let output = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_popgate")])
            .current_dir(folder.path())
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(bound().0)))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(expected),
            "{said}"
        );
    }
}

/// SECURITY O4: as uid 65532, without any capability, with no-new-privileges and a root that nobody can
/// write to.
#[test]
fn rights_are_not_needed() {
    const CONFINED: &str = "\
mount --make-rprivate / && mount -o remount,bind,ro / || exit 77
touch /written-by-popgate 2>/dev/null && exit 78
exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all --ambient-caps=-all \"$0\" serve";
    let upstream = Upstream::start();
    let ((_, pop3), (_, admin)) = (bound(), bound());
    let folder = folder(
        upstream.address,
        &format!("[pop3]\nlisten = [\"{pop3}\"]\n[admin]\nlisten = \"{admin}\"\n"),
    );
    let everybody = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    };
    let program = folder.path().join("popgate");
    fs::copy(env!("CARGO_BIN_EXE_popgate"), &program).expect("copied");
    everybody(folder.path());
    everybody(&program);
    // Whatever else it ends with is popgate's, or that of a tool that should work.
    let can_be_confined = Command::new("unshare").args(["--mount", "true"]).output();
    if !can_be_confined.is_ok_and(|output| output.status.success()) {
        println!("skipped: only root can take rights away, so that popgate was not run without");
        return;
    }
    let child = Command::new("unshare")
        .args(["--mount", "bash", "-c", CONFINED])
        .arg(&program)
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it ran a moment ago");
    let mut started = Started(child);
    let ready = wait_for(|| {
        if let Ok(Some(status)) = started.0.try_wait() {
            return Some(Err(status));
        }
        std::net::TcpStream::connect(admin).ok()?;
        get(admin, "/readyz")
            .starts_with("HTTP/1.1 200")
            .then_some(Ok(()))
    });
    match ready {
        Some(Ok(())) => {}
        Some(Err(status)) if status.code() == Some(77) => {
            println!(
                "skipped: there can be no root here that nobody can write to, so that popgate was \
                 not run with one"
            );
            return;
        }
        other => panic!("{other:?}"),
    }
    let status = fs::read_to_string(format!("/proc/{}/status", started.0.id())).expect("it runs");
    for line in [
        "Uid:\t65532\t65532\t65532\t65532",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "no {line} in {status}");
    }
    let mut connection = Connection::to(pop3);
    connection.log_in();
    assert_eq!(&connection.ask("RETR 1")[..3], "+OK");
    while connection.line() != "." {}
    assert_eq!(&connection.ask("QUIT")[..3], "+OK");
    started.signal("TERM");
    assert_eq!(started.code(), Some(0));
}
