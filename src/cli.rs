//! The command line: its grammar and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 2 configuration or usage, 3 upstream unreachable, 4 credentials refused, \
1 anything else.

POPGATE_LOG says what is logged: error, warn, info (the default), debug, trace, or by module as in \
popgate=debug.";

/// POP3 and submission for old clients on modern mail providers.
///
/// popgate is a reverse proxy that translates: POP3 clients in front, an IMAP server behind; and it
/// relays what clients send, message by message, to the provider's submission server. A login and its
/// password go to the upstream as they are.
///
/// Begin with `popgate demo`, which needs nothing, or with
/// `popgate serve --upstream imaps://imap.example.com`.
#[derive(Debug, Parser)]
#[command(name = "popgate", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// How the log on standard error looks.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line of text for each event, in colour on a terminal.
    Human,
    /// An object of JSON for each event, one a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try it: a sample mailbox and the proxy in front of it, all on this machine.
    ///
    /// Starts a small sample IMAP and submission server with a few messages and the real proxy in front
    /// of it, over real sockets on loopback. It needs no config, no privileges and no network, keeps nothing,
    /// and accepts the user demo with the password demo. It prints commands to copy.
    Demo(Demo),

    /// Run the daemon.
    ///
    /// Settings come from the config file, over it from environment variables, and over both from
    /// the flags below; the flags alone are enough for one upstream. The variable
    /// POPGATE__SECTION__KEY stands for KEY in [SECTION], as in POPGATE__UPSTREAM__DEFAULT__IMAP;
    /// a list in a variable is separated by commas.
    ///
    /// SIGTERM and SIGINT end it in an orderly way: sessions get the time that [timeouts] drain says.
    /// A second signal ends it at once.
    Serve(Serve),

    /// Check the settings and say what they mean.
    ///
    /// Reads the config file and the environment as `serve` does. Every mistake is a line on
    /// standard error with the file, the line, the key and what would be right; the exit code is
    /// then 2.
    Check(Check),

    /// Ask the popgate on this machine whether it is ready.
    ///
    /// Requests /readyz at the address of [admin] listen, read from the same config file and
    /// environment as `serve` does. Exits with 0 if popgate is ready and with 1 if not. Made for
    /// probes in images that have no shell.
    Healthcheck(ConfigFile),

    /// Print a completion script for a shell.
    ///
    /// For bash: popgate completions bash > /etc/bash_completion.d/popgate
    Completions {
        /// The shell.
        shell: Shell,
    },

    /// Print the manual in roff, for man.
    ///
    /// To read it: popgate man | man -l -
    Man {
        /// The command whose page to print; without it, the overview.
        command: Option<String>,
    },

    /// Accounts that popgate keeps itself.
    #[command(hide = true)]
    Account(NotYet),

    /// OAuth2 consent for an account, in a terminal.
    #[command(hide = true)]
    Connect(NotYet),
}

/// Submission is 477 above POP3, and that must be a port too.
const PORT_BASE_MAX: i64 = u16::MAX as i64 - 477;

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The port of POP3; that of submission is 477 above it, the admin port 70.
    #[arg(
        long, value_name = "PORT", default_value_t = 2110,
        value_parser = clap::value_parser!(u16).range(1..=PORT_BASE_MAX),
    )]
    pub(crate) port_base: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// The IMAP server: imaps://HOST[:PORT], imap+starttls://HOST[:PORT] or, to this machine only, imap://HOST[:PORT].
    ///
    /// Sets imap of [upstream.default].
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,

    /// The submission server: smtps://HOST[:PORT], smtp+starttls://HOST[:PORT] or, to this machine only, smtp://HOST[:PORT].
    ///
    /// Sets smtp of [upstream.default].
    #[arg(long, value_name = "URL")]
    pub(crate) submission: Option<String>,

    /// Where POP3 clients connect, as in 127.0.0.1:1110; may be repeated.
    ///
    /// Replaces [pop3] listen.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) config: ConfigFile,

    /// Also connect to each upstream and say which promises hold there.
    ///
    /// Exits with 3 if an upstream cannot be reached.
    #[arg(long)]
    pub(crate) online: bool,

    /// With --online: log in as this user, at the upstream that it goes to; nothing is changed there.
    ///
    /// The password is the first line of standard input. Exits with 4 if it is refused.
    #[arg(long, value_name = "LOGIN", requires = "online")]
    pub(crate) login: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The config file; without it popgate.toml in the current folder, if there is one.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct NotYet {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}
