//! The settings from the outside: what is accepted, what it means, and what is said of mistakes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use popgate::config::{
    BareNewlines, CleartextLogin, Config, EndpointSecurity, Flags, MarkSeen, Problems,
    SenderPolicy, SentCopy, Sessions, admin_address,
};
use popgate::maildrop::{DeletePolicy, UniqueIdFormat};
use tempfile::TempDir;

const UPSTREAM: &str = "[upstream.default]\nimap = \"imaps://imap.example.com\"\n";

/// A folder with a `popgate.toml`, and beside it a certificate, its key and another key.
struct Folder(TempDir);

impl Folder {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("popgate.toml"), config).expect("written");
        Self(folder)
    }

    fn with_certificates(self) -> Self {
        let one =
            rcgen::generate_simple_self_signed(["one.example".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["other.example".to_owned()])
            .expect("a certificate");
        for (name, text) in [
            ("tls.crt", one.cert.pem()),
            ("tls.key", one.signing_key.serialize_pem()),
            ("other.key", other.signing_key.serialize_pem()),
            ("empty.pem", String::new()),
        ] {
            fs::write(self.path().join(name), text).expect("written");
        }
        self
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn load(&self, variables: &[(&str, &str)], flags: &Flags) -> Result<Config, Problems> {
        Config::load(
            Some(&self.path().join("popgate.toml")),
            environment(variables),
            flags,
        )
    }

    /// What is wrong, with the folder's name left out.
    fn problems(&self, variables: &[(&str, &str)], flags: &Flags) -> Vec<String> {
        lines(
            self.load(variables, flags),
            &format!("{}/", self.path().display()),
        )
    }
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    variables.iter().map(owned).collect()
}

fn lines(loaded: Result<Config, Problems>, left_out: &str) -> Vec<String> {
    match loaded {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .lines()
            .iter()
            .map(|line| line.replace(left_out, ""))
            .collect(),
    }
}

/// The config with an upstream in front of it has just these mistakes.
#[track_caller]
fn check_after_upstream(config: &str, expected: &[&str]) {
    check(&format!("{UPSTREAM}{config}"), expected);
}

#[track_caller]
fn check(config: &str, expected: &[&str]) {
    let folder = Folder::new(config).with_certificates();
    assert_eq!(
        folder.problems(&[], &Flags::default()),
        expected,
        "{config}"
    );
}

#[test]
fn one_upstream_is_enough() {
    let config = Folder::new(UPSTREAM)
        .load(&[], &Flags::default())
        .expect("sound");
    assert_eq!(
        config.pop3.listeners.clear,
        ["127.0.0.1:1110".parse().expect("an address")]
    );
    assert_eq!(config.pop3.listeners.tls, []);
    assert_eq!(config.pop3.logins.delimiters, b"");
    assert_eq!(config.pop3.logins.delay, Duration::ZERO);
    assert_eq!(
        config.admin,
        Some("127.0.0.1:9110".parse().expect("an address"))
    );
    assert!(matches!(config.cleartext_login, CleartextLogin::Loopback));
    assert_eq!(config.timeouts.idle, Duration::from_secs(600));
    assert_eq!(config.limits.connections, 10_000);
    let upstream = config.routes.upstream("anybody").expect("the default");
    assert_eq!(&*upstream.name, "default");
    assert_eq!(upstream.imap.to_string(), "imaps://imap.example.com:993");
    assert_eq!(upstream.smtp, None);
    assert_eq!(config.smtp.listeners.clear, [], "nobody sends mail");
    assert_eq!(config.limits.message_octets, 150 * 1024 * 1024);
    assert_eq!(config.limits.recipients, 1000);
    assert_eq!(config.limits.spool_octets, 1 << 30);
}

#[test]
fn submission_is_there_as_soon_as_an_upstream_sends_mail() {
    let folder = Folder::new(&format!("{UPSTREAM}smtp = \"smtps://smtp.example.com\"\n"));
    let config = folder.load(&[], &Flags::default()).expect("sound");
    assert_eq!(
        config.smtp.listeners.clear,
        ["127.0.0.1:1587".parse().expect("an address")]
    );
    assert_eq!(config.smtp.listeners.tls, []);
    assert!(config.smtp.received && config.smtp.unauthenticated.is_none());
    assert_eq!(config.smtp.sent_copy, SentCopy::Auto);
    assert_eq!(config.smtp.bare_newlines, BareNewlines::Normalize);
    let smtp = config.upstreams[0].smtp.as_ref().expect("set");
    assert_eq!(smtp.to_string(), "smtps://smtp.example.com:465");
    for (provider, smtp, keeps) in [
        ("gmail", "smtps://smtp.gmail.com:465", true),
        ("outlook", "smtp+starttls://smtp.office365.com:587", true),
        ("zoho", "smtps://smtp.zoho.com:465", true),
        ("proton-bridge", "smtp+starttls://127.0.0.1:1025", true),
        ("icloud", "smtp+starttls://smtp.mail.me.com:587", false),
        ("fastmail", "smtps://smtp.fastmail.com:465", false),
    ] {
        let variables = [("POPGATE__UPSTREAM__X__PROVIDER", provider)];
        let folder = Folder::new("[[route]]\nlogin = \"*\"\nupstream = \"x\"\n");
        let config = folder.load(&variables, &Flags::default()).expect(provider);
        let upstream = &config.upstreams[0];
        let found = upstream.smtp.as_ref().map(ToString::to_string);
        assert_eq!(found.as_deref(), Some(smtp));
        assert_eq!(upstream.quirks.keeps_sent_copies, keeps, "{provider}");
    }
}

#[test]
fn every_key_means_what_it_says() {
    let folder = Folder::new(
        r#"
        [pop3]
        listen = []
        listen_tls = ["[::1]:995", "127.0.0.1:0"]
        client_workarounds = ["outlook-no-nuls", "oe-ns-eoh", "eudora-status", "latin1-logins"]
        login_delimiters = "%#\\"
        login_delay = "5m"
        [admin]
        listen = "off"
        [tls]
        certificate = "tls.crt"
        private_key = "tls.key"
        [[tls.certificates]]
        certificate = "tls.crt"
        private_key = "tls.key"
        [security]
        cleartext_login = ["10.0.0.0/8", "fd00::/8"]
        proxy_protocol_from = ["10.1.0.0/16"]
        [timeouts]
        login = "1m 30s"
        idle = "1h"
        upstream = "500ms"
        drain = "14d"
        shutdown_delay = "0s"
        [limits]
        connections = 1
        connections_per_address = 2
        upstream_connections_per_account = 0x3
        message_octets = "10MiB"
        recipients = 4
        spool_octets = "2MiB"
        [read_ahead]
        octets = "1MiB"
        [state]
        url = "memory:"
        [smtp]
        listen = ["127.0.0.1:0"]
        listen_tls = []
        hostname = "relay.example.org"
        received = false
        bare_newlines = "refuse"
        sent_copy = "always"
        spool_folder = "spool"
        sender = "login"
        [smtp.unauthenticated]
        networks = ["192.168.7.0/24"]
        login = "scanner@example.org"
        password_file = "password"
        [upstream.default]
        imap = "imap://10.1.1.1:1143"
        smtp = "smtp://10.1.1.1"
        sender = ["*@example.org", "joe@example.com"]
        allow_cleartext = true
        ca_file = "tls.crt"
        [upstream.other]
        provider = "icloud"
        [upstream.other.maildrop]
        on_delete = "move:Old & gone"
        unique_id = "cyrus"
        newest_messages = 1000
        [maildrop]
        folder = "Eingang"
        on_delete = "keep"
        mark_seen = "retrieved"
        unique_id = "uid"
        sessions = "exclusive"
        newest_messages = 20000
        [[route]]
        login = "*@example.org"
        upstream = "other"
        "#,
    )
    .with_certificates();
    fs::write(folder.path().join("password"), "secret\n").expect("writable");
    let config = folder.load(&[], &Flags::default()).expect("sound");
    assert_eq!(config.pop3.listeners.clear, []);
    assert_eq!(config.pop3.listeners.tls.len(), 2);
    assert_eq!(config.pop3.client_workarounds.len(), 4);
    assert_eq!(config.pop3.logins.delimiters, b"%#\\");
    assert_eq!(config.pop3.logins.delay, Duration::from_secs(300));
    assert_eq!(config.admin, None);
    let tls = config.tls.first().expect("set");
    assert_eq!(tls.certificate, folder.path().join("tls.crt"));
    assert_eq!(tls.private_key, folder.path().join("tls.key"));
    assert_eq!(config.tls.len(), 2);
    assert_eq!(config.proxy_protocol_from.len(), 1);
    assert_eq!(config.timeouts.shutdown_delay, Duration::ZERO);
    assert!(
        matches!(config.cleartext_login, CleartextLogin::From(networks) if networks.len() == 2)
    );
    assert_eq!(config.timeouts.login, Duration::from_secs(90));
    assert_eq!(config.timeouts.idle, Duration::from_secs(3600));
    assert_eq!(config.timeouts.upstream, Duration::from_millis(500));
    assert_eq!(config.timeouts.drain, Duration::from_secs(14 * 24 * 3600));
    assert_eq!(config.read_ahead_octets, 1024 * 1024);
    assert_eq!(config.limits.connections, 1);
    assert_eq!(config.limits.connections_per_address, 2);
    assert_eq!(config.limits.upstream_connections_per_account, 3);
    assert_eq!(config.limits.message_octets, 10 * 1024 * 1024);
    assert_eq!(config.limits.recipients, 4);
    assert_eq!(config.limits.spool_octets, 2 << 20);
    assert_eq!(config.smtp.listeners.clear.len(), 1);
    assert_eq!(config.smtp.listeners.tls, []);
    assert_eq!(config.smtp.hostname, "relay.example.org");
    assert!(!config.smtp.received);
    assert_eq!(config.smtp.bare_newlines, BareNewlines::Refuse);
    assert_eq!(config.smtp.sent_copy, SentCopy::Always);
    assert_eq!(config.smtp.spool_folder, folder.path().join("spool"));
    let unauthenticated = config.smtp.unauthenticated.expect("set");
    assert_eq!(unauthenticated.credential.login(), b"scanner@example.org");

    let default = config.routes.upstream("user").expect("the default");
    assert_eq!(default.imap.security, EndpointSecurity::Clear);
    assert_eq!(default.ca_file, Some(folder.path().join("tls.crt")));
    assert_eq!(default.maildrop.on_delete, DeletePolicy::Keep);
    assert_eq!(default.maildrop.unique_id, UniqueIdFormat::Uid);
    assert_eq!(default.maildrop.newest_messages, 20_000);

    assert!(matches!(&default.sender, SenderPolicy::Addresses(globs) if globs.len() == 2));
    let other = config.routes.upstream("Me@EXAMPLE.org").expect("the route");
    assert_eq!(&*other.name, "other");
    assert!(matches!(other.sender, SenderPolicy::Login));
    assert_eq!(
        other.quirks.trash_folder.as_deref(),
        Some("Deleted Messages")
    );
    assert_eq!(
        other.maildrop.on_delete,
        DeletePolicy::Move("Old & gone".to_owned())
    );
    assert_eq!(other.maildrop.unique_id, UniqueIdFormat::Cyrus);
    assert_eq!(other.maildrop.folder, "Eingang");
    assert_eq!(other.maildrop.mark_seen, MarkSeen::Retrieved);
    assert_eq!(other.maildrop.sessions, Sessions::Exclusive);
    assert_eq!(other.maildrop.newest_messages, 1000);
}

#[test]
fn no_delay_can_be_written() {
    for none in ["0s", "0m"] {
        let folder = Folder::new(&format!("{UPSTREAM}[pop3]\nlogin_delay = \"{none}\"\n"));
        let config = folder.load(&[], &Flags::default()).expect(none);
        assert_eq!(config.pop3.logins.delay, Duration::ZERO);
    }
}

#[test]
fn an_upstream_is_probed_each_minute_unless_told_otherwise() {
    for (line, seconds) in [
        ("", Some(60)),
        ("probe_interval = \"5m\"\n", Some(300)),
        ("probe_interval = \"0s\"\n", None),
    ] {
        let folder = Folder::new(&format!("{UPSTREAM}{line}"));
        let config = folder.load(&[], &Flags::default()).expect("sound");
        let expected = seconds.map(Duration::from_secs);
        assert_eq!(config.upstreams[0].probe_interval, expected, "{line}");
    }
}

#[test]
fn presets_fill_in_the_endpoint_and_an_explicit_one_wins() {
    for (provider, endpoint) in [
        ("gmail", "imaps://imap.gmail.com:993"),
        ("outlook", "imaps://outlook.office365.com:993"),
        ("icloud", "imaps://imap.mail.me.com:993"),
        ("yahoo", "imaps://imap.mail.yahoo.com:993"),
        ("fastmail", "imaps://imap.fastmail.com:993"),
        ("zoho", "imaps://imap.zoho.com:993"),
        ("proton-bridge", "imap+starttls://127.0.0.1:1143"),
        ("netease", "imaps://imap.163.com:993"),
        ("yandex", "imaps://imap.yandex.com:993"),
        ("gmx", "imaps://imap.gmx.net:993"),
    ] {
        let preset = format!("[upstream.default]\nprovider = \"{provider}\"\n");
        let config = Folder::new(&preset)
            .load(&[], &Flags::default())
            .expect(provider);
        assert_eq!(config.upstreams[0].imap.to_string(), endpoint);

        let explicit = format!("{preset}imap = \"imaps://imap.example.com\"\n");
        let config = Folder::new(&explicit)
            .load(&[], &Flags::default())
            .expect(provider);
        assert_eq!(
            config.upstreams[0].imap.to_string(),
            "imaps://imap.example.com:993"
        );
    }
}

#[test]
fn all_mistakes_are_shown_at_once_in_the_order_of_the_file() {
    check(
        r#"
[pop3]
listn = ["127.0.0.1:1110"]
listen_tls = [
    "127.0.0.1:1995",
    "localhost:1995",
]
[timeouts]
login = 30
[upstream.default]
imap = "imap.example.com"
[upstream.default.maildrop]
sessions = "share"
[[route]]
login = "*@example.org"
upstream = "defualt"
[bogus]
"#,
        &[
            "popgate.toml:3: [pop3] listn: unknown key; did you mean listen?",
            "popgate.toml:4: [pop3] listen_tls: needs a certificate; add [tls] with certificate and private_key",
            "popgate.toml:6: [pop3] listen_tls: \"localhost:1995\" is not an IP address and a port; write \"127.0.0.1:1995\"",
            "popgate.toml:9: [timeouts] login: 30 has no unit; write \"30s\" for seconds",
            "popgate.toml:11: [upstream.default] imap: \"imap.example.com\" is not a URL; write \"imaps://imap.example.com\"",
            "popgate.toml:13: [upstream.default.maildrop] sessions: \"share\" is not known; did you mean \"shared\"?",
            "popgate.toml:16: [[route]] upstream: there is no [upstream.defualt]; did you mean \"default\"?",
            "popgate.toml:17: [bogus]: unknown section; known here: admin, limits, listing_cache, maildrop, pop3, read_ahead, route, security, smtp, state, timeouts, tls, trace, upstream",
        ],
    );
}

#[test]
fn what_is_not_toml_is_shown_by_line() {
    for (config, expected) in [
        (
            "[pop3]\nlisten = \n",
            "popgate.toml:2: not TOML: string values must be quoted, expected literal string",
        ),
        (
            "[pop3]\n[admin]\n[pop3]\n",
            "popgate.toml:3: not TOML: duplicate key",
        ),
        ("a = 1\na = 2\n", "popgate.toml:2: not TOML: duplicate key"),
    ] {
        check(config, &[expected]);
    }
}

#[test]
fn each_mistake_has_its_remedy() {
    // The lines count from the two of the upstream.
    for (config, expected) in [
        (
            "[pop3]\nlisten = \"127.0.0.1:110\"",
            "popgate.toml:4: [pop3] listen: \"127.0.0.1:110\" is not a list; write [\"127.0.0.1:110\"]",
        ),
        (
            "[pop3]\nlisten = [110]",
            "popgate.toml:4: [pop3] listen: is a number; write text in quotes",
        ),
        (
            "[pop3]\nlisten = [\":110\"]",
            "popgate.toml:4: [pop3] listen: \":110\" is not an IP address and a port; write \"0.0.0.0:110\" or \"[::]:110\"",
        ),
        (
            "[pop3]\nlisten = [\"110\"]",
            "popgate.toml:4: [pop3] listen: \"110\" is not an IP address and a port; write \"127.0.0.1:110\" or \"0.0.0.0:110\"",
        ),
        (
            "[pop3]\nlisten = [\"mail\"]",
            "popgate.toml:4: [pop3] listen: \"mail\" is not an IP address and a port; write it like \"127.0.0.1:1110\" or \"[::1]:1110\"",
        ),
        (
            "[pop3]\nlisten = [\"[::1]:1\", \"[::1]:1\"]",
            "popgate.toml:4: [pop3] listen: \"[::1]:1\" is there twice; remove one",
        ),
        (
            "[pop3]\nlisten = []",
            "popgate.toml:4: [pop3] listen: leaves nowhere to connect to; write an address, as in [\"127.0.0.1:1110\"]",
        ),
        (
            "[pop3]\nclient_workarounds = [\"latin1\"]",
            "popgate.toml:4: [pop3] client_workarounds: \"latin1\" is none of outlook-no-nuls, oe-ns-eoh, eudora-status, latin1-logins",
        ),
        (
            "[pop3]\nlogin_delimiters = [\"%\"]",
            "popgate.toml:4: [pop3] login_delimiters: is a list; write text in quotes",
        ),
        (
            "[pop3]\nlogin_delimiters = \"%@\"",
            "popgate.toml:4: [pop3] login_delimiters: '@' is no login delimiter; leave it out, it needs nothing to stand for it",
        ),
        (
            "[pop3]\nlogin_delimiters = \".\"",
            "popgate.toml:4: [pop3] login_delimiters: '.' is no login delimiter; leave it out, domains hold it too",
        ),
        (
            "[pop3]\nlogin_delimiters = \"% #\"",
            "popgate.toml:4: [pop3] login_delimiters: ' ' is no login delimiter; write punctuation of ASCII, as in \"%#:\"",
        ),
        (
            "[pop3]\nlogin_delimiters = \"at\"",
            "popgate.toml:4: [pop3] login_delimiters: 'a' is no login delimiter; write punctuation of ASCII, as in \"%#:\"",
        ),
        (
            "[pop3]\nlogin_delimiters = \"§\"",
            "popgate.toml:4: [pop3] login_delimiters: '§' is no login delimiter; write punctuation of ASCII, as in \"%#:\"",
        ),
        (
            "[pop3]\nlogin_delimiters = \"\\u0000\"",
            "popgate.toml:4: [pop3] login_delimiters: '\\0' is no login delimiter; write punctuation of ASCII, as in \"%#:\"",
        ),
        (
            "[pop3]\nlogin_delimiters = \"%#%\"",
            "popgate.toml:4: [pop3] login_delimiters: '%' is no login delimiter; write it once",
        ),
        (
            "[pop3]\nlogin_delay = 30",
            "popgate.toml:4: [pop3] login_delay: 30 has no unit; write \"30s\" for seconds",
        ),
        (
            "[pop3]\nlogin_delay = \"2years\"",
            "popgate.toml:4: [pop3] login_delay: \"2years\" is more than a year; write less",
        ),
        (
            "[[pop3]]",
            "popgate.toml:3: pop3: is not a section; write [pop3]",
        ),
        (
            "[admin]\nlisten = true",
            "popgate.toml:4: [admin] listen: is true or false; write text in quotes",
        ),
        (
            "[tls]\ncertificate = \"tls.crt\"",
            "popgate.toml:3: [tls] private_key: is missing; write the path of a PEM file",
        ),
        (
            "[tls]\ncertificate = \"tls.crt\"\nprivate_key = \"other.key\"",
            "popgate.toml:5: [tls] private_key: does not belong to the certificate; name the key that it was made for",
        ),
        (
            "[tls]\ncertificate = \"tls.key\"\nprivate_key = \"tls.key\"",
            "popgate.toml:4: [tls] certificate: \"tls.key\" contains no certificate; it must have a BEGIN CERTIFICATE line",
        ),
        (
            "[tls]\ncertificate = \"tls.crt\"\nprivate_key = \"tls.crt\"",
            "popgate.toml:5: [tls] private_key: \"tls.crt\" contains no private key; it must have a BEGIN PRIVATE KEY line and no password",
        ),
        (
            "[tls]\ncertificate = \"tls.crt\"\nprivate_key = \"none.key\"",
            "popgate.toml:5: [tls] private_key: \"none.key\" cannot be read: No such file or directory (os error 2)",
        ),
        (
            "[upstream.x]\nprovider = \"gmail\"\nca_file = \"empty.pem\"",
            "popgate.toml:5: [upstream.x] ca_file: \"empty.pem\" contains no certificate; it must have a BEGIN CERTIFICATE line",
        ),
        (
            "[security]\ncleartext_login = \"nevr\"",
            "popgate.toml:4: [security] cleartext_login: \"nevr\" is not known; did you mean \"never\"?",
        ),
        (
            "[security]\ncleartext_login = \"10.0.0.0/8\"",
            "popgate.toml:4: [security] cleartext_login: \"10.0.0.0/8\" is not a list; write [\"10.0.0.0/8\"]",
        ),
        (
            "[security]\ncleartext_login = [\"10.0.0.1\"]",
            "popgate.toml:4: [security] cleartext_login: \"10.0.0.1\" is an address; write \"10.0.0.1/32\"",
        ),
        (
            "[security]\ncleartext_login = [\"10/8\"]",
            "popgate.toml:4: [security] cleartext_login: \"10/8\" is not a network; write it like \"10.0.0.0/8\" or \"fd00::/8\"",
        ),
        (
            "[timeouts]\nidle = \"0s\"",
            "popgate.toml:4: [timeouts] idle: \"0s\" is no time at all; write \"30s\" or more",
        ),
        (
            "[timeouts]\nidle = \"30\"",
            "popgate.toml:4: [timeouts] idle: \"30\" has no unit; write \"30s\" for seconds",
        ),
        (
            "[timeouts]\nidle = \"soon\"",
            "popgate.toml:4: [timeouts] idle: \"soon\" is not a duration; write it like \"30s\", \"10m\" or \"14d\"",
        ),
        (
            "[timeouts]\nidle = \"2years\"",
            "popgate.toml:4: [timeouts] idle: \"2years\" is more than a year; write less",
        ),
        (
            "[timeouts]\nidle = 2026-01-01",
            "popgate.toml:4: timeouts.idle: is a date; put it in quotes",
        ),
        (
            "[limits]\nconnections = 0",
            "popgate.toml:4: [limits] connections: is 0; write a number from 1 on",
        ),
        (
            "[limits]\nconnections = -1",
            "popgate.toml:4: [limits] connections: is -1; write a number from 1 on",
        ),
        (
            "[limits]\nconnections = 993.7",
            "popgate.toml:4: [limits] connections: is a fraction; write a whole number",
        ),
        (
            "[limits]\nconnections = \"10\"",
            "popgate.toml:4: [limits] connections: is text; write a whole number",
        ),
        (
            "[limits]\nconnections = 9999999999",
            "popgate.toml:4: [limits] connections: is more than 4294967295; write a smaller number",
        ),
        (
            "[state]\nurl = \"sqlite://popgate.db\"",
            "popgate.toml:4: [state] url: a state store is not there yet in this version of popgate, nothing outlives a restart; write \"memory:\"",
        ),
        (
            "[maildrop]\nfolder = \"\"",
            "popgate.toml:4: [maildrop] folder: is empty; write the name of a folder, as in \"INBOX\"",
        ),
        (
            "[maildrop]\non_delete = \"shred\"",
            "popgate.toml:4: [maildrop] on_delete: \"shred\" is none of expunge, trash, archive, flag, keep, move:FOLDER",
        ),
        (
            "[maildrop]\nunique_id = \"uid:\"",
            "popgate.toml:4: [maildrop] unique_id: \"uid:\" names no UIDVALIDITY; write it like \"uid:1700000000\"",
        ),
        (
            "[maildrop]\nunique_id = \"md5\"",
            "popgate.toml:4: [maildrop] unique_id: \"md5\" is none of dovecot, uid:UIDVALIDITY, uid, cyrus, courier, uw, gmail, emailid",
        ),
        (
            "[maildrop]\nmark_seen = \"always\"",
            "popgate.toml:4: [maildrop] mark_seen: \"always\" is none of never, retrieved",
        ),
        (
            "[maildrop]\nnewest_messages = 0",
            "popgate.toml:4: [maildrop] newest_messages: is 0; write a number of messages from 1 to 1000000",
        ),
        (
            "[maildrop]\nnewest_messages = 1000001",
            "popgate.toml:4: [maildrop] newest_messages: is 1000001; write a number of messages from 1 to 1000000",
        ),
        (
            "[maildrop]\nnewest_messages = \"all\"",
            "popgate.toml:4: [maildrop] newest_messages: is text; write a whole number",
        ),
        (
            "[upstream.B]\nprovider = \"gmail\"",
            "popgate.toml:3: [upstream.B]: is not a name for an upstream; write it with a-z, 0-9, - and _",
        ),
        (
            "[upstream.b]",
            "popgate.toml:3: [upstream.b] imap: is missing; write imap = \"imaps://HOST\", or set provider",
        ),
        (
            "[upstream.b]\nimap = \"imap://b.example\"",
            "popgate.toml:4: [upstream.b] imap: \"imap://b.example:143\" would carry passwords readable over the network; write imaps:// or imap+starttls://, or set allow_cleartext = true",
        ),
        (
            "[upstream.b]\nprovider = \"gmail\"\nallow_cleartext = \"no\"",
            "popgate.toml:5: [upstream.b] allow_cleartext: is text; write true or false",
        ),
        (
            "[route]\nlogin = \"*\"",
            "popgate.toml:4: route: is not a list of tables; begin each with [[route]] in a config file",
        ),
        (
            "[[route]]\nlogin = \"*\"",
            "popgate.toml:3: [[route]] upstream: is missing; write the NAME of an [upstream.NAME]",
        ),
        (
            "[[route]]\nlogin = \"\"\nupstream = \"default\"",
            "popgate.toml:4: [[route]] login: matches no login; write \"*\" for all of them",
        ),
        (
            "[[route]]\nlogin = \"[a\"\nupstream = \"default\"",
            "popgate.toml:4: [[route]] login: \"[a\" is not a pattern (unclosed character class; missing ']'); write it like \"*@example.org\"",
        ),
        (
            "[smtp]\nhostname = \"mail.example.org\"",
            "popgate.toml:3: [smtp]: has no upstream that sends mail; add smtp = \"smtps://HOST\" to an [upstream.NAME], or --submission smtps://HOST",
        ),
        (
            "[read_ahead]\noctets = \"much\"",
            "popgate.toml:4: [read_ahead] octets: \"much\" is not a size; write it like \"256KiB\", or octets as a number",
        ),
        (
            "[limits]\nmessage_octets = 0",
            "popgate.toml:4: [limits] message_octets: lets no message through; write a size like \"150MiB\"",
        ),
        (
            "[security]\nproxy_protocol_from = [\"10.0.0.1\"]",
            "popgate.toml:4: [security] proxy_protocol_from: \"10.0.0.1\" is an address; write \"10.0.0.1/32\"",
        ),
    ] {
        check_after_upstream(config, &[expected]);
    }
}

#[test]
fn passwords_are_not_repeated() {
    for config in [
        "[upstream.default]\nimap = \"imaps://me:hunter2@example.com\"",
        "[upstream.default]\nimap = \"me:hunter2@example.com\"",
        "[upstream.default]\nimap = \"https://me:hunter2@example.com\"",
        "[upstream.default]\nimap = \"imaps://me:hunter2@example.com:99999\"",
        "[state]\nurl = \"postgres://me:hunter2@example.com\"",
    ] {
        let problems = Folder::new(config)
            .problems(&[], &Flags::default())
            .join("\n");
        assert!(
            !problems.is_empty() && !problems.contains("hunter2"),
            "{problems}"
        );
    }
}

#[test]
fn without_an_upstream_there_is_a_remedy() {
    let remedy = "no upstream to connect to; add [upstream.default] with imap = \"imaps://HOST\" \
                  to the config file, or give --upstream imaps://HOST";
    check("", &[&format!("popgate.toml: {remedy}")]);
    assert_eq!(
        lines(Config::load(None, [], &Flags::default()), ""),
        [remedy]
    );
    check(
        "[upstream.work]\nprovider = \"gmail\"",
        &[
            "popgate.toml:1: [upstream.work]: gets no login; call it [upstream.default] or add a [[route]]",
        ],
    );
}

#[test]
fn an_unreadable_file_is_one_problem() {
    let problems = lines(
        Config::load(Some(Path::new("/none.toml")), [], &Flags::default()),
        "",
    );
    assert_eq!(
        problems,
        [
            "/none.toml: cannot be read: No such file or directory (os error 2); name the config file with --config"
        ]
    );
}

#[test]
fn variables_win_over_the_file_and_flags_over_both() {
    let folder = Folder::new(
        "[pop3]\nlisten = [\"127.0.0.1:1\"]\n[upstream.default]\nimap = \"imaps://file\"\n",
    );
    let variables = [
        ("POPGATE__UPSTREAM__DEFAULT__IMAP", "imaps://variable"),
        ("POPGATE__POP3__LISTEN", "127.0.0.1:2, 127.0.0.1:3"),
        ("POPGATE__SECURITY__CLEARTEXT_LOGIN", "10.0.0.0/8,fd00::/8"),
        ("POPGATE__LIMITS__CONNECTIONS", "7"),
        ("POPGATE__ADMIN__LISTEN", ""),
        ("POPGATE__UPSTREAM__DEFAULT__MAILDROP__ON_DELETE", "archive"),
        ("POPGATE_PORT", "tcp://10.0.0.1:110"),
    ];
    let config = folder.load(&variables, &Flags::default()).expect("sound");
    assert_eq!(config.upstreams[0].imap.host, "variable");
    assert_eq!(
        config.upstreams[0].maildrop.on_delete,
        DeletePolicy::Archive
    );
    assert_eq!(config.pop3.listeners.clear.len(), 2);
    assert!(
        matches!(config.cleartext_login, CleartextLogin::From(networks) if networks.len() == 2)
    );
    assert_eq!(config.limits.connections, 7);
    assert_eq!(config.admin, None);

    let flags = Flags {
        upstream: Some("imaps://flag".to_owned()),
        submission: None,
        listen: vec!["127.0.0.1:4".to_owned()],
    };
    let config = folder.load(&variables, &flags).expect("sound");
    assert_eq!(config.upstreams[0].imap.host, "flag");
    assert_eq!(
        config.pop3.listeners.clear,
        ["127.0.0.1:4".parse().expect("an address")]
    );
}

#[test]
fn mistakes_in_variables_and_flags_name_them() {
    let flags = Flags {
        upstream: Some("example.com".to_owned()),
        submission: Some("imaps://example.com".to_owned()),
        listen: vec!["localhost:110".to_owned()],
    };
    let variables = environment(&[
        ("POPGATE__LIMITS__CONNECTIONS", "many"),
        ("POPGATE__LIMITS__CONECTIONS", "1"),
        ("POPGATE__LISTEN", "1"),
        ("POPGATE__ROUTE__0__LOGIN", "*"),
        ("POPGATE__SMTP__SENT_COPY", "sometimes"),
        ("POPGATE__UPSTREAM__WORK__ALLOW_CLEARTEXT", "yes"),
    ]);
    assert_eq!(
        lines(Config::load(None, variables, &flags), ""),
        [
            "POPGATE__LIMITS__CONECTIONS: unknown key; did you mean connections?",
            "POPGATE__LIMITS__CONNECTIONS: is text; write a whole number",
            "POPGATE__LISTEN: names no setting; write POPGATE__SECTION__KEY, as in POPGATE__UPSTREAM__DEFAULT__IMAP",
            "POPGATE__ROUTE__0__LOGIN: is not a list of tables; begin each with [[route]] in a config file",
            "POPGATE__SMTP__SENT_COPY: \"sometimes\" is none of auto, always, never",
            "POPGATE__UPSTREAM__WORK__ALLOW_CLEARTEXT: is text; write true or false",
            "--listen: \"localhost:110\" is not an IP address and a port; write \"127.0.0.1:110\"",
            "--submission: \"imaps://example.com\" has none of the schemes smtps:// (TLS, port 465), smtp+starttls:// (587) and smtp:// (clear text, 587)",
            "--upstream: \"example.com\" is not a URL; write \"imaps://example.com\"",
            "[upstream.work] imap: is missing; write imap = \"imaps://HOST\", or set provider",
        ]
    );
}

#[test]
fn a_path_in_a_variable_is_not_relative_to_the_file() {
    let folder = Folder::new(UPSTREAM).with_certificates();
    let problems = folder.problems(
        &[("POPGATE__UPSTREAM__DEFAULT__CA_FILE", "tls.crt")],
        &Flags::default(),
    );
    assert_eq!(
        problems,
        [
            "POPGATE__UPSTREAM__DEFAULT__CA_FILE: \"tls.crt\" cannot be read: No such file or directory (os error 2)"
        ]
    );
}

#[test]
fn tls_brings_a_listener_of_its_own() {
    let folder = Folder::new(&format!(
        "{UPSTREAM}[tls]\ncertificate = \"tls.crt\"\nprivate_key = \"tls.key\"\n"
    ))
    .with_certificates();
    let config = folder.load(&[], &Flags::default()).expect("sound");
    assert_eq!(
        config.pop3.listeners.tls,
        ["127.0.0.1:1995".parse().expect("an address")]
    );
}

#[test]
fn the_admin_address_does_not_need_the_rest() {
    let folder = Folder::new("[tls]\ncertificate = \"none\"\n[admin]\nlisten = \"127.0.0.1:5\"\n");
    let file = folder.path().join("popgate.toml");
    let address = admin_address(Some(&file), []).expect("found");
    assert_eq!(address, Some("127.0.0.1:5".parse().expect("an address")));
}
