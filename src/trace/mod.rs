//! [`Trace`]: what the sessions of one login say on both legs, in a file that an operator can send to
//! somebody. Credentials are blanked, bodies are counted.
//!
//! Of what a client says, only what is known to be harmless is shown, so that a password which was typed in
//! a wrong place stays hidden; of the rest, how much it was. No line is shown that repeats the credential.

mod file;

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing::info;

use self::file::TraceFile;
use crate::config::TraceSettings;
use crate::line_stream::Tap;
use crate::sasl::Credential;

/// Characters of a line that are shown.
const LINE_SHOWN_MAX: usize = 200;

/// Octets kept of what was said before it is known who says it.
const PENDING_OCTETS_MAX: usize = 8 * 1024;

/// The file, and for whom it is.
pub struct Trace {
    settings: TraceSettings,
    /// In small letters.
    login: String,
    file: TraceFile,
}

impl Trace {
    /// Opens the file, for its owner alone. That may take as long as a disk does.
    ///
    /// # Errors
    /// When it cannot be written, or is there already and others than its owner may read or write it.
    pub fn open(settings: &TraceSettings) -> io::Result<Self> {
        let file = TraceFile::open(settings)?;
        let path = settings.file.display();
        info!(login = settings.login, file = %path, "what this login's sessions say is written to a file");
        Ok(Self {
            settings: settings.clone(),
            login: settings.login.to_lowercase(),
            file,
        })
    }

    /// Whether these would open the same again.
    pub fn is_by(&self, settings: &TraceSettings) -> bool {
        self.settings == *settings
    }

    /// Waits until what was said by now is written, but not for long.
    pub async fn flush(&self) {
        self.file.flush().await;
    }

    /// For a session that begins; `name` is its reference.
    pub fn session(self: &Arc<Self>, name: String, is_submission: bool) -> SessionTrace {
        SessionTrace(Arc::new(Mutex::new(Recorder {
            trace: self.clone(),
            name,
            started: Instant::now(),
            is_submission,
            identified: Identified::NotYet(Pending::default()),
            login: Login::Unproven { octets: 0 },
        })))
    }
}

/// One session, both of whose legs may be listened to.
#[derive(Clone)]
pub struct SessionTrace(Arc<Mutex<Recorder>>);

struct Recorder {
    trace: Arc<Trace>,
    name: String,
    started: Instant,
    is_submission: bool,
    identified: Identified,
    login: Login,
}

/// Whether the upstream has accepted what the client logged in with.
enum Login {
    /// It has written so much so far.
    Unproven {
        octets: u64,
    },
    Proven,
}

/// Who is speaking.
enum Identified {
    /// Nobody knows; what was said so far.
    NotYet(Pending),
    /// The login that is asked for.
    AsWanted(Credential),
    AsSomebodyElse,
}

/// Lines of which nobody knows yet whose they are.
#[derive(Default)]
struct Pending {
    lines: Vec<(String, Shown)>,
    octets: usize,
}

impl Pending {
    fn push(&mut self, beginning: String, shown: Shown) {
        let octets = beginning.len() + shown.text.len() + shown.octets.len();
        if self.octets + octets <= PENDING_OCTETS_MAX {
            self.octets += octets;
            self.lines.push((beginning, shown));
        }
    }
}

/// What may be seen of a line, and the octets in which a credential must not be found: in the text quotes
/// and all that is not ASCII have become something else.
#[derive(Default)]
struct Shown {
    text: String,
    octets: Vec<u8>,
}

impl Shown {
    /// All of it, but for its length.
    fn all(octets: &[u8]) -> Self {
        Self {
            text: abridged(octets),
            octets: octets.to_vec(),
        }
    }

    /// Of a line of which only this is told.
    fn told(text: String) -> Self {
        Self {
            text,
            octets: Vec::new(),
        }
    }

    fn append(&mut self, more: Self) {
        self.text.push_str(&more.text);
        self.octets.extend_from_slice(&more.octets);
    }
}

impl SessionTrace {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client tries to log in with this.
    pub fn identify(&self, credential: &Credential) {
        let recorder = &mut *self.recorder();
        let login = String::from_utf8_lossy(credential.login()).to_lowercase();
        let wanted = login == recorder.trace.login;
        let next = match wanted {
            true => Identified::AsWanted(credential.clone()),
            false => Identified::AsSomebodyElse,
        };
        if let Identified::NotYet(said) = std::mem::replace(&mut recorder.identified, next)
            && wanted
        {
            for (beginning, shown) in said.lines {
                if !credential.is_echoed_in(&shown.octets) {
                    recorder.put(line(&beginning, &shown.text));
                }
            }
        }
    }

    /// The upstream has accepted the login.
    pub fn accepted(&self) {
        let recorder = &mut *self.recorder();
        // Who has another login has proved nothing of this one.
        if let Identified::AsWanted(_) = recorder.identified
            && let Login::Unproven { octets } =
                std::mem::replace(&mut recorder.login, Login::Proven)
        {
            recorder.trace.file.give_back(octets);
        }
    }

    /// Hears the client.
    pub fn client_leg(&self) -> Box<dyn Tap> {
        self.leg(Side::Client)
    }

    /// Hears the upstream, on a connection that is about to be logged in.
    pub fn upstream_leg(&self) -> Box<dyn Tap> {
        self.leg(Side::Upstream)
    }

    fn leg(&self, side: Side) -> Box<dyn Tap> {
        Box::new(Leg {
            session: self.clone(),
            side,
            unfinished: Shown::default(),
            read: 0,
            written: 0,
        })
    }
}

impl Recorder {
    fn write(&mut self, speaker: char, shown: Shown) {
        let milliseconds = self.started.elapsed().as_millis();
        let beginning = format!("{} {milliseconds} {speaker}", self.name);
        match &mut self.identified {
            Identified::NotYet(said) => said.push(beginning, shown),
            Identified::AsWanted(credential) => {
                let text = match credential.is_echoed_in(&shown.octets) {
                    true => "(repeats the credential)",
                    false => shown.text.as_str(),
                };
                self.put(line(&beginning, text));
            }
            Identified::AsSomebodyElse => {}
        }
    }

    fn put(&mut self, line: String) {
        match &mut self.login {
            Login::Unproven { octets } => *octets += self.trace.file.write_within_share(line),
            Login::Proven => self.trace.file.write(line),
        }
    }
}

fn line(beginning: &str, text: &str) -> String {
    format!("{beginning}: {text}\n")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

impl Side {
    /// As in a protocol's examples; the upstream's leg in small letters, on which we are the client.
    fn speakers(self) -> (char, char) {
        match self {
            Self::Client => ('C', 'S'),
            Self::Upstream => ('s', 'c'),
        }
    }
}

/// One connection of a session.
struct Leg {
    session: SessionTrace,
    side: Side,
    /// What we have said since the last line end.
    unfinished: Shown,
    /// Octets that were read and written since the last line, and are not shown.
    read: u64,
    written: u64,
}

impl Leg {
    fn tell_counts(&mut self) {
        let (theirs, ours) = self.side.speakers();
        for (speaker, octets) in [(theirs, &mut self.read), (ours, &mut self.written)] {
            if *octets > 0 {
                let count = Shown::told(format!("({octets} octets)"));
                self.session.recorder().write(speaker, count);
                *octets = 0;
            }
        }
    }

    fn tell_unfinished(&mut self) {
        let said = std::mem::take(&mut self.unfinished);
        self.session.recorder().write(self.side.speakers().1, said);
    }
}

impl Tap for Leg {
    fn heard(&mut self, line: &[u8]) {
        self.tell_counts();
        let mut recorder = self.session.recorder();
        let shown = match self.side {
            Side::Upstream => shown_of_upstream(line),
            Side::Client => shown_of_client(line, recorder.is_submission),
        };
        recorder.write(self.side.speakers().0, shown);
    }

    fn heard_octets(&mut self, octets: usize) {
        self.read += octets as u64;
    }

    fn said(&mut self, octets: &[u8]) {
        self.tell_counts();
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            self.unfinished.append(Shown::all(text));
            if line.ends_with(b"\n") {
                self.tell_unfinished();
            }
        }
    }

    fn said_secret(&mut self) {
        self.tell_counts();
        if !self.unfinished.text.ends_with("***") {
            self.unfinished.append(Shown::told("***".to_owned()));
        }
    }

    fn said_octets(&mut self, octets: usize) {
        self.written += octets as u64;
    }
}

/// What was not told yet is told.
impl Drop for Leg {
    fn drop(&mut self) {
        self.tell_counts();
        if !self.unfinished.text.is_empty() {
            self.tell_unfinished();
        }
        let end = Shown::told("(the connection ends)".to_owned());
        self.session.recorder().write(self.side.speakers().1, end);
    }
}

fn abridged(text: &[u8]) -> String {
    let shown = &text[..text.len().min(LINE_SHOWN_MAX)];
    let mut line = shown.escape_ascii().to_string();
    if shown.len() < text.len() {
        // Writing into a string cannot fail.
        let _ = write!(line, "… ({} octets in all)", text.len());
    }
    line
}

/// All but what a quoted string may hold of a message.
fn shown_of_upstream(line: &[u8]) -> Shown {
    let mut sections = memchr::memmem::find_iter(line, b"BODY[")
        .filter_map(|start| Some(start + memchr::memchr(b']', &line[start..])? + 1));
    let text = match sections.find(|end| is_quoted_content(&line[*end..])) {
        Some(end) => format!("{}… ({} octets in all)", abridged(&line[..end]), line.len()),
        None => abridged(line),
    };
    Shown {
        text,
        octets: line.to_vec(),
    }
}

/// What follows `BODY[…]`: `["<" number ">"] SP quoted` (RFC 3501 §9)
fn is_quoted_content(rest: &[u8]) -> bool {
    let origin_octet = rest.strip_prefix(b"<").map(|origin| {
        let digits = origin.iter().take_while(|octet| octet.is_ascii_digit());
        &origin[digits.count()..]
    });
    let content = match origin_octet {
        Some(behind) => behind.strip_prefix(b">").unwrap_or(behind),
        None => rest,
    };
    content.starts_with(b" \"")
}

/// Only what no password can be.
fn shown_of_client(line: &[u8], is_submission: bool) -> Shown {
    let (verb, rest) = match memchr::memchr(b' ', line) {
        Some(blank) => (&line[..blank], &line[blank..]),
        None => (line, &b""[..]),
    };
    let withheld = |octets: usize| format!("({octets} octets)");
    let name = verb.to_ascii_uppercase();
    let arguments = match (is_submission, name.as_slice()) {
        (
            false,
            b"STAT" | b"LIST" | b"RETR" | b"DELE" | b"TOP" | b"UIDL" | b"NOOP" | b"RSET" | b"LAST"
            | b"QUIT" | b"CAPA" | b"STLS" | b"UTF8",
        ) => match rest.iter().all(|octet| b" 0123456789".contains(octet)) {
            true => return Shown::all(line),
            false => withheld(rest.len() - 1),
        },
        (true, b"NOOP" | b"RSET" | b"QUIT" | b"DATA" | b"STARTTLS") if rest.is_empty() => {
            return Shown::all(line);
        }
        (true, b"EHLO" | b"HELO" | b"BDAT") => return Shown::all(line),
        (true, b"MAIL" | b"RCPT") if is_path(rest) => return Shown::all(line),
        (_, b"AUTH") => match rest.split(|octet| *octet == b' ').nth(1) {
            None => return Shown::all(line),
            Some(mechanism) if !is_mechanism(mechanism) => "***".to_owned(),
            Some(mechanism) if rest.len() > mechanism.len() + 1 => {
                format!("{} ***", abridged(mechanism))
            }
            Some(_) => return Shown::all(line),
        },
        (false, b"USER" | b"PASS") => "***".to_owned(),
        _ => return Shown::told(withheld(line.len())),
    };
    Shown::told(format!("{} {arguments}", abridged(verb)))
}

fn is_mechanism(word: &[u8]) -> bool {
    [&b"PLAIN"[..], b"LOGIN", b"XOAUTH2", b"OAUTHBEARER"]
        .iter()
        .any(|name| word.eq_ignore_ascii_case(name))
}

fn is_path(rest: &[u8]) -> bool {
    let rest = rest.to_ascii_uppercase();
    rest.starts_with(b" FROM:<") || rest.starts_with(b" TO:<")
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::secret::Secret;

    #[test]
    fn of_a_client_only_what_is_harmless_is_shown() {
        for (line, pop3, submission) in [
            ("USER joe", "USER ***", "(8 octets)"),
            ("PASS hunter2", "PASS ***", "(12 octets)"),
            ("PASSS hunter2", "(13 octets)", "(13 octets)"),
            ("hunter2", "(7 octets)", "(7 octets)"),
            ("LIST hunter2", "LIST (7 octets)", "(12 octets)"),
            ("quit hunter2", "quit (7 octets)", "(12 octets)"),
            ("retr 12", "retr 12", "(7 octets)"),
            ("TOP 1 0", "TOP 1 0", "(7 octets)"),
            ("AUTH PLAIN AGpvZQ==", "AUTH PLAIN ***", "AUTH PLAIN ***"),
            ("AUTH login", "AUTH login", "AUTH login"),
            ("AUTH hunter2", "AUTH ***", "AUTH ***"),
            ("AGpvZQBodW50ZXIy", "(16 octets)", "(16 octets)"),
            (
                "MAIL FROM:<a@example.org>",
                "(25 octets)",
                "MAIL FROM:<a@example.org>",
            ),
            ("MAIL hunter2", "(12 octets)", "(12 octets)"),
            ("EHLO me", "(7 octets)", "EHLO me"),
            ("BDAT 7 LAST", "(11 octets)", "BDAT 7 LAST"),
            ("DATA", "(4 octets)", "DATA"),
        ] {
            let shown = |is_submission| shown_of_client(line.as_bytes(), is_submission).text;
            assert_eq!(
                (&*shown(false), &*shown(true)),
                (pop3, submission),
                "{line}"
            );
        }
    }

    #[test]
    fn of_an_upstream_no_body_is_shown() {
        for (told, expected) in [
            (
                "* 1 FETCH (UID 1 BODY[HEADER] \"Subject: x\")",
                "* 1 FETCH (UID 1 BODY[HEADER]… (43 octets in all)",
            ),
            (
                "* 1 FETCH (UID 1 BODY[]<0> \"Subject: x\")",
                "* 1 FETCH (UID 1 BODY[]… (40 octets in all)",
            ),
        ] {
            assert_eq!(shown_of_upstream(told.as_bytes()).text, expected);
        }
        let told = "* 1 FETCH (UID 1 BODY[] {12}";
        assert_eq!(shown_of_upstream(told.as_bytes()).text, told);
    }

    const PASSWORD: &str = "hunter2!";

    fn credential(login: &str, password: &str) -> Credential {
        let password = Secret::new(password.as_bytes().to_vec());
        Credential::password(login.as_bytes(), password).expect("sound")
    }

    fn settings(folder: &Path, octets_max: u64) -> TraceSettings {
        TraceSettings {
            login: "Joe@example.org".to_owned(),
            file: folder.join("trace"),
            octets_max,
        }
    }

    /// What is in the file after the sessions of two logins, whose upstream repeats the password.
    async fn traced(password: &str, octets_max: u64) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path(), octets_max);
        let trace = Arc::new(Trace::open(&settings).expect("opened"));
        for login in ["joe@example.org", "ann@example.org"] {
            let session = trace.session("7f3a0001".to_owned(), false);
            let mut client = session.client_leg();
            client.said(b"+OK ready\r\n");
            client.heard(b"STAT");
            session.identify(&credential(login, password));
            let mut upstream = session.upstream_leg();
            upstream.said(b"g1 LOGIN joe ");
            upstream.said_secret();
            upstream.said(b"\r\n");
            upstream.heard(format!("g1 OK so it is {password}").as_bytes());
            session.accepted();
            client.said(b"+OK 12 octets\r\n");
            for _ in 0..2 {
                upstream.heard_octets(6);
                client.said_octets(6);
            }
            client.said(b".\r\n");
        }
        written(&trace).await
    }

    /// The thread that writes knows nothing of a paused clock.
    async fn written(trace: &Trace) -> String {
        tokio::time::resume();
        trace.flush().await;
        tokio::time::pause();
        std::fs::read_to_string(&trace.settings.file).expect("text")
    }

    #[tokio::test(start_paused = true)]
    async fn one_login_is_told_of_from_its_greeting_on() {
        assert_eq!(
            traced(PASSWORD, 10_000).await,
            "7f3a0001 0 S: +OK ready\n\
             7f3a0001 0 C: STAT\n\
             7f3a0001 0 c: g1 LOGIN joe ***\n\
             7f3a0001 0 s: (repeats the credential)\n\
             7f3a0001 0 S: +OK 12 octets\n\
             7f3a0001 0 S: (12 octets)\n\
             7f3a0001 0 S: .\n\
             7f3a0001 0 s: (12 octets)\n\
             7f3a0001 0 c: (the connection ends)\n\
             7f3a0001 0 S: (the connection ends)\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_echo_is_found_whatever_it_looks_like_in_the_file() {
        for password in ["it's'a'pass'w", "grün'ßä", "äöüß", "tab\tand\\"] {
            let trace = traced(password, 10_000).await;
            let withheld = "7f3a0001 0 s: (repeats the credential)\n";
            assert!(trace.contains(withheld), "{password}: {trace}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_password_that_was_typed_as_a_name_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path(), 10_000);
        let trace = Arc::new(Trace::open(&settings).expect("opened"));
        let session = trace.session("7f3a0001".to_owned(), true);
        session.client_leg().heard("EHLO it's'ä".as_bytes());
        session.identify(&credential("joe@example.org", "it's'ä"));
        assert_eq!(
            written(&trace).await,
            "7f3a0001 0 S: (the connection ends)\n"
        );
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path(), 10_000);
        let link = folder.path().join("elsewhere");
        std::fs::write(&link, "").expect("written");
        std::os::unix::fs::symlink(&link, &settings.file).expect("linked");
        for (mode, is_taken) in [(0o644, false), (0o620, false), (0o600, true)] {
            std::fs::set_permissions(&link, Permissions::from_mode(mode)).expect("ours");
            let opened = Trace::open(&settings);
            assert_eq!(opened.is_ok(), is_taken, "{mode:o}");
            if let Err(error) = opened {
                assert!(error.to_string().contains("chmod 600"), "{error}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_has_its_limit() {
        let all = traced(PASSWORD, 10_000).await;
        for octets in [0, 1, 24, 30, 100] {
            let part = traced(PASSWORD, octets).await;
            let mut lines = part.split_inclusive('\n');
            assert!(
                part.len() as u64 <= octets && lines.all(|line| all.contains(line)),
                "{part}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_types_the_login_gets_a_share() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path(), 1600);
        let trace = Arc::new(Trace::open(&settings).expect("opened"));
        let attempt = |login, name: &str| {
            let session = trace.session(name.to_owned(), false);
            session.client_leg().heard(b"CAPA");
            session.identify(&credential(login, PASSWORD));
            session
        };
        for _ in 0..100 {
            let session = attempt("joe@example.org", "stranger");
            // A login of the stranger's own changes nothing.
            session.identify(&credential("ann@example.org", PASSWORD));
            session.accepted();
        }
        let full = written(&trace).await;
        assert!(!full.is_empty() && full.len() <= 200, "{full}");

        let session = attempt("joe@example.org", "joe");
        session.accepted();
        session.client_leg().heard(b"STAT");
        let more = written(&trace).await;
        assert!(
            more.starts_with(&full) && more.contains("joe 0 C: STAT\n"),
            "{more}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_logs_in_takes_nothing_of_the_share() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path(), 4000);
        let trace = Arc::new(Trace::open(&settings).expect("opened"));
        for _ in 0..20 {
            let session = trace.session("joe".to_owned(), false);
            session.client_leg().heard(b"CAPA");
            session.identify(&credential("joe@example.org", PASSWORD));
            session.accepted();
        }
        let all = "joe 0 C: CAPA\njoe 0 S: (the connection ends)\n".repeat(20);
        assert_eq!(written(&trace).await, all);
    }
}
