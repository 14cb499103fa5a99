//! The real program between sockets on loopback: [`Popgate`] in front of [`upstreams`] that do as the login
//! says.

#![allow(
    dead_code,
    reason = "every test crate compiles all of it and uses a part"
)]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

/// Generous: it takes milliseconds on an idle machine.
const READY_MAX: Duration = Duration::from_secs(60);

/// Nobody waits longer for a reply.
const REPLY_MAX: Duration = Duration::from_secs(60);

/// The one password that is right. The half of it is longer than a register of a processor.
pub(crate) const PASSWORD: &str =
    "correct-horse-17-battery-staple-and-whatever-else-came-to-mind-in-norwich-80";

/// The one that makes the upstream say [`FORGED`].
pub(crate) const FORGING: &str = "forging";

/// What some terminals, editors and readers of logs take for the end of a line, and more.
const FORGED: &str = "\r2026-01-01T00:00:00Z\x0b\x1b[2J\u{85}\x0c";

/// Octets of the message of login `large`.
pub(crate) const LARGE_OCTETS: usize = 80 * 1024 * 1024;

/// Messages of login `many`.
pub(crate) const MANY_MESSAGES: usize = 30_000;

/// A running popgate, killed when it is dropped.
pub(crate) struct Popgate {
    child: Child,
    pub(crate) folder: TempDir,
    pub(crate) pop3: SocketAddr,
    pub(crate) smtp: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Popgate {
    /// With more settings than it needs, and so loud a log.
    pub(crate) fn start(log_level: &str, more: &str) -> Self {
        let (imap, submission) = upstreams();
        let [pop3, smtp, admin] = [(); 3].map(|()| free_address());
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "[pop3]\nlisten = [\"{pop3}\"]\n[smtp]\nlisten = [\"{smtp}\"]\n[admin]\nlisten = \"{admin}\"\n\
             [upstream.default]\nimap = \"imap://{imap}\"\nsmtp = \"smtp://{submission}\"\n{more}"
        );
        fs::write(folder.path().join("popgate.toml"), config).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_popgate"))
            .arg("serve")
            .current_dir(folder.path())
            .env_clear()
            .env("POPGATE_LOG", log_level)
            .env("RUST_BACKTRACE", "1")
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("piped");
        thread::spawn({
            let log = log.clone();
            move || collect(stderr, &log)
        });
        let popgate = Self {
            child,
            folder,
            pop3,
            smtp,
            admin,
            log,
        };
        let began = Instant::now();
        while !popgate.get("/readyz").starts_with("HTTP/1.1 200") {
            assert!(
                began.elapsed() < READY_MAX,
                "never ready: {}",
                popgate.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
        popgate
    }

    /// An answer of the admin port, empty if there is none.
    pub(crate) fn get(&self, path: &str) -> String {
        let answer = TcpStream::connect(self.admin).and_then(|mut stream| {
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        answer.unwrap_or_default()
    }

    /// All that it has written to standard error.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().expect("no panic")).into_owned()
    }

    /// A metric, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let answer = self.get("/metrics");
        let samples = answer.lines().filter_map(|line| line.rsplit_once(' '));
        samples
            .filter(|(sample, _)| sample.split('{').next() == Some(name))
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }

    /// What it has in the memory that it may write to.
    pub(crate) fn memory(&self) -> io::Result<Vec<u8>> {
        let mut memory = fs::File::open(format!("/proc/{}/mem", self.child.id()))?;
        let maps = String::from_utf8(self.proc("maps")).expect("text");
        let mut found = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let (start, end) = range.expect("a range");
            let number = |text| u64::from_str_radix(text, 16).expect("an address");
            memory.seek(SeekFrom::Start(number(start)))?;
            // What has gone meanwhile cannot be read, and holds nothing any more.
            let _ = (&memory)
                .take(number(end) - number(start))
                .read_to_end(&mut found);
        }
        Ok(found)
    }

    /// A file of its in /proc.
    pub(crate) fn proc(&self, name: &str) -> Vec<u8> {
        fs::read(format!("/proc/{}/{name}", self.child.id())).expect("it runs")
    }

    /// KiB of resident memory at the highest since [`Self::forget_peak`].
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// KiB of resident memory now; the peak begins there.
    pub(crate) fn forget_peak(&self) -> u64 {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("ours");
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = String::from_utf8(self.proc("status")).expect("text");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line.expect("Linux").split_whitespace().next();
        words.expect("a number").parse().expect("a number")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.pop3)
    }

    pub(crate) fn sender(&self) -> Client {
        Client::connect(self.smtp)
    }

    /// A POP3 session in TRANSACTION.
    pub(crate) fn session(&self, login: &str) -> Client {
        let mut client = self.client();
        client.line();
        assert!(client.ask(&format!("USER {login}")).starts_with("+OK"));
        let reply = client.ask(&format!("PASS {PASSWORD}"));
        assert!(reply.starts_with("+OK"), "{login}: {reply}");
        client
    }
}

impl Drop for Popgate {
    fn drop(&mut self) {
        // It may have ended already, which the test will have found.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not more of the log than a test reads, since an attack may fill it.
fn collect(mut stderr: impl Read, log: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 4096];
    while let Ok(octets @ 1..) = stderr.read(&mut chunk) {
        let mut log = log.lock().expect("no panic");
        if log.len() < 64 * 1024 * 1024 {
            log.extend_from_slice(&chunk[..octets]);
        }
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound")
}

/// A client of either protocol, line by line.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(REPLY_MAX)).expect("a limit");
        stream.set_write_timeout(Some(REPLY_MAX)).expect("a limit");
        let reader = BufReader::new(stream.try_clone().expect("a copy"));
        Self { stream, reader }
    }

    /// The next line; empty at the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let _ = self.reader.read_until(b'\n', &mut line);
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    pub(crate) fn say(&mut self, line: &str) {
        let _ = self.stream.write_all(format!("{line}\r\n").as_bytes());
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    /// The last line of a reply of several, as of EHLO.
    pub(crate) fn reply(&mut self) -> String {
        loop {
            let line = self.line();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    /// How many octets come up to the terminator of a multi-line reply.
    pub(crate) fn multi_line_octets(&mut self) -> usize {
        let mut octets = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.reader.read_until(b'\n', &mut line).expect("a line");
            assert!(read > 0, "closed after {octets} octets");
            if line == b".\r\n" {
                return octets;
            }
            octets += read;
        }
    }
}

/// An IMAP server and a submission server, for as long as the test runs.
pub(crate) fn upstreams() -> (SocketAddr, SocketAddr) {
    (listen(imap), listen(submission))
}

fn listen(serve: fn(TcpStream) -> io::Result<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that goes away is nothing to complain of.
            thread::spawn(move || serve(stream));
        }
    });
    address
}

const CAPABILITIES: &str = "IMAP4rev1 LITERAL+ UIDPLUS SASL-IR AUTH=XOAUTH2";

/// Whoever knows the password is let in, and has a mailbox as the login says.
fn imap(mut stream: TcpStream) -> io::Result<()> {
    write!(stream, "* OK [CAPABILITY {CAPABILITIES}] ready\r\n")?;
    let mut login = String::new();
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(Ok(line)) = lines.next() {
        let (tag, command) = line.split_once(' ').unwrap_or((&line, ""));
        let upper = command.to_ascii_uppercase();
        if upper.starts_with("LOGIN") {
            if line.contains(FORGING) {
                write!(stream, "{tag} NO [AUTHENTICATIONFAILED] no{FORGED}\r\n")?;
                continue;
            }
            if !line.contains(PASSWORD) {
                // As some do, with all that it was told.
                write!(
                    stream,
                    "* OK debug: {line}\r\n{tag} NO [AUTHENTICATIONFAILED] wrong: {line}\r\n"
                )?;
                continue;
            }
            login = command
                .split(['"', ' '])
                .find(|word| LOGINS.contains(word))
                .unwrap_or("joe")
                .to_owned();
        } else if upper.starts_with("AUTHENTICATE") {
            write!(stream, "{tag} NO [AUTHENTICATIONFAILED] wrong: {line}\r\n")?;
            continue;
        } else if upper.starts_with("CAPABILITY") {
            write!(stream, "* CAPABILITY {CAPABILITIES}\r\n")?;
        } else if upper.starts_with("SELECT") {
            select(&mut stream, &login)?;
        } else if upper.starts_with("UID FETCH") && upper.contains("BODY") {
            fetch(&mut stream, &login)?;
        } else if upper.starts_with("UID FETCH") {
            let (messages, octets) = mailbox(&login);
            for uid in 1..=messages {
                write!(
                    stream,
                    "* {uid} FETCH (UID {uid} RFC822.SIZE {octets} FLAGS ())\r\n"
                )?;
            }
        }
        write!(stream, "{tag} OK done\r\n")?;
    }
    Ok(())
}

/// Those with a mailbox that is not as it should be.
const LOGINS: [&str; 10] = [
    "joe", "large", "many", "literal", "negative", "endless", "flood", "nested", "exists", "flags",
];

/// How many messages, of how many octets.
fn mailbox(login: &str) -> (usize, usize) {
    match login {
        "large" => (1, LARGE_OCTETS),
        "many" => (MANY_MESSAGES, 20),
        _ => (2, 20),
    }
}

fn select(stream: &mut TcpStream, login: &str) -> io::Result<()> {
    let (messages, _) = mailbox(login);
    write!(
        stream,
        "* {messages} EXISTS\r\n* OK [UIDVALIDITY 9] valid\r\n"
    )?;
    match login {
        "literal" => write!(stream, "* 1 FETCH (FLAGS {{99999999999}}\r\n"),
        "negative" => write!(stream, "* 1 FETCH (FLAGS {{-1}}\r\n"),
        "exists" => write!(stream, "* 4294967295 EXISTS\r\n"),
        // Until popgate has had enough.
        "endless" => forever(stream, &[b'x'; 65536]),
        "nested" => forever(stream, &[b'('; 65536]),
        "flood" => forever(stream, &b"* 2 EXISTS\r\n".repeat(5000)),
        "flags" => forever(
            stream,
            &b"* 1 FETCH (UID 1 FLAGS (a b c d e f))\r\n".repeat(1000),
        ),
        _ => Ok(()),
    }
}

fn forever(stream: &mut TcpStream, octets: &[u8]) -> io::Result<()> {
    loop {
        stream.write_all(octets)?;
    }
}

fn fetch(stream: &mut TcpStream, login: &str) -> io::Result<()> {
    let (_, octets) = mailbox(login);
    write!(stream, "* 1 FETCH (UID 1 BODY[] {{{octets}}}\r\n")?;
    let line = [&[b'x'; 1022][..], b"\r\n"].concat();
    for _ in 0..octets / line.len() {
        stream.write_all(&line)?;
    }
    stream.write_all(&line[line.len() - octets % line.len()..])?;
    stream.write_all(b")\r\n")
}

/// Takes everything from whoever knows the password.
fn submission(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"220 ready\r\n")?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&line).trim_end().to_owned();
        let upper = said.to_ascii_uppercase();
        let reply = if upper.starts_with("EHLO") {
            "250-ready\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 AUTH PLAIN XOAUTH2\r\n".to_owned()
        } else if upper.starts_with("AUTH") && said.ends_with(&plain(FORGING)) {
            format!("535 5.7.8 no{FORGED}\r\n")
        } else if upper.starts_with("AUTH") && !said.ends_with(&right_response()) {
            format!("535 5.7.8 wrong: {said}\r\n")
        } else if upper.starts_with("AUTH") {
            "235 2.7.0 welcome\r\n".to_owned()
        } else if upper == "DATA" {
            stream.write_all(b"354 go on\r\n")?;
            loop {
                line.clear();
                if reader.read_until(b'\n', &mut line)? == 0 {
                    return Ok(());
                }
                if line == b".\r\n" {
                    break;
                }
            }
            "250 2.0.0 mine now\r\n".to_owned()
        } else {
            "250 2.0.0 fine\r\n".to_owned()
        };
        stream.write_all(reply.as_bytes())?;
    }
}

/// Joe's response of PLAIN.
pub(crate) fn right_response() -> String {
    plain(PASSWORD)
}

/// Joe's response of PLAIN with this password.
pub(crate) fn plain(password: &str) -> String {
    STANDARD.encode(format!("\0joe\0{password}"))
}

/// Joe's response of XOAUTH2 with this token.
pub(crate) fn xoauth2(token: &str) -> String {
    STANDARD.encode(format!("user=joe\x01auth=Bearer {token}\x01\x01"))
}
