//! Which upstreams are believed to be who they say they are: to no other is a secret said.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::process::{Connection, PATIENCE, Popgate, Setting, wait_for};

/// Said to no upstream but the one that may hear it.
const PASSWORD: &str = "correct-horse-17-battery";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Authority::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// An upstream, and what it hears within TLS.
struct Upstream {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Upstream {
    /// With a certificate for `name` that expires with the year before this one.
    fn start(authority: &Authority, name: &str, year: i32) -> Self {
        popgate::tls::install_provider();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("of ASCII"))];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, authority).expect("a certificate");
        let private_key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.der().clone()], private_key);
        let config = Arc::new(config.expect("a pair"));

        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let heard = Arc::default();
        let upstream = Self {
            address,
            heard: Arc::clone(&heard),
        };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, heard) = (config.clone(), heard.clone());
                thread::spawn(move || serve(stream, config, &heard));
            }
        });
        upstream
    }

    fn heard(&self) -> String {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&heard).into_owned()
    }
}

/// Greets as either service would have it, and answers nothing.
fn serve(stream: TcpStream, config: Arc<ServerConfig>, heard: &Mutex<Vec<u8>>) {
    let connection = ServerConnection::new(config).expect("a sound set-up");
    let mut stream = StreamOwned::new(connection, stream);
    if stream
        .write_all(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
        .is_err()
    {
        return;
    }
    let mut octets = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut octets) {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.extend_from_slice(&octets[..length]);
    }
}

/// With an upstream for each of these names, at these addresses and by these schemes, to which the logins of
/// its domain go.
fn popgate(authority: &Authority, upstreams: &[(&str, String)]) -> Popgate {
    let mut sections =
        "[smtp]\nlisten = [\"127.0.0.1:0\"]\n[timeouts]\nupstream = \"5s\"\n".to_owned();
    for (name, services) in upstreams {
        sections += &format!(
            "[[route]]\nlogin = \"*@{name}\"\nupstream = \"{name}\"\n\
             [upstream.{name}]\n{services}\nca_file = \"authority.pem\"\n"
        );
    }
    let pem = authority.pem();
    let prepare = |folder: &Path| fs::write(folder.join("authority.pem"), &pem).expect("written");
    Popgate::start(&Setting {
        sections: &sections,
        prepare: Some(&prepare),
        ..Setting::default()
    })
}

/// What is said to a login by POP3.
fn log_in(popgate: &Popgate, login: &str) -> String {
    let mut client = popgate.connect();
    client.expect("+OK");
    assert_eq!(&client.ask(&format!("USER {login}"))[..3], "+OK");
    client.ask(&format!("PASS {PASSWORD}"))
}

/// What is said to one by submission.
fn log_in_to_send(popgate: &Popgate, login: &str) -> String {
    let mut client = Connection::to(popgate.addresses()[1]);
    client.expect("220");
    let response = STANDARD.encode(format!("\0{login}\0{PASSWORD}"));
    client.ask(&format!("AUTH PLAIN {response}"))
}

/// Both services of an upstream.
fn services(port: u16) -> String {
    format!("imap = \"imaps://localhost:{port}\"\nsmtp = \"smtps://localhost:{port}\"")
}

/// SECURITY T5
#[test]
fn an_upstream_that_is_not_who_it_should_be_hears_nothing() {
    let (ours, other) = (authority(), authority());
    let upstreams = [
        ("sound", Upstream::start(&ours, "localhost", 2090)),
        ("expired", Upstream::start(&ours, "localhost", 2020)),
        ("unknown", Upstream::start(&other, "localhost", 2090)),
        ("named", Upstream::start(&ours, "other.example", 2090)),
    ];
    let services = upstreams
        .each_ref()
        .map(|(name, upstream)| (*name, services(upstream.address.port())));
    let popgate = popgate(&ours, &services);
    let [(_, sound), bad @ ..] = &upstreams;
    for (name, upstream) in bad {
        let login = format!("joe@{name}");
        let reply = log_in(&popgate, &login);
        assert!(reply.starts_with("-ERR [SYS/PERM]"), "{name}: {reply}");
        let reply = log_in_to_send(&popgate, &login);
        assert!(reply.starts_with("451 4.3.5"), "{name}: {reply}");
        assert_eq!(upstream.heard(), "", "{name}");
    }
    // It is not for want of listening.
    let mut client = popgate.connect();
    client.expect("+OK");
    client.say("USER joe@sound");
    client.expect("+OK");
    client.say(&format!("PASS {PASSWORD}"));
    let has_heard = wait_for(|| sound.heard().contains(PASSWORD).then_some(()));
    assert!(has_heard.is_some(), "{:#?}", popgate.log());
}

/// SECURITY A8: a name on a certificate may hold anything, and is told where a certificate does not fit.
#[test]
fn no_certificate_begins_a_line_of_the_log() {
    const FORGED: &str = "2026-01-01T00:00:00Z  INFO popgate: all is well";
    let ours = authority();
    let upstream = Upstream::start(&ours, &format!("x\r\n{FORGED}\r\n"), 2090);
    let mut popgate = popgate(&ours, &[("forging", services(upstream.address.port()))]);
    let reply = log_in(&popgate, "joe@forging");
    assert!(reply.starts_with("-ERR [SYS/PERM]"), "{reply}");
    popgate.wait_for_log("is not accepted");
    popgate.wait_for_log("session ended");
    for line in popgate.log() {
        assert!(!line.starts_with("2026-01-01T"), "{line}");
    }
}

/// SECURITY T6: what popgate offers an upstream, read as it comes (RFC 8446 §4.1.2).
/// The next connection, which must come in time.
fn accept_within(listener: &TcpListener, limit: Duration) -> TcpStream {
    listener.set_nonblocking(true).expect("a mode");
    let ends = Instant::now() + limit;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("a mode");
                return stream;
            }
            Err(_) if Instant::now() < ends => thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("no connection: {error}"),
        }
    }
}

#[test]
fn an_upstream_is_offered_tls_1_2_and_1_3_and_nothing_weak() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let popgate = popgate(&authority(), &[("listening", services(port))]);
    let mut client = popgate.connect();
    client.expect("+OK");
    client.say("USER joe@listening");
    client.expect("+OK");
    client.say("PASS secret");
    let mut stream = accept_within(&listener, PATIENCE);
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut header = [0; 5];
    stream.read_exact(&mut header).expect("a record");
    let [22, _, _, length @ ..] = header else {
        panic!("no handshake: {header:?}")
    };
    let mut record = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut record).expect("a record");

    // The message's type and length, the version, and the random octets are before the session id.
    let mut hello = Octets(&record[4 + 2 + 32..]);
    hello.vector(1);
    let mut cipher_suites = hello.vector(2);
    while !cipher_suites.0.is_empty() {
        let cipher_suite = cipher_suites.number(2);
        assert!(
            [
                // TLS 1.3
                0x1301, 0x1302, 0x1303, // ECDHE with AES-GCM or ChaCha20-Poly1305
                0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9,
                // TLS_EMPTY_RENEGOTIATION_INFO_SCSV
                0x00ff,
            ]
            .contains(&cipher_suite),
            "{cipher_suite:x}"
        );
    }
    hello.vector(1);
    let mut extensions = hello.vector(2);
    let mut versions = Vec::new();
    while !extensions.0.is_empty() {
        let (number, mut extension) = (extensions.number(2), extensions.vector(2));
        // supported_versions
        if number == 43 {
            let mut list = extension.vector(1);
            while !list.0.is_empty() {
                versions.push(list.number(2));
            }
        }
    }
    versions.sort_unstable();
    assert_eq!(versions, [0x0303, 0x0304]);
}

/// What is left to read.
struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn take(&mut self, octets: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(octets);
        self.0 = rest;
        taken
    }

    fn number(&mut self, octets: usize) -> usize {
        let taken = self.take(octets).iter();
        taken.fold(0, |number, octet| number << 8 | usize::from(*octet))
    }

    /// Behind its length, which is of so many octets.
    fn vector(&mut self, octets: usize) -> Self {
        let length = self.number(octets);
        Self(self.take(length))
    }
}

/// The fault "DNS failure" of SECURITY.md: the login is not to blame, and a message stays in the outbox.
#[test]
fn an_upstream_without_an_address_is_unreachable() {
    let services = services(993).replace("localhost", "no-such-host.invalid");
    let popgate = popgate(&authority(), &[("nowhere", services)]);
    let reply = log_in(&popgate, "joe@nowhere");
    assert!(reply.starts_with("-ERR [SYS/TEMP]"), "{reply}");
    let reply = log_in_to_send(&popgate, "joe@nowhere");
    assert!(reply.starts_with("451 4.4.1"), "{reply}");
}
