//! TLS set-ups: what we show to clients, and how we check upstreams (RFC 8314, RFC 9325).

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::line_stream::ByteStream;

/// What we show to clients: TLS 1.2 and 1.3; ALPN `pop3` or none.
///
/// # Errors
/// When a file cannot be read, holds no certificate or key, or the key is not the certificate's.
pub fn acceptor(certificate: &Path, private_key: &Path) -> Result<TlsAcceptor, String> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|error| format!("{}: {error}", private_key.display()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("{}: {error}", certificate.display()))?;
    config.alpn_protocols = vec![b"pop3".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
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
            for certificate in certificates(ca_file)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("{}: {error}", ca_file.display()))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A chain of PEM certificates. The parser calls an empty file a success; we do not.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    match chain.is_empty() {
        true => Err(format!(
            "{}: there is no PEM certificate in it",
            file.display()
        )),
        false => Ok(chain),
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
