//! `popgate check`: what settings mean, for the eyes of their author.

use std::fmt::{self, Write};
use std::io;

use ipnet::IpNet;
use popgate::config::{CleartextLogin, Config, Upstream};
use popgate::failure::FailureKind;
use popgate::maildrop::DeletePolicy;
use popgate::sasl::Credential;
use popgate::secret::Secret;
use popgate::session::survey::{survey, survey_submission};
use popgate::upstream::TcpDialer;
use tokio_util::sync::CancellationToken;

/// What the upstreams said.
pub(crate) struct Reports {
    /// For a person.
    pub(crate) text: String,
    /// What kept the last of them from answering, if anything did.
    pub(crate) worst: Option<FailureKind>,
}

/// The login with a password from standard input, where no other process can read it.
pub(crate) fn credential(login: &str) -> Result<Credential, String> {
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .map_err(|error| format!("no password on standard input: {error}"))?;
    let password = line.trim_end_matches(['\r', '\n']).as_bytes().to_vec();
    Credential::password(login.as_bytes(), Secret::new(password))
        .map_err(|_| "that cannot be a login and a password".to_owned())
}

/// Asks each upstream, or, with a login, the one that it goes to.
pub(crate) async fn online(config: &Config, credential: Option<Credential>) -> io::Result<Reports> {
    let gateway = popgate::gateway(
        config,
        std::sync::Arc::new(TcpDialer),
        CancellationToken::new(),
    )?;
    let as_meant =
        |typed: Credential| typed.with_at_sign(|login| gateway.accounts.delimiter(login));
    let credential = credential.map(as_meant);
    let credential = credential.as_ref();
    let upstreams: Vec<_> = match credential {
        Some(credential) => vec![
            gateway
                .accounts
                .upstream(credential.login())
                .map_err(io::Error::other)?,
        ],
        None => gateway.accounts.upstreams().collect(),
    };
    let mut reports = Reports {
        text: String::new(),
        worst: None,
    };
    for upstream in upstreams {
        let name = &upstream.settings().name;
        let _ = writeln!(reports.text, "upstream {name}, online:");
        let hostname = &config.smtp.hostname;
        let mailbox = survey(upstream, credential).await;
        let submission = match upstream.settings().smtp {
            Some(_) => survey_submission(upstream, credential, hostname).await,
            None => Ok(String::new()),
        };
        for report in [mailbox, submission] {
            match report {
                Ok(report) => reports.text.push_str(&report),
                Err(failure) => {
                    let _ = writeln!(reports.text, "  {failure}");
                    reports.worst = Some(failure.kind);
                }
            }
        }
    }
    Ok(reports)
}

/// Who listens where, and where what goes, a line each.
pub(crate) fn summary(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(config, &mut text);
    text
}

fn write(config: &Config, text: &mut String) -> fmt::Result {
    let upgrade = match config.tls.is_empty() {
        false => "clear text or STLS",
        true => "clear text",
    };
    let login = cleartext_login(&config.cleartext_login);
    for address in &config.pop3.listeners.clear {
        writeln!(
            text,
            "pop3 {address}: {upgrade}, passwords in clear text {login}"
        )?;
    }
    for address in &config.pop3.listeners.tls {
        writeln!(text, "pop3 {address}: TLS")?;
    }
    let upgrade = match config.tls.is_empty() {
        false => "clear text or STARTTLS",
        true => "clear text",
    };
    for address in &config.smtp.listeners.clear {
        writeln!(
            text,
            "smtp {address}: {upgrade}, passwords in clear text {login}"
        )?;
    }
    for address in &config.smtp.listeners.tls {
        writeln!(text, "smtp {address}: TLS")?;
    }
    if let Some(unauthenticated) = &config.smtp.unauthenticated {
        let networks = listed(&unauthenticated.networks);
        let login = unauthenticated.credential.login().escape_ascii();
        writeln!(text, "smtp from {networks}: no login, sent as {login}")?;
    }
    if !config.proxy_protocol_from.is_empty() {
        let networks = listed(&config.proxy_protocol_from);
        writeln!(
            text,
            "from {networks}: a PROXY header tells the client's address"
        )?;
    }
    match config.admin {
        Some(address) => writeln!(text, "admin {address}: /metrics /livez /readyz")?,
        None => writeln!(text, "admin: off")?,
    }
    for upstream in &config.upstreams {
        writeln!(text, "upstream {}: {}", upstream.name, described(upstream))?;
    }
    for (login, upstream) in config.routes.iter() {
        writeln!(text, "login {login} goes to upstream {}", upstream.name)?;
    }
    match config.routes.fallback() {
        Some(upstream) => writeln!(text, "every other login goes to upstream {}", upstream.name),
        None => writeln!(text, "every other login is refused"),
    }
}

fn cleartext_login(who: &CleartextLogin) -> String {
    match who {
        CleartextLogin::Never => "from nobody".to_owned(),
        CleartextLogin::Loopback => "from this machine only".to_owned(),
        CleartextLogin::Always => "from everybody".to_owned(),
        CleartextLogin::From(networks) => format!("from {} only", listed(networks)),
    }
}

fn listed(networks: &[IpNet]) -> String {
    let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
    networks.join(", ")
}

fn described(upstream: &Upstream) -> String {
    let deleted = match &upstream.maildrop.on_delete {
        DeletePolicy::Expunge => "are removed for good".to_owned(),
        DeletePolicy::Trash => "go to the trash".to_owned(),
        DeletePolicy::Archive => "go to the archive".to_owned(),
        DeletePolicy::Flag => "are marked as deleted".to_owned(),
        DeletePolicy::Keep => "stay".to_owned(),
        DeletePolicy::Move(folder) => format!("go to {folder}"),
    };
    let folder = &upstream.maildrop.folder;
    let sends = match &upstream.smtp {
        Some(smtp) => format!(", sends through {smtp}"),
        None => String::new(),
    };
    format!(
        "{}, folder {folder}, deleted messages {deleted}{sends}",
        upstream.imap
    )
}
