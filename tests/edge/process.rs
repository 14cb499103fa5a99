//! A popgate of its own for each test, in front of the sample upstream; and a client of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use popgate::demo::SampleUpstream;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Generous: what is waited for takes moments on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The sample upstream of `popgate demo`, in this process.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let shutdown = CancellationToken::new();
        let ended = shutdown.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let any = "127.0.0.1:0".parse().expect("an address");
                let sample = SampleUpstream::bind(any).await.expect("loopback");
                sender.send(sample.local_address()).expect("waited for");
                sample.run(ended).await;
            });
        });
        Self {
            address: receiver.recv().expect("it starts"),
            shutdown,
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A popgate that serves; killed when a test fails.
pub(crate) struct Popgate {
    child: Child,
    pub(crate) folder: TempDir,
    upstream: Upstream,
    log: Arc<Mutex<Vec<String>>>,
}

/// What is in the file, and how it is started.
#[derive(Default)]
pub(crate) struct Setting<'a> {
    /// Behind `listen` in `[pop3]`.
    pub(crate) pop3: &'a str,
    /// Whole sections.
    pub(crate) sections: &'a str,
    /// What a shell does first.
    pub(crate) first: &'a str,
    /// Of the folder in which it runs, before it does.
    pub(crate) prepare: Option<&'a dyn Fn(&Path)>,
}

impl Popgate {
    pub(crate) fn start(setting: &Setting<'_>) -> Self {
        let mut popgate = Self::start_silently(setting, Stdio::piped());
        popgate.read_log();
        popgate.wait_for_log("listening for admin requests");
        popgate
    }

    /// With standard error wherever the test wants it.
    pub(crate) fn start_silently(setting: &Setting<'_>, log: Stdio) -> Self {
        let upstream = Upstream::start();
        let folder = tempfile::tempdir().expect("a folder");
        if let Some(prepare) = setting.prepare {
            prepare(folder.path());
        }
        write_config(folder.path(), setting, upstream.address);
        let script = format!("{}\nexec \"$0\" serve", setting.first);
        let child = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_popgate")])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        Self {
            child,
            folder,
            upstream,
            log: Arc::default(),
        }
    }

    pub(crate) fn configure(&self, setting: &Setting<'_>) {
        write_config(self.folder.path(), setting, self.upstream.address);
    }

    fn read_log(&mut self) {
        let lines = BufReader::new(self.take_log()).lines();
        let log = self.log.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
    }

    pub(crate) fn take_log(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("piped")
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn wait_for_log(&mut self, wanted: &str) -> String {
        wait_for(|| {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("it ended with {status}: {:#?}", self.log());
            }
            self.log().into_iter().find(|line| line.contains(wanted))
        })
        .unwrap_or_else(|| panic!("no {wanted:?} in {:#?}", self.log()))
    }

    /// The addresses in the order of the settings, and the admin port's behind them.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let log = self.log();
        let lines = log.iter().filter(|line| line.contains("listening for "));
        let addresses = lines.filter_map(|line| line.rsplit_once("address="));
        addresses
            .map(|(_, address)| address.trim().parse().expect(address))
            .collect()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::to(self.addresses()[0])
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        *self.addresses().last().expect("an admin port")
    }

    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = get(self.admin(), "/metrics");
        let samples = answer.lines().filter(|line| line.starts_with("popgate_"));
        samples
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().expect(value)))
            .collect()
    }

    /// Waits until a metric has this value.
    pub(crate) fn wait_for_metric(&self, name: &str, wanted: f64) {
        let found = wait_for(|| {
            let value = self.metrics().get(name).copied();
            #[allow(clippy::float_cmp, reason = "these are whole numbers")]
            value.filter(|value| *value == wanted)
        });
        assert!(
            found.is_some(),
            "{name} is {:?}, not {wanted}",
            self.metrics().get(name)
        );
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }

    /// KiB of resident memory now.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.expect("Linux").split_whitespace().next();
        number.expect("a number").parse().expect("a number")
    }

    /// Seconds of processor time so far.
    pub(crate) fn processor_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("it runs");
        let (_, behind_name) = stat.rsplit_once(')').expect("a name");
        let fields: Vec<&str> = behind_name.split_whitespace().collect();
        let ticks = |field: usize| fields[field].parse::<f64>().expect("ticks");
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Popgate {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_config(folder: &Path, setting: &Setting<'_>, upstream: SocketAddr) {
    let Setting { pop3, sections, .. } = setting;
    let config = format!(
        "[pop3]\nlisten = [\"127.0.0.1:0\"]\n{pop3}\n[admin]\nlisten = \"127.0.0.1:0\"\n{sections}\n\
         [upstream.default]\nimap = \"imap://{upstream}\"\n"
    );
    fs::write(folder.join("popgate.toml"), config).expect("written");
}

/// Asks until there is something, for long.
pub(crate) fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        match ask() {
            None if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
            found => return found,
        }
    }
}

/// Everything that comes back for a GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    let mut connection = Connection::to(address);
    connection.say(&format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    ));
    connection.rest()
}

/// A client that speaks in lines.
pub(crate) struct Connection {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::try_to(address).expect("it listens")
    }

    pub(crate) fn try_to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// A line; its end is appended.
    pub(crate) fn say(&mut self, line: &str) {
        self.send(format!("{line}\r\n").as_bytes());
    }

    pub(crate) fn send(&mut self, octets: &[u8]) {
        // Who is turned away hears so from what it reads.
        let _ = self.stream.get_mut().write_all(octets);
    }

    /// The next line; an empty text is the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(_) => line.trim_end().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => String::new(),
            Err(error) => panic!("neither a line nor an end: {error}"),
        }
    }

    /// Says it, and takes the reply.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    pub(crate) fn expect(&mut self, beginning: &str) -> String {
        let line = self.line();
        assert!(line.starts_with(beginning), "{line:?} is no {beginning:?}");
        line
    }

    pub(crate) fn log_in(&mut self) {
        self.expect("+OK");
        assert_eq!(&self.ask("USER demo")[..3], "+OK");
        assert_eq!(&self.ask("PASS demo")[..3], "+OK");
    }

    /// All that comes until the end.
    pub(crate) fn octets(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        match self.stream.read_to_end(&mut octets) {
            Ok(_) => octets,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => octets,
            Err(error) => panic!("it does not end: {error}"),
        }
    }

    pub(crate) fn rest(&mut self) -> String {
        String::from_utf8(self.octets()).expect("text")
    }

    pub(crate) fn close(self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}
