//! `popgate check`: what settings mean, for the eyes of their author.

use std::fmt::{self, Write};

use popgate::config::{CleartextLogin, Config, Upstream};
use popgate::maildrop::DeletePolicy;

/// Who listens where, and where what goes, a line each.
pub(crate) fn summary(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(config, &mut text);
    text
}

fn write(config: &Config, text: &mut String) -> fmt::Result {
    let upgrade = match config.tls {
        Some(_) => "clear text or STLS",
        None => "clear text",
    };
    let login = cleartext_login(&config.cleartext_login);
    for address in &config.pop3.clear {
        writeln!(
            text,
            "pop3 {address}: {upgrade}, passwords in clear text {login}"
        )?;
    }
    for address in &config.pop3.tls {
        writeln!(text, "pop3 {address}: TLS")?;
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
        CleartextLogin::From(networks) => {
            let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
            format!("from {} only", networks.join(", "))
        }
    }
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
    format!(
        "{}, folder {folder}, deleted messages {deleted}",
        upstream.imap
    )
}
