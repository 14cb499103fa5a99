//! TLS set-ups: what we show to clients ([`Certificates`]), and how we check upstreams (RFC 8314, RFC
//! 9325).

mod certificates;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
pub use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;

pub use self::certificates::{CertificateFiles, Certificates};

use crate::line_stream::ByteStream;

/// What all of rustls computes with; without it the set-ups below would panic. Once a process.
pub fn install_provider() {
    // The only refusal is that there is one already, which is as good.
    let _ = provider().install_default();
}

fn provider() -> CryptoProvider {
    #[cfg(feature = "aws-lc-rs")]
    return rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return rustls::crypto::ring::default_provider();
}

/// What a client may name in ALPN; none at all is right as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// `pop3` (RFC 7595)
    Pop3,
    /// `smtp`, which is no registered name: submission has none (RFC 7301, IANA).
    Submission,
}

/// How we check an upstream: against the system's roots, or those of `ca_file` alone.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, String> {
    let builder = ClientConfig::builder();
    let config = match ca_file {
        None => builder
            .with_platform_verifier()
            .map_err(|error| format!("the system's certificate roots: {error}"))?
            .with_no_client_auth(),
        Some(ca_file) => {
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(ca_file)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("{ca_file:?}: {error}"))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The PEM certificates in `path`, at least one. The parser calls an empty file a success; we do not.
///
/// # Errors
/// For a person, with the path and what would be right.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(path, &error))?;
    match certificates.is_empty() {
        true => Err(format!(
            "{path:?} contains no certificate; it must have a BEGIN CERTIFICATE line"
        )),
        false => Ok(certificates),
    }
}

/// The first private key in `path`.
///
/// # Errors
/// For a person, with the path and what would be right.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "{path:?} contains no private key; it must have a BEGIN PRIVATE KEY line and no password"
        ),
        error => unreadable(path, &error),
    })
}

/// Whether a server can be made of the two.
///
/// # Errors
/// For a person, as something that is wrong with the key.
pub fn check_pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), String> {
    certified(chain, key).map(drop)
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(certified) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("does not belong to the certificate; name the key that it was made for".to_owned())
        }
        Err(error) => Err(format!("cannot be used with the certificate: {error}")),
    }
}

fn unreadable(path: &Path, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("{path:?} cannot be read: {error}"),
        error => format!("{path:?} is not a PEM file: {error}"),
    }
}

/// The client's half of a handshake; the certificate must be `host`'s (RFC 9525).
///
/// # Errors
/// [`is_certificate_trouble`] tells a certificate that an operator must act on from other trouble.
pub async fn connect(
    connector: &TlsConnector,
    host: &str,
    transport: Box<dyn ByteStream>,
) -> io::Result<Box<dyn ByteStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = connector.connect(name, transport).await?;
    Ok(Box::new(stream))
}

/// The server's half of a handshake.
///
/// # Errors
/// When the client breaks it off or does not speak TLS 1.2 or 1.3.
pub async fn accept(
    acceptor: &TlsAcceptor,
    transport: Box<dyn ByteStream>,
) -> io::Result<Box<dyn ByteStream>> {
    let stream = acceptor.accept(transport).await?;
    Ok(Box::new(stream))
}

/// Whether a failed handshake will fail again until somebody changes a certificate.
pub fn is_certificate_trouble(error: &io::Error) -> bool {
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    matches!(source, Some(rustls::Error::InvalidCertificate(_)))
}
