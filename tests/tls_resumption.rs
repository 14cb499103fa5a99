//! The second connection to an upstream, and the second one of a client, resumes the TLS session of the
//! first: no certificate is sent or verified again (RFC 8446 §2.2).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use popgate::tls::{self, Alpn, CertificateFiles, Certificates};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const NAME: &str = "imap.example.com";

/// Octets that a pipe holds.
const PIPE_OCTETS: usize = 16 * 1024;

struct Pair {
    certificate: PathBuf,
    private_key: PathBuf,
    _folder: tempfile::TempDir,
}

fn self_signed() -> Pair {
    tls::install_provider();
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    let write = |name: &str, pem: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).expect("written");
        path
    };
    Pair {
        certificate: write("certificate.pem", made.cert.pem()),
        private_key: write("key.pem", made.signing_key.serialize_pem()),
        _folder: folder,
    }
}

fn chain(path: &Path) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    tls::read_certificates(path).expect("certificates")
}

#[tokio::test]
async fn an_upstream_is_spoken_to_again_without_a_full_handshake() {
    let pair = self_signed();
    let key = tls::private_key(&pair.private_key).expect("a key");
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain(&pair.certificate), key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let connector = tls::connector(Some(&pair.certificate)).expect("roots");
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = duplex(PIPE_OCTETS);
        let (stream, accepted) = tokio::join!(
            tls::connect(&connector, NAME, Box::new(ours)),
            acceptor.accept(theirs)
        );
        let mut accepted = accepted.expect("a handshake");
        kinds.push(accepted.get_ref().1.handshake_kind());
        talk(&mut accepted, stream.expect("a handshake")).await;
    }
    assert_eq!(
        kinds,
        [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]
    );
}

#[tokio::test]
async fn a_client_comes_again_without_a_full_handshake() {
    let pair = self_signed();
    let files = CertificateFiles {
        certificate: pair.certificate.clone(),
        private_key: pair.private_key.clone(),
    };
    let certificates = Certificates::read(vec![files]).expect("a pair");
    let acceptor = certificates.acceptor(Alpn::Pop3);
    let mut roots = RootCertStore::empty();
    for certificate in chain(&pair.certificate) {
        roots.add(certificate).expect("a root");
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(NAME).expect("a name");
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = duplex(PIPE_OCTETS);
        let (accepted, stream) = tokio::join!(
            tls::accept(&acceptor, Box::new(theirs)),
            connector.connect(name.clone(), ours)
        );
        let mut stream = stream.expect("a handshake");
        kinds.push(stream.get_ref().1.handshake_kind());
        talk(accepted.expect("a handshake"), &mut stream).await;
    }
    assert_eq!(
        kinds,
        [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]
    );
}

/// The server's first word brings the tickets with it.
async fn talk(
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
) {
    server.write_all(b"+OK").await.expect("written");
    server.flush().await.expect("sent");
    let mut word = [0; 3];
    client.read_exact(&mut word).await.expect("read");
    assert_eq!(&word, b"+OK");
}
