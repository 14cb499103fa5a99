//! The test's half of a TLS handshake, without any I/O of its own.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::ServerConnection;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig};

use super::wire::Wire;

/// The names on the certificate of both the gateway and the upstream.
const NAME: &str = "imap.example.com";

/// Files that popgate reads, and what the test's ends are set up with.
pub(crate) struct Certificates {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) private_key: PathBuf,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    _folder: tempfile::TempDir,
}

/// One authority for all tests of a process.
pub(crate) static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(Certificates::new);

impl Certificates {
    fn new() -> Self {
        popgate::tls::install_provider();
        let folder = tempfile::tempdir().expect("a folder");
        let authority_key = rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority =
            rcgen::CertifiedIssuer::self_signed(authority, authority_key).expect("an authority");
        // Its signatures are all of one length, so that an octet of a handshake is the same one every time.
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let certificate = rcgen::CertificateParams::new([NAME.to_owned()])
            .and_then(|params| params.signed_by(&key, &authority))
            .expect("a certificate");
        let write = |name: &str, pem: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).expect("written");
            path
        };
        let authority = write("authority.pem", authority.pem());
        let certificate = write("certificate.pem", certificate.pem());
        let private_key = write("key.pem", key.serialize_pem());
        Self {
            client: client(&authority),
            server: server(&certificate, &private_key),
            authority,
            certificate,
            private_key,
            _folder: folder,
        }
    }
}

fn client(authority: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(authority).expect("an authority");
    roots.add(authority).expect("an authority");
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    // So that its first flight is as long every time.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn server(certificate: &Path, private_key: &Path) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(private_key).expect("a key");
    let config = ServerConfig::builder().with_no_client_auth();
    Arc::new(config.with_single_cert(chain, key).expect("a pair"))
}

/// The test's half of a session.
pub(crate) struct Tls(Connection);

impl Tls {
    pub(crate) fn as_client() -> Self {
        Self::client(CERTIFICATES.client.clone())
    }

    /// Without SNI, as devices are that know no more than an address.
    pub(crate) fn as_nameless_client() -> Self {
        let mut config = ClientConfig::clone(&CERTIFICATES.client);
        config.enable_sni = false;
        Self::client(Arc::new(config))
    }

    fn client(config: Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from(NAME).expect("a name");
        let connection = ClientConnection::new(config, name);
        Self(connection.expect("a connection").into())
    }

    pub(crate) fn as_server() -> Self {
        let connection = ServerConnection::new(CERTIFICATES.server.clone());
        Self(connection.expect("a connection").into())
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Takes what came and sends what that calls for; the plain octets, or why there are none.
    pub(crate) fn take(&mut self, wire: &Wire, octets: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut unread = octets;
        let mut plain = Vec::new();
        let mut result = Ok(());
        while result.is_ok() && !unread.is_empty() {
            self.0.read_tls(&mut unread).expect("memory");
            result = self.0.process_new_packets().map(drop);
            // That there is no more for now is an error to it, and none to us.
            let _ = self.0.reader().read_to_end(&mut plain);
        }
        self.flush(wire);
        result.map(|()| plain)
    }

    pub(crate) fn send(&mut self, wire: &Wire, plain: &[u8]) {
        self.0.writer().write_all(plain).expect("memory");
        self.flush(wire);
    }

    fn flush(&mut self, wire: &Wire) {
        let mut out = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut out).expect("memory");
        }
        wire.send(&out);
    }
}
