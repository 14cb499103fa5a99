//! Reads the merged settings into a [`Config`], section by section.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use globset::GlobMatcher;
use ipnet::IpNet;

use super::layers::{self, Flags};
use super::provider::Provider;
use super::report::{Problems, Report, nearest};
use super::section::Section;
use super::setting::Setting;
use super::{
    CleartextLogin, Config, Endpoint, EndpointSecurity, LISTING_CACHE_OCTETS, Limits, Listeners,
    Logins, MaildropSettings, PROBE_INTERVAL, Pop3, READ_AHEAD_OCTETS, Routes, SenderPolicy,
    Service, Timeouts, TraceSettings, Upstream, WARM_CONNECTIONS, endpoint, loopback, submission,
};
use crate::maildrop::DeletePolicy;
use crate::tls::{CertificateFiles, check_pair, private_key, read_certificates};

impl Config {
    /// Reads and checks everything: the defaults, over them the file, the variables of the
    /// environment that begin with `POPGATE__`, and the flags.
    ///
    /// # Errors
    ///
    /// All mistakes at once; also files that cannot be read, and a key that does not belong to its
    /// certificate.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Self, Problems> {
        let report = Report::new(file);
        let config = layers::merge(&report, environment, flags)
            .map(|tree| config(Section::root(&report, &tree)));
        report.conclude(config)
    }
}

/// Where a popgate with these settings serves `/readyz`, if it does; the rest is not looked at.
///
/// # Errors
///
/// As for [`Config::load`], but only for what hides the address.
pub fn admin_address(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Option<SocketAddr>, Problems> {
    let report = Report::new(file);
    let address = layers::merge(&report, environment, &Flags::default())
        .map(|tree| admin(Section::root(&report, &tree).section("admin")));
    report.conclude(address)
}

/// What is unusable is reported, and replaced by something that nobody will see.
fn config(mut root: Section<'_>) -> Config {
    let tls_section = root.section("tls");
    let has_tls = tls_section.is_some();
    let pop3 = pop3(root.section("pop3"), has_tls);
    let tls = tls_section.map(tls).unwrap_or_default();
    let admin = admin(root.section("admin"));
    let (cleartext_login, proxy_protocol_from) = security(root.section("security"));
    let timeouts = timeouts(root.section("timeouts"));
    let limits = limits(root.section("limits"));
    let read_ahead_octets = octets(root.section("read_ahead"), READ_AHEAD_OCTETS);
    let listing_cache_octets = octets(root.section("listing_cache"), LISTING_CACHE_OCTETS);
    state(root.section("state"));
    let trace = root.section("trace").and_then(trace);
    let maildrop = maildrop(root.section("maildrop"), &MaildropSettings::default());
    let mut smtp = root.section("smtp");
    let outer = Outer {
        maildrop,
        sender: submission::sender(smtp.as_mut()).unwrap_or_default(),
    };
    let (upstreams, routes) = upstreams_and_routes(&mut root, &outer);
    let smtp = submission::submission(smtp, has_tls, &upstreams, &routes);
    root.not_yet("account", "accounts are");
    root.finish();
    Config {
        pop3,
        smtp,
        admin,
        tls,
        proxy_protocol_from,
        cleartext_login,
        timeouts,
        limits,
        read_ahead_octets,
        listing_cache_octets,
        upstreams,
        routes,
        trace,
    }
}

fn pop3(section: Option<Section<'_>>, has_tls: bool) -> Pop3 {
    let defaults = Pop3 {
        listeners: Listeners {
            clear: vec![loopback(1110)],
            tls: Vec::from_iter(has_tls.then(|| loopback(1995))),
        },
        ..Pop3::default()
    };
    let Some(mut section) = section else {
        return defaults;
    };
    let pop3 = Pop3 {
        client_workarounds: section
            .list("client_workarounds", Setting::word)
            .unwrap_or_default(),
        logins: logins(&mut section),
        listeners: listeners(&mut section, has_tls, defaults.listeners),
    };
    section.finish();
    pop3
}

/// `listen` and `listen_tls`, which are as in `defaults` when neither is there.
pub(super) fn listeners(
    section: &mut Section<'_>,
    has_tls: bool,
    defaults: Listeners,
) -> Listeners {
    let clear = section.list("listen", Setting::address);
    let tls = section.list("listen_tls", Setting::address);
    let none_at =
        |key, list: &Option<Vec<_>>| !section.has(key) || matches!(list.as_deref(), Some([]));
    let no_clear = none_at("listen", &clear);
    let no_tls = none_at("listen_tls", &tls);
    if no_clear && no_tls && (clear.is_some() || tls.is_some()) {
        section.problem(
            "listen",
            "leaves nowhere to connect to; write an address, as in [\"127.0.0.1:1110\"]",
        );
    }
    if !has_tls && !no_tls {
        section.problem(
            "listen_tls",
            "needs a certificate; add [tls] with certificate and private_key",
        );
    }
    let listeners = match (clear, tls) {
        (None, None) => defaults,
        (clear, tls) => Listeners {
            clear: clear.unwrap_or_default(),
            tls: tls.unwrap_or_default(),
        },
    };
    refuse_duplicates(section, &listeners);
    listeners
}

fn logins(section: &mut Section<'_>) -> Logins {
    Logins {
        delimiters: section
            .take("login_delimiters", Setting::delimiters)
            .unwrap_or_default(),
        delay: section
            .take("login_delay", Setting::duration_or_none)
            .unwrap_or_default(),
    }
}

/// Port 0 is a different one each time.
fn refuse_duplicates(section: &Section<'_>, listeners: &Listeners) {
    let clear = listeners.clear.iter().map(|address| (address, "listen"));
    let tls = listeners.tls.iter().map(|address| (address, "listen_tls"));
    let mut addresses: Vec<_> = clear.chain(tls).collect();
    addresses.sort();
    for pair in addresses.windows(2) {
        let [(one, _), (other, key)] = pair else {
            continue;
        };
        if one == other && one.port() != 0 {
            section.problem(key, &format!("\"{other}\" is there twice; remove one"));
        }
    }
}

/// The pair of `[tls]` itself, and behind it those of `[[tls.certificates]]`.
fn tls(mut section: Section<'_>) -> Vec<CertificateFiles> {
    let others = section.tables("certificates");
    let has_own = section.has("certificate") || section.has("private_key");
    let own = match others.is_empty() || has_own {
        true => certificate_files(section),
        false => {
            section.finish();
            None
        }
    };
    let others = others.into_iter().filter_map(certificate_files);
    own.into_iter().chain(others).collect()
}

fn certificate_files(mut section: Section<'_>) -> Option<CertificateFiles> {
    let certificate = section.take("certificate", |setting| {
        let path = setting.path()?;
        Ok((read_certificates(&path)?, path))
    });
    let key = section.take("private_key", |setting| {
        let path = setting.path()?;
        Ok((private_key(&path)?, path))
    });
    for key in ["certificate", "private_key"] {
        if !section.has(key) {
            section.problem(key, "is missing; write the path of a PEM file");
        }
    }
    let files = certificate
        .zip(key)
        .map(|((chain, certificate), (key, private_key))| {
            if let Err(what) = check_pair(chain, key) {
                section.problem("private_key", &what);
            }
            CertificateFiles {
                certificate,
                private_key,
            }
        });
    section.finish();
    files
}

fn admin(section: Option<Section<'_>>) -> Option<SocketAddr> {
    let default = Some(loopback(9110));
    let Some(mut section) = section else {
        return default;
    };
    let listen = section.take("listen", |setting| match setting.text()? {
        "" | "off" => Ok(None),
        _ => setting.address().map(Some),
    });
    section.finish();
    listen.unwrap_or(default)
}

/// Octets of the file, unless another limit is set.
const TRACE_OCTETS_MAX: u64 = 1024 * 1024;

fn trace(mut section: Section<'_>) -> Option<TraceSettings> {
    let login = section.take("login", |setting| Ok(setting.text()?.to_owned()));
    let file = section.take("file", Setting::path);
    let octets_max = section.take("octets", Setting::octets);
    for (key, is_missing) in [
        ("login", !section.has("login")),
        ("file", !section.has("file")),
    ] {
        if is_missing {
            section.problem(key, "is missing; a trace has a login and a file");
        }
    }
    section.finish();
    Some(TraceSettings {
        login: login?,
        file: file?,
        octets_max: octets_max.unwrap_or(TRACE_OCTETS_MAX),
    })
}

/// `cleartext_login` and `proxy_protocol_from`
fn security(section: Option<Section<'_>>) -> (CleartextLogin, Vec<IpNet>) {
    let Some(mut section) = section else {
        return (CleartextLogin::default(), Vec::new());
    };
    let login = cleartext_login(&mut section);
    let proxies = section.list("proxy_protocol_from", Setting::network);
    section.finish();
    (login, proxies.unwrap_or_default())
}

fn cleartext_login(section: &mut Section<'_>) -> CleartextLogin {
    const KEY: &str = "cleartext_login";
    let login = match section.is_list(KEY) {
        true => section
            .list(KEY, Setting::network)
            .map(CleartextLogin::From),
        false => section.take(KEY, |setting| {
            setting.word().map_err(|what| match setting.network() {
                Ok(network) => format!("\"{network}\" is not a list; write [\"{network}\"]"),
                Err(_) => what,
            })
        }),
    };
    login.unwrap_or_default()
}

fn timeouts(section: Option<Section<'_>>) -> Timeouts {
    let defaults = Timeouts::default();
    let Some(mut section) = section else {
        return defaults;
    };
    let mut duration = |key, default| section.take(key, Setting::duration).unwrap_or(default);
    let timeouts = Timeouts {
        login: duration("login", defaults.login),
        idle: duration("idle", defaults.idle),
        upstream: duration("upstream", defaults.upstream),
        drain: duration("drain", defaults.drain),
        shutdown_delay: section
            .take("shutdown_delay", Setting::duration_or_none)
            .unwrap_or(defaults.shutdown_delay),
    };
    section.finish();
    timeouts
}

fn limits(section: Option<Section<'_>>) -> Limits {
    let defaults = Limits::default();
    let Some(mut section) = section else {
        return defaults;
    };
    let message_octets = section.take("message_octets", |setting| match setting.octets()? {
        0 => Err("lets no message through; write a size like \"150MiB\"".to_owned()),
        octets => Ok(octets),
    });
    let mut count = |key, default| section.take(key, Setting::count).unwrap_or(default);
    let limits = Limits {
        connections: count("connections", defaults.connections),
        connections_per_address: count("connections_per_address", defaults.connections_per_address),
        upstream_connections_per_account: count(
            "upstream_connections_per_account",
            defaults.upstream_connections_per_account,
        ),
        message_octets: message_octets.unwrap_or(defaults.message_octets),
        recipients: count("recipients", defaults.recipients),
        spool_octets: (section.take("spool_octets", Setting::octets))
            .unwrap_or(defaults.spool_octets),
    };
    section.finish();
    limits
}

/// `[read_ahead]` and `[listing_cache]` have this one key.
fn octets(section: Option<Section<'_>>, default: u64) -> u64 {
    let Some(mut section) = section else {
        return default;
    };
    let octets = section.take("octets", Setting::octets);
    section.finish();
    octets.unwrap_or(default)
}

fn state(section: Option<Section<'_>>) {
    let Some(mut section) = section else {
        return;
    };
    section.take("url", |setting| match setting.text()? {
        "memory:" => Ok(()),
        // Not repeated: it may contain the password of a database.
        _ => Err(
            "a state store is not there yet in this version of popgate, nothing outlives a \
                  restart; write \"memory:\""
                .to_owned(),
        ),
    });
    section.finish();
}

/// What the section does not say is as in `outer`.
fn maildrop(section: Option<Section<'_>>, outer: &MaildropSettings) -> MaildropSettings {
    let Some(mut section) = section else {
        return outer.clone();
    };
    let on_delete = |setting: &Setting| match setting.parsed()? {
        DeletePolicy::Move(folder) if folder.contains(char::is_control) => Err(format!(
            "{folder:?} contains a control character; write the folder's name"
        )),
        policy => Ok(policy),
    };
    let settings = MaildropSettings {
        folder: (section.take("folder", Setting::folder)).unwrap_or_else(|| outer.folder.clone()),
        on_delete: (section.take("on_delete", on_delete))
            .unwrap_or_else(|| outer.on_delete.clone()),
        mark_seen: (section.take("mark_seen", Setting::word)).unwrap_or(outer.mark_seen),
        unique_id: (section.take("unique_id", Setting::parsed)).unwrap_or(outer.unique_id),
        sessions: (section.take("sessions", Setting::word)).unwrap_or(outer.sessions),
        newest_messages: (section.take("newest_messages", Setting::messages))
            .unwrap_or(outer.newest_messages),
    };
    section.finish();
    settings
}

/// What holds for every upstream that does not say otherwise.
struct Outer {
    maildrop: MaildropSettings,
    sender: SenderPolicy,
}

/// The `[upstream.NAME]`s by name; `None` are those with mistakes, which routes may name all the same.
type Declared = BTreeMap<String, Option<Arc<Upstream>>>;

fn upstreams_and_routes(root: &mut Section<'_>, outer: &Outer) -> (Vec<Arc<Upstream>>, Routes) {
    let sections = match root.section("upstream") {
        Some(mut section) => section.named_sections(),
        // Is there, but no section: that is reported already.
        None if root.has("upstream") => return (Vec::new(), Routes::default()),
        None => Vec::new(),
    };
    if sections.is_empty() {
        root.problem_of_all(
            "no upstream to connect to; add [upstream.default] with imap = \"imaps://HOST\" \
             to the config file, or give --upstream imaps://HOST",
        );
    }
    if !root.has("route") && !sections.iter().any(|(name, _)| name == "default") {
        for (_, section) in &sections {
            section.problem_of_all("gets no login; call it [upstream.default] or add a [[route]]");
        }
    }
    let mut declared = Declared::new();
    for (name, section) in sections {
        let upstream = upstream(&name, section, outer).map(Arc::new);
        declared.insert(name, upstream);
    }
    let routes = Routes {
        routes: (root.tables("route").into_iter())
            .filter_map(|section| route(section, &declared))
            .collect(),
        default: declared.get("default").cloned().flatten(),
    };
    (declared.into_values().flatten().collect(), routes)
}

fn upstream(name: &str, mut section: Section<'_>, outer: &Outer) -> Option<Upstream> {
    // A label in metrics, and what a variable can name.
    if name.is_empty()
        || !name
            .bytes()
            .all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    {
        section.problem_of_all("is not a name for an upstream; write it with a-z, 0-9, - and _");
    }
    let provider = section.take("provider", Setting::word::<Provider>);
    let (imap, smtp) = endpoints_of(&mut section, provider);
    let sender = submission::sender(Some(&mut section)).unwrap_or_else(|| outer.sender.clone());
    let ca_file = section.take("ca_file", |setting| {
        let path = setting.path()?;
        read_certificates(&path).map(|_| path)
    });
    let mut quirks = provider.map(Provider::quirks).unwrap_or_default();
    if let Some(pipelining) = section.take("pipelining", Setting::switch) {
        quirks.one_command_at_a_time = !pipelining;
    }
    let warm_connections = section.take("warm_connections", Setting::warm_connections);
    let probe_interval = section.take("probe_interval", Setting::duration_or_none);
    let maildrop = maildrop(section.section("maildrop"), &outer.maildrop);
    section.finish();
    Some(Upstream {
        name: name.into(),
        imap: imap?,
        smtp,
        sender,
        ca_file,
        quirks,
        warm_connections: warm_connections
            .or_else(|| provider.map(Provider::warm_connections))
            .unwrap_or(WARM_CONNECTIONS),
        probe_interval: Some(probe_interval.unwrap_or(PROBE_INTERVAL))
            .filter(|interval| !interval.is_zero()),
        maildrop,
    })
}

/// `imap` and `smtp`, or else the provider's.
fn endpoints_of(
    section: &mut Section<'_>,
    provider: Option<Provider>,
) -> (Option<Endpoint>, Option<Endpoint>) {
    let allow_cleartext = section
        .take("allow_cleartext", Setting::switch)
        .unwrap_or(false);
    let mut take = |key, service| {
        let taken = section.take(key, |setting| endpoint::endpoint(setting.text()?, service));
        if let Some(endpoint) = &taken
            && endpoint.security == EndpointSecurity::Clear
            && !endpoint.is_loopback()
            && !allow_cleartext
        {
            section.problem(
                key,
                &format!(
                    "\"{endpoint}\" would carry passwords readable over the network; write {key}s:// \
                     or {key}+starttls://, or set allow_cleartext = true"
                ),
            );
        }
        taken
    };
    let imap = take("imap", Service::Imap);
    let smtp = take("smtp", Service::Submission);
    if !section.has("imap") && !section.has("provider") {
        section.problem(
            "imap",
            "is missing; write imap = \"imaps://HOST\", or set provider",
        );
    }
    (
        imap.or_else(|| provider.map(Provider::imap)),
        smtp.or_else(|| provider.map(Provider::submission)),
    )
}

fn route(mut section: Section<'_>, declared: &Declared) -> Option<(GlobMatcher, Arc<Upstream>)> {
    let login = section.take("login", Setting::glob);
    let upstream = section.take("upstream", |setting| {
        let name = setting.text()?;
        declared.get(name).cloned().ok_or_else(|| {
            let names: Vec<_> = declared.keys().map(String::as_str).collect();
            match nearest(name, &names) {
                Some(meant) => format!("there is no [upstream.{name}]; did you mean {meant:?}?"),
                None => format!(
                    "there is no [upstream.{name}]; there are: {}",
                    names.join(", ")
                ),
            }
        })
    });
    for (key, remedy) in [
        (
            "login",
            "is missing; write a pattern like \"*@example.org\"",
        ),
        (
            "upstream",
            "is missing; write the NAME of an [upstream.NAME]",
        ),
    ] {
        if !section.has(key) {
            section.problem(key, remedy);
        }
    }
    section.finish();
    login.zip(upstream.flatten())
}
