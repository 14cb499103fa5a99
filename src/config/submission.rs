//! `[smtp]`, and `sender` of an upstream: how mail is sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs};

use globset::GlobMatcher;
use ipnet::IpNet;
use serde::Deserialize;

use super::load::listeners;
use super::section::Section;
use super::setting::Setting;
use super::{Listeners, Routes, Upstream, loopback};
use crate::sasl::Credential;
use crate::secret::Secret;

/// `[smtp]`
#[derive(Debug, Clone)]
pub struct Submission {
    /// Where clients connect; nowhere, if no upstream sends mail.
    pub listeners: Listeners,
    /// How popgate calls itself: in its greeting, to upstreams, and in Received lines.
    pub hostname: String,
    /// Whether a message gets a Received line.
    pub received: bool,
    /// What becomes of line ends that are none.
    pub bare_newlines: BareNewlines,
    /// Whether sent mail is put into the account's folder of sent mail.
    pub sent_copy: SentCopy,
    /// Where a message waits for that, in a file without a name.
    pub spool_folder: PathBuf,
    /// Who may send without logging in, if anybody may.
    pub unauthenticated: Option<Arc<Unauthenticated>>,
}

/// A valid name that nobody has (RFC 6761 §6.3): what a machine is called is nobody else's business.
const HOSTNAME: &str = "popgate.localdomain";

impl Default for Submission {
    fn default() -> Self {
        Self {
            listeners: Listeners::default(),
            hostname: HOSTNAME.to_owned(),
            received: true,
            bare_newlines: BareNewlines::Normalize,
            sent_copy: SentCopy::Auto,
            spool_folder: env::temp_dir(),
            unauthenticated: None,
        }
    }
}

/// What becomes of a CR or LF that is not part of CRLF. It is never passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BareNewlines {
    /// LF becomes CRLF, CR becomes a blank.
    Normalize,
    /// The message is refused.
    Refuse,
}

/// Whether sent mail is put into the account's folder of sent mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SentCopy {
    /// Where the provider does not do that itself.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// As whom an account may send: what MAIL may say. `<>`, which reports what happened to others' mail,
/// is always permitted (RFC 5321 §6.1).
#[derive(Debug, Clone, Default)]
pub enum SenderPolicy {
    /// As anybody, as far as the upstream permits it.
    #[default]
    Any,
    /// As the owner of the mailbox, mostly its login: as that, or, if it is no address, with it before the `@`.
    Login,
    /// As these addresses.
    Addresses(Vec<GlobMatcher>),
}

/// By the globs as they were written.
impl PartialEq for SenderPolicy {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) | (Self::Login, Self::Login) => true,
            (Self::Addresses(one), Self::Addresses(other)) => {
                let written = |globs: &[GlobMatcher]| -> Vec<_> {
                    globs.iter().map(|glob| glob.glob().clone()).collect()
                };
                written(one) == written(other)
            }
            _ => false,
        }
    }
}

impl Eq for SenderPolicy {}

impl SenderPolicy {
    /// Whether who opens the mailbox of this owner may send as `address`.
    pub fn permits(&self, address: &[u8], owner: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Login if owner.contains(&b'@') => address.eq_ignore_ascii_case(owner),
            Self::Login => memchr::memrchr(b'@', address)
                .is_some_and(|at| address[..at].eq_ignore_ascii_case(owner)),
            Self::Addresses(globs) => std::str::from_utf8(address)
                .is_ok_and(|address| globs.iter().any(|glob| glob.is_match(address))),
        }
    }
}

/// `[smtp.unauthenticated]`
#[derive(Debug)]
pub struct Unauthenticated {
    /// From where.
    pub networks: Vec<IpNet>,
    /// With what they are logged in at the upstream.
    pub credential: Credential,
}

/// `sender`, of `[smtp]` or of an upstream.
pub(super) fn sender(section: Option<&mut Section<'_>>) -> Option<SenderPolicy> {
    const KEY: &str = "sender";
    let section = section?;
    match section.is_list(KEY) {
        true => section
            .list(KEY, Setting::glob)
            .map(SenderPolicy::Addresses),
        false => section.take(KEY, |setting| match setting.text()? {
            "any" => Ok(SenderPolicy::Any),
            "login" => Ok(SenderPolicy::Login),
            other => Err(format!(
                "{other:?} is neither \"any\" nor \"login\"; write addresses as a list, as in \
                 [\"*@example.org\"]"
            )),
        }),
    }
}

/// The rest of `[smtp]`. Clients can connect as soon as there is an upstream that sends.
pub(super) fn submission(
    section: Option<Section<'_>>,
    has_tls: bool,
    upstreams: &[Arc<Upstream>],
    routes: &Routes,
) -> Submission {
    let defaults = Submission::default();
    let has_upstream = upstreams.iter().any(|upstream| upstream.smtp.is_some());
    let addresses = match has_upstream {
        true => Listeners {
            clear: vec![loopback(1587)],
            tls: Vec::from_iter(has_tls.then(|| loopback(1465))),
        },
        false => Listeners::default(),
    };
    let Some(mut section) = section else {
        return Submission {
            listeners: addresses,
            ..defaults
        };
    };
    let listeners = listeners(&mut section, has_tls, addresses);
    if !has_upstream && !upstreams.is_empty() {
        section.problem_of_all(
            "has no upstream that sends mail; add smtp = \"smtps://HOST\" to an [upstream.NAME], or \
             --submission smtps://HOST",
        );
    }
    let submission = Submission {
        listeners,
        hostname: (section.take("hostname", hostname)).unwrap_or(defaults.hostname),
        received: (section.take("received", Setting::switch)).unwrap_or(defaults.received),
        bare_newlines: (section.take("bare_newlines", Setting::word))
            .unwrap_or(defaults.bare_newlines),
        sent_copy: (section.take("sent_copy", Setting::word)).unwrap_or(defaults.sent_copy),
        spool_folder: (section.take("spool_folder", Setting::path))
            .unwrap_or(defaults.spool_folder),
        unauthenticated: (section.section("unauthenticated"))
            .and_then(|section| unauthenticated(section, routes))
            .map(Arc::new),
    };
    section.finish();
    submission
}

fn hostname(setting: &Setting) -> Result<String, String> {
    let text = setting.text()?;
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    match text.len() <= 255 && text.split('.').all(is_part) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is no name of a host; write it like \"mail.example.org\""
        )),
    }
}

fn unauthenticated(mut section: Section<'_>, routes: &Routes) -> Option<Unauthenticated> {
    let networks = section.list("networks", Setting::network);
    let login = section.take("login", |setting| {
        let login = setting.text()?;
        match routes.upstream(login).is_some_and(|it| it.smtp.is_some()) {
            true => Ok(login.to_owned()),
            false => Err(format!("{login:?} has no upstream that sends mail")),
        }
    });
    let password = section.take("password_file", |setting| {
        let path = setting.path()?;
        let text = fs::read(&path).map_err(|error| format!("{path:?} cannot be read: {error}"))?;
        let password = text.trim_ascii_end().to_vec();
        match password.is_empty() {
            true => Err(format!("{path:?} is empty; write the password into it")),
            false => Ok(Secret::new(password)),
        }
    });
    for (key, remedy) in [
        (
            "networks",
            "is missing; write a list like [\"192.168.7.0/24\"]",
        ),
        ("login", "is missing; write the login that they send with"),
        (
            "password_file",
            "is missing; write the path of a file with the password",
        ),
    ] {
        if !section.has(key) {
            section.problem(key, remedy);
        }
    }
    let credential = login.zip(password).and_then(|(login, password)| {
        let credential = Credential::password(login.as_bytes(), password).ok();
        if credential.is_none() {
            section.problem("login", "and the password cannot be those of anybody");
        }
        credential
    });
    section.finish();
    Some(Unauthenticated {
        networks: networks?,
        credential: credential?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> GlobMatcher {
        let glob = globset::GlobBuilder::new(text)
            .case_insensitive(true)
            .build();
        glob.expect(text).compile_matcher()
    }

    #[test]
    fn senders() {
        let addresses = SenderPolicy::Addresses(vec![glob("*@example.org"), glob("ann@a.example")]);
        for (policy, address, login, expected) in [
            (&SenderPolicy::Any, "x@y", "joe", true),
            (
                &SenderPolicy::Login,
                "Joe@Example.org",
                "joe@example.org",
                true,
            ),
            (
                &SenderPolicy::Login,
                "joe@example.com",
                "joe@example.org",
                false,
            ),
            (&SenderPolicy::Login, "joe@any.example", "joe", true),
            (&SenderPolicy::Login, "joey@any.example", "joe", false),
            (&SenderPolicy::Login, "joe", "joe", false),
            (&addresses, "whoever@EXAMPLE.org", "joe", true),
            (&addresses, "ann@a.example", "joe", true),
            (&addresses, "ann@a.example.com", "joe", false),
        ] {
            let permits = policy.permits(address.as_bytes(), login.as_bytes());
            assert_eq!(permits, expected, "{address} {login}");
        }
    }
}
