//! Checks PEM files before anything depends on them.

use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The certificates in `path`, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
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
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "{path:?} contains no private key; it must have a BEGIN PRIVATE KEY line and no password"
        ),
        error => unreadable(path, &error),
    })
}

/// Whether a server can be made of the two.
pub(super) fn check_pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), String> {
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(_) => Ok(()),
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

/// Only looks at keys, so that it need not be the one that the process installs.
fn provider() -> CryptoProvider {
    #[cfg(feature = "aws-lc-rs")]
    return rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return rustls::crypto::ring::default_provider();
}
