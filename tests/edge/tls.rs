//! What listeners say to those who speak TLS, and to those who speak something else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};

use crate::certificates::write_pair;
use crate::process::{Connection, PATIENCE, Popgate, Setting, wait_for};

/// How a client begins.
pub(crate) struct Client<'a> {
    pub(crate) name: &'a str,
    pub(crate) alpn: &'a [&'a str],
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
}

impl Default for Client<'_> {
    fn default() -> Self {
        Self {
            name: "a.example",
            alpn: &[],
            versions: rustls::ALL_VERSIONS,
        }
    }
}

/// What is shown is looked at, not believed.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
        ]
    }
}

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection on which the handshake is done.
pub(crate) fn handshake(address: SocketAddr, client: &Client<'_>) -> io::Result<Stream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    handshake_on(stream, client)
}

fn handshake_on(stream: TcpStream, client: &Client<'_>) -> io::Result<Stream> {
    popgate::tls::install_provider();
    let mut config = ClientConfig::builder_with_protocol_versions(client.versions)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = client
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::try_from(client.name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// With listeners for POP3, POP3 with TLS, submission, and submission with TLS.
fn popgate() -> Popgate {
    let prepare = |folder: &Path| drop(write_pair(folder, "a", "a.example", 2090));
    Popgate::start(&Setting {
        pop3: "listen_tls = [\"127.0.0.1:0\"]",
        sections: "[tls]\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"\n\
                   [smtp]\nlisten = [\"127.0.0.1:0\"]\nlisten_tls = [\"127.0.0.1:0\"]\n\
                   [upstream.sending]\nimap = \"imap://127.0.0.1:9\"\nsmtp = \"smtp://127.0.0.1:9\"\n",
        first: "",
        prepare: Some(&prepare),
    })
}

fn greeting(stream: &mut Stream) -> String {
    let mut octets = [0; 512];
    let length = stream.read(&mut octets).expect("a greeting");
    String::from_utf8_lossy(&octets[..length]).into_owned()
}

/// SECURITY T7; RFC 7301 §3.2
#[test]
fn a_foreign_alpn_ends_the_handshake() {
    let popgate = popgate();
    let [_, pop3s, _, smtps, _] = popgate.addresses()[..] else {
        panic!("{:#?}", popgate.log())
    };
    for (address, alpn, is_taken) in [
        (pop3s, &["pop3"][..], true),
        (pop3s, &["http/1.1", "pop3"], true),
        (pop3s, &[], true),
        (pop3s, &["imap"], false),
        (pop3s, &["h2", "http/1.1"], false),
        (smtps, &[], true),
        (smtps, &["smtp"], true),
        (smtps, &["pop3"], false),
        (smtps, &["http/1.1"], false),
    ] {
        let client = Client {
            alpn,
            ..Client::default()
        };
        match handshake(address, &client) {
            Ok(mut stream) => {
                assert!(is_taken, "{alpn:?} at {address}");
                assert!(["+OK", "220"].contains(&&greeting(&mut stream)[..3]));
            }
            Err(error) => {
                assert!(!is_taken, "{alpn:?} at {address}: {error}");
                assert!(
                    error.to_string().contains("NoApplicationProtocol"),
                    "{error}"
                );
            }
        }
    }
    popgate.wait_for_metric(
        "popgate_connections_rejected_total{listener=\"pop3s\",reason=\"tls_handshake\"}",
        2.0,
    );
}

/// SECURITY T6
#[test]
fn tls_1_2_and_1_3_and_nothing_older() {
    let popgate = popgate();
    let pop3s = popgate.addresses()[1];
    for (version, expected) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let client = Client {
            versions: &[version],
            ..Client::default()
        };
        let stream = handshake(pop3s, &client).expect("a handshake");
        assert_eq!(stream.conn.protocol_version(), Some(expected));
    }
    const ECDHE_ECDSA_GCM: u16 = 0xc02b;
    const ECDHE_ECDSA_CBC: u16 = 0xc023;
    const RSA_GCM: u16 = 0x009c;
    for (version, cipher_suite, is_taken) in [
        (0x0303, ECDHE_ECDSA_GCM, true),
        (0x0302, ECDHE_ECDSA_GCM, false),
        (0x0301, ECDHE_ECDSA_GCM, false),
        (0x0300, ECDHE_ECDSA_GCM, false),
        (0x0303, ECDHE_ECDSA_CBC, false),
        (0x0303, RSA_GCM, false),
    ] {
        let mut connection = Connection::to(pop3s);
        connection.send(&client_hello(version, cipher_suite));
        let mut record_type = [0];
        connection
            .stream
            .read_exact(&mut record_type)
            .expect("a record");
        // A handshake goes on, or an alert ends it.
        let expected = if is_taken { 22 } else { 21 };
        assert_eq!(record_type, [expected], "{version:x} {cipher_suite:x}");
    }
}

/// A ClientHello of TLS 1.2 or older (RFC 5246 §7.4.1.2) with one cipher suite.
fn client_hello(version: u16, cipher_suite: u16) -> Vec<u8> {
    let extension = |number: u16, data: &[u8]| {
        let length = u16::try_from(data.len()).expect("short");
        [&number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
    };
    let extensions = [
        // supported_groups: x25519, secp256r1
        extension(10, &[0, 4, 0, 29, 0, 23]),
        // ec_point_formats: uncompressed
        extension(11, &[1, 0]),
        // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pkcs1_sha256
        extension(13, &[0, 4, 4, 3, 4, 1]),
        // extended_master_secret
        extension(23, &[]),
    ]
    .concat();
    let mut hello = version.to_be_bytes().to_vec();
    hello.extend([7; 32]);
    hello.extend([0, 0, 2]);
    hello.extend(cipher_suite.to_be_bytes());
    hello.extend([1, 0]);
    hello.extend(
        u16::try_from(extensions.len())
            .expect("short")
            .to_be_bytes(),
    );
    hello.extend(extensions);
    let length = u16::try_from(hello.len()).expect("short");
    let mut record = vec![22, 3, 1];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(hello);
    record
}

/// SECURITY T8, T9: closed at once, and nothing that follows is read.
#[test]
fn browsers_and_clear_text_are_cut_off() {
    let popgate = popgate();
    let [pop3, pop3s, smtp, smtps, _] = popgate.addresses()[..] else {
        panic!("{:#?}", popgate.log())
    };
    let request = b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\nUSER demo\r\nPASS demo\r\nSTAT\r\n";
    for address in [pop3, smtp] {
        let mut connection = Connection::to(address);
        assert!(!connection.line().is_empty());
        connection.send(request);
        assert_eq!(connection.rest(), "");
    }
    for address in [pop3s, smtps] {
        let mut stream = handshake(address, &Client::default()).expect("a handshake");
        stream.write_all(request).expect("sent");
        let mut said = Vec::new();
        // That it ends without a farewell of TLS is an error to rustls.
        let _ = stream.read_to_end(&mut said);
        let lines = String::from_utf8(said).expect("text");
        assert_eq!(lines.lines().count(), 1, "{lines}");
    }
    for address in [pop3s, smtps] {
        for text in [&b"USER demo\r\nPASS demo\r\n"[..], request] {
            let mut connection = Connection::to(address);
            connection.send(text);
            let said = connection.octets();
            // At most an alert.
            assert!(said.first().is_none_or(|first| *first == 21), "{said:?}");
        }
    }
}

/// SECURITY R5, T9: a handshake that stalls, whatever trickles in, takes no longer than a login may.
#[test]
fn a_stalled_handshake_falls_under_the_login_limit() {
    let prepare = |folder: &Path| drop(write_pair(folder, "a", "a.example", 2090));
    let popgate = Popgate::start(&Setting {
        pop3: "listen_tls = [\"127.0.0.1:0\"]",
        sections: "[tls]\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"\n\
                   [timeouts]\nlogin = \"1s\"\n",
        first: "",
        prepare: Some(&prepare),
    });
    let [pop3, pop3s, _] = popgate.addresses()[..] else {
        panic!("{:#?}", popgate.log())
    };
    let mut silent = Connection::to(pop3s);
    let mut trickling = Connection::to(pop3s);
    let mut upgrading = Connection::to(pop3);
    upgrading.expect("+OK");
    assert_eq!(&upgrading.ask("STLS")[..3], "+OK");
    let hello = client_hello(0x0303, 0xc02b);
    trickling.send(&hello[..1]);
    upgrading.send(&hello[..20]);
    for connection in [&mut silent, &mut trickling, &mut upgrading] {
        assert_eq!(connection.octets(), b"");
    }
    let ended = wait_for(|| {
        let metrics = popgate.metrics();
        let rejected =
            "popgate_connections_rejected_total{listener=\"pop3s\",reason=\"tls_handshake\"}";
        let timed_out = "popgate_sessions_total{listener=\"pop3\",outcome=\"login_timeout\"}";
        let count = |name: &str| metrics.get(name).copied().unwrap_or_default();
        (count(rejected) > 1.5 && count(timed_out) > 0.5).then_some(())
    });
    assert!(ended.is_some());
}

/// SECURITY T1: over a real socket, in one segment with the command.
#[test]
fn what_is_glued_to_the_upgrade_is_dropped() {
    let popgate = popgate();
    let [pop3, _, smtp, ..] = popgate.addresses()[..] else {
        panic!("{:#?}", popgate.log())
    };
    for (address, command, reply) in [
        (pop3, "STLS\r\nUSER mallory\r\n", "+OK"),
        (smtp, "STARTTLS\r\nEHLO mallory\r\n", "220"),
    ] {
        let mut connection = Connection::to(address);
        connection.line();
        connection.send(command.as_bytes());
        connection.expect(reply);
        assert!(connection.stream.buffer().is_empty());
        let stream = connection.stream.into_inner();
        let mut stream = handshake_on(stream, &Client::default()).expect("a handshake");
        stream.write_all(b"QUIT\r\n").expect("sent");
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        assert!(
            said.starts_with(reply.replace("220", "221").as_str()),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
