//! The edge of the process: arguments, settings, logging, runtime, signals and the exit code.

mod check;
mod cli;
mod healthcheck;
mod log_writer;

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use popgate::Edge;
use popgate::config::{self, Config, Flags};
use popgate::failure::FailureKind;
use popgate::supervisor::{self, Notice};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, ConfigFile, LogFormat, Serve};
use crate::log_writer::{Flush, LogWriter};

/// So long the end waits for threads that wait for the system.
const BLOCKED_PATIENCE: Duration = Duration::from_secs(1);

/// The exit codes that scripts may rely on.
mod exit {
    /// An upstream that was asked cannot be reached.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// An upstream that was asked refuses the credentials.
    pub(crate) const REFUSED: u8 = 4;
    /// Settings or usage.
    pub(crate) const USAGE: u8 = 2;
    /// Anything that has no code of its own.
    pub(crate) const OTHER: u8 = 1;
}

fn main() -> ExitCode {
    // Not `eprintln!`, which panics when nobody reads.
    panic::set_hook(Box::new(|panic| {
        let _ = io::stderr().write_all(told(panic).as_bytes());
    }));
    let cli = Cli::parse();
    popgate::tls::install_provider();
    match cli.command {
        Command::Demo(demo) => run(cli.log_format, |shutdown| {
            popgate::demo::run(demo.port_base, shutdown, |addresses, shutdown| {
                let settings = popgate::demo::settings(addresses);
                popgate::run(settings, Edge::ending_with(shutdown))
            })
        }),
        Command::Serve(arguments) => serve(cli.log_format, arguments),
        Command::Check(arguments) => match load(&arguments.config, &Flags::default()) {
            Ok(config) if arguments.online => check_online(&config, arguments.login.as_deref()),
            Ok(config) => print(check::summary(&config)),
            Err(code) => code,
        },
        Command::Healthcheck(arguments) => healthcheck(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "popgate", &mut script);
            print(script)
        }
        Command::Man { command } => manual(command.as_deref()),
        Command::Account(_) => not_yet("account"),
        Command::Connect(_) => not_yet("connect"),
    }
}

/// Where it was, and why if that is a text of ours. A formatted reason may hold what was being worked on.
fn told(panic: &panic::PanicHookInfo<'_>) -> String {
    let reason = panic.payload().downcast_ref::<&'static str>();
    let reason = reason.unwrap_or(&"its reason is withheld, since it may hold a secret");
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_default();
    format!(
        "popgate panicked at {place}: {reason}; this is a mistake in popgate, please report it\n"
    )
}

fn serve(log_format: LogFormat, arguments: Serve) -> ExitCode {
    let flags = Flags {
        upstream: arguments.upstream,
        submission: arguments.submission,
        listen: arguments.listen,
    };
    match load(&arguments.config, &flags) {
        Ok(config) => {
            // Before there is another thread.
            let sockets = match supervisor::inherited() {
                Ok(sockets) => sockets,
                Err(problem) => {
                    eprintln!("popgate: {problem}");
                    return ExitCode::from(exit::USAGE);
                }
            };
            run(log_format, |shutdown| async {
                let edge = Edge {
                    shutdown,
                    reloads: reload_on_signal(arguments.config, flags)?,
                    sockets,
                };
                popgate::run(config, edge).await
            })
        }
        Err(code) => code,
    }
}

/// Reads the settings again at each SIGHUP.
fn reload_on_signal(
    arguments: ConfigFile,
    flags: Flags,
) -> io::Result<mpsc::Receiver<Result<Config, String>>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            supervisor::notify(Notice::Reloading);
            let file = config_file(&arguments);
            let flags = flags.clone();
            let read = spawn_blocking(move || {
                Config::load(file.as_deref(), config::environment(), &flags)
                    .map_err(|problems| problems.to_string())
            });
            let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
            if sender.send(read).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The settings, or every problem with them on standard error.
fn load(arguments: &ConfigFile, flags: &Flags) -> Result<Config, ExitCode> {
    let file = config_file(arguments);
    Config::load(file.as_deref(), config::environment(), flags).map_err(|problems| {
        eprintln!("{problems}");
        ExitCode::from(exit::USAGE)
    })
}

/// The file of `--config`, or else the one that lies in the current folder.
fn config_file(arguments: &ConfigFile) -> Option<PathBuf> {
    let default = Path::new("popgate.toml");
    match &arguments.config {
        Some(file) => Some(file.clone()),
        None => default.exists().then(|| default.to_owned()),
    }
}

/// Runs `daemon` until it ends by itself or a signal asks it to.
fn run<F, E>(log_format: LogFormat, daemon: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    // Dropped when all is over.
    let _flush = match start_logging(log_format) {
        Ok(flush) => flush,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let shutdown = CancellationToken::new();
    let daemon = daemon(shutdown.clone());
    let outcome = on_runtime(async {
        // Before the first listener, so that no signal finds the default action.
        let signals = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        tokio::spawn(cancel_on_signal(signals, shutdown));
        Ok(daemon.await)
    });
    let problem = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(problem)) => problem.to_string(),
        Err(problem) => problem.to_string(),
    };
    // `eprintln!` would panic when nobody reads it.
    let _ = writeln!(io::stderr(), "popgate: {problem}");
    ExitCode::from(exit::OTHER)
}

/// What the system does not come back from, as a look-up of a name or a file on a disk that hangs, is left
/// behind.
fn on_runtime<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = Runtime::new()?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(BLOCKED_PATIENCE);
    outcome
}

async fn cancel_on_signal(signals: (Signal, Signal), shutdown: CancellationToken) {
    let (mut terminate, mut interrupt) = signals;
    for is_first in [true, false] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if is_first {
            info!("stopping; a second signal stops at once");
            shutdown.cancel();
        }
    }
    process::exit(i32::from(exit::OTHER));
}

/// To standard error, so that standard output is free for what was asked for.
fn start_logging(format: LogFormat) -> Result<Flush, String> {
    let wanted = env::var("POPGATE_LOG").unwrap_or_default();
    let wanted = match wanted.as_str() {
        "" => "info",
        wanted => wanted,
    };
    let filter = EnvFilter::builder().parse(wanted).map_err(|error| {
        format!("POPGATE_LOG: {wanted:?} is not a filter ({error}); write info")
    })?;
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    let (writer, flush) =
        LogWriter::to(io::stderr()).map_err(|error| format!("no thread for the log: {error}"))?;
    let panics = writer.clone();
    // The log may be a pipe that nobody empties, and a session that panics must end nevertheless.
    panic::set_hook(Box::new(move |panic| panics.put(told(panic).into_bytes())));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // It would complain on standard error, and panic where that is closed.
        .log_internal_errors(false)
        .with_ansi(colour);
    match format {
        LogFormat::Human => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(flush)
}

/// The summary, and of each upstream what it says itself.
fn check_online(config: &Config, login: Option<&str>) -> ExitCode {
    let credential = match login.map(check::credential).transpose() {
        Ok(credential) => credential,
        Err(problem) => {
            eprintln!("popgate: {problem}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let reports = on_runtime(check::online(config, credential));
    let reports = match reports {
        Ok(reports) => reports,
        Err(problem) => {
            eprintln!("popgate: {problem}");
            return ExitCode::from(exit::OTHER);
        }
    };
    print(check::summary(config));
    print(reports.text);
    match reports.worst {
        None => ExitCode::SUCCESS,
        Some(FailureKind::AuthRejected) => ExitCode::from(exit::REFUSED),
        Some(FailureKind::UpstreamUnreachable | FailureKind::UpstreamLost) => {
            ExitCode::from(exit::UNREACHABLE)
        }
        Some(_) => ExitCode::from(exit::OTHER),
    }
}

fn healthcheck(arguments: &ConfigFile) -> ExitCode {
    let file = config_file(arguments);
    let address = match config::admin_address(file.as_deref(), config::environment()) {
        Ok(Some(address)) => address,
        Ok(None) => {
            eprintln!("[admin] listen is off, so that there is nobody to ask");
            return ExitCode::from(exit::USAGE);
        }
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(exit::USAGE);
        }
    };
    match healthcheck::readyz(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("not ready: http://{address}/readyz: {problem}");
            ExitCode::from(exit::OTHER)
        }
    }
}

fn manual(command: Option<&str>) -> ExitCode {
    let mut overview = Cli::command();
    overview.build();
    let page = match command {
        None => overview,
        Some(name) => match overview.find_subcommand(name) {
            Some(command) => command.clone(),
            None => {
                eprintln!("popgate has no command {name:?}; see popgate --help");
                return ExitCode::from(exit::USAGE);
            }
        },
    };
    let mut roff = Vec::new();
    match clap_mangen::Man::new(page).render(&mut roff) {
        Ok(()) => print(roff),
        Err(error) => {
            eprintln!("popgate: {error}");
            ExitCode::from(exit::OTHER)
        }
    }
}

/// `println!` would panic when the reader, such as `head`, has gone.
fn print(output: impl AsRef<[u8]>) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(output.as_ref())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("popgate: {error}");
            ExitCode::from(exit::OTHER)
        }
    }
}

fn not_yet(command: &str) -> ExitCode {
    eprintln!("popgate {command} is not there yet in this version of popgate");
    ExitCode::from(exit::USAGE)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;

    /// What is told of this panic.
    fn told_of(panics: impl FnOnce() + panic::UnwindSafe) -> String {
        let here = thread::current().id();
        let heard = Arc::new(Mutex::new(String::new()));
        let hook = {
            let heard = heard.clone();
            move |panic: &panic::PanicHookInfo<'_>| {
                if thread::current().id() == here {
                    *heard.lock().expect("no panic within") = told(panic);
                }
            }
        };
        let before = panic::take_hook();
        panic::set_hook(Box::new(hook));
        let outcome = panic::catch_unwind(panics);
        panic::set_hook(before);
        assert!(outcome.is_err());
        let told = heard.lock().expect("no panic within");
        told.clone()
    }

    /// SECURITY.md A6, O5. All in one test, since a process has one hook.
    #[test]
    fn a_panic_tells_its_place_and_texts_of_ours() {
        let canary = "canary-4711";
        let refuse = || canary.strip_suffix("4711").map_or(Ok(()), |_| Err(canary));
        for told in [
            told_of(|| panic!("cannot log in with {canary}")),
            told_of(|| refuse().expect("a login")),
            told_of(|| panic::panic_any(canary.to_owned())),
        ] {
            assert!(!told.contains(canary), "{told}");
            assert!(told.contains("its reason is withheld"), "{told}");
            assert!(
                told.starts_with("popgate panicked at src/main.rs:"),
                "{told}"
            );
        }
        let told = told_of(|| panic!("a text of ours"));
        assert!(told.contains(": a text of ours; "), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}
