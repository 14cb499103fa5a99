//! [`Certificates`]: what is shown to clients, by the name that they ask for (RFC 6066 §3), and read
//! again when the files change.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::{Alpn, certified, private_key, read_certificates};

/// PEM files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
}

/// The certificates of all listeners. Who asks for a name that none of them has gets the first.
pub struct Certificates {
    files: Vec<CertificateFiles>,
    /// As the files were when they could last be used; nothing as long as they cannot, so that they are
    /// tried again although nothing of them changes but who may read them.
    seen: Mutex<Vec<Option<Version>>>,
    shown: RwLock<Arc<[Pair]>>,
}

struct Pair {
    key: Arc<CertifiedKey>,
    /// Seconds since 1970.
    expires: u64,
}

/// What tells one file of a name from the next; links are followed, so that a swapped folder counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: u64,
    octets: u64,
    modified: (i64, i64),
}

impl Certificates {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// When a file cannot be read, holds no certificate or key, or the key is not the certificate's.
    pub fn read(files: Vec<CertificateFiles>) -> Result<Arc<Self>, String> {
        // Looked at first: what changes while it is read has changed.
        let seen = versions(&files);
        let shown = pairs(&files)?;
        Ok(Arc::new(Self {
            files,
            seen: Mutex::new(seen),
            shown: RwLock::new(shown),
        }))
    }

    /// Shows what is in the files now, if they are others than before, or could not be used; `None` if not.
    ///
    /// # Errors
    /// As [`Self::read`]: what was shown stays.
    pub fn reread_if_changed(&self) -> Option<Result<(), String>> {
        let now = versions(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return None;
        }
        let read = pairs(&self.files).map(|pairs| {
            *self.shown.write().unwrap_or_else(PoisonError::into_inner) = pairs;
        });
        *seen = match read {
            Ok(()) => now,
            Err(_) => Vec::new(),
        };
        Some(read)
    }

    /// When the first of them expires, in seconds since 1970.
    pub fn expires(&self) -> u64 {
        let shown = self.shown();
        shown.iter().map(|pair| pair.expires).min().unwrap_or(0)
    }

    /// Shows them to clients of one protocol: TLS 1.2 and 1.3.
    pub fn acceptor(self: &Arc<Self>, alpn: Alpn) -> TlsAcceptor {
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        // All that we have are good; the order is ours, AES-256 first, as auditors want it.
        config.ignore_client_order = true;
        config.alpn_protocols = match alpn {
            Alpn::Pop3 => vec![b"pop3".to_vec()],
            // An empty list would let every name pass, `http/1.1` as well (ALPACA); this one nobody has.
            Alpn::Submission => vec![b"smtp".to_vec()],
        };
        TlsAcceptor::from(Arc::new(config))
    }

    fn shown(&self) -> Arc<[Pair]> {
        let shown = self.shown.read();
        shown.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown();
        // An RSA certificate may stand beside an ECDSA one of the same name.
        let is_readable =
            |pair: &&Pair| (pair.key.key.choose_scheme(hello.signature_schemes())).is_some();
        let name = (hello.server_name()).and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| {
            let mut readable = shown.iter().filter(is_readable);
            readable.find(|pair| pair.is_for(&name))
        });
        let pair = named
            .or_else(|| shown.iter().find(is_readable))
            .or_else(|| shown.first())?;
        Some(pair.key.clone())
    }
}

/// Keys are never printed.
impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.files).finish()
    }
}

impl Pair {
    fn read(files: &CertificateFiles) -> Result<Self, String> {
        let CertificateFiles {
            certificate,
            private_key: key,
        } = files;
        let chain = read_certificates(certificate)?;
        let expires = expires(chain.first().map_or(&[], |leaf| &**leaf))
            .map_err(|error| format!("{certificate:?} holds no X.509 certificate: {error}"))?;
        let key = certified(chain, private_key(key)?)
            .map_err(|what| format!("{certificate:?}: the key {key:?} {what}"))?;
        Ok(Self {
            key: Arc::new(key),
            expires,
        })
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let leaf = self
            .key
            .end_entity_cert()
            .and_then(ParsedCertificate::try_from);
        leaf.is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
    }
}

fn pairs(files: &[CertificateFiles]) -> Result<Arc<[Pair]>, String> {
    files.iter().map(Pair::read).collect()
}

fn expires(der: &[u8]) -> Result<u64, x509_cert::der::Error> {
    let certificate = Certificate::from_der(der)?;
    let not_after = certificate.tbs_certificate().validity().not_after;
    Ok(not_after.to_unix_duration().as_secs())
}

/// A file that is missing for a moment is another one then.
fn versions(files: &[CertificateFiles]) -> Vec<Option<Version>> {
    let paths = files
        .iter()
        .flat_map(|files| [&files.certificate, &files.private_key]);
    paths.map(|path| version(path).ok()).collect()
}

fn version(path: &Path) -> io::Result<Version> {
    let metadata = fs::metadata(path)?;
    Ok(Version {
        inode: metadata.ino(),
        octets: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// What an EACCES between `cp` and `chown` leaves: a file that becomes readable, and is as old and as
    /// large as before.
    #[test]
    fn files_that_could_not_be_used_are_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = CertificateFiles {
            certificate: folder.path().join("a.crt"),
            private_key: folder.path().join("a.key"),
        };
        let pair = || {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(["a.example".to_owned()]).expect("a name");
            let certificate = params.self_signed(&key).expect("a certificate");
            (certificate.pem(), key.serialize_pem())
        };
        let write = |certificate: &str, key: &str| {
            fs::write(&files.certificate, certificate).expect("written");
            fs::write(&files.private_key, key).expect("written");
            for file in [&files.certificate, &files.private_key] {
                let file = fs::File::options().append(true).open(file);
                file.and_then(|file| file.set_modified(UNIX_EPOCH))
                    .expect("ours");
            }
        };
        let (certificate, key) = pair();
        write(&certificate, &key);
        let certificates = Certificates::read(vec![files.clone()]).expect("sound");
        assert_eq!(certificates.reread_if_changed(), None);

        let (certificate, key) = pair();
        write(
            &format!("another one\n{certificate}"),
            &"x".repeat(key.len()),
        );
        let unreadable = certificates.reread_if_changed();
        assert!(matches!(unreadable, Some(Err(_))), "{unreadable:?}");
        assert_eq!(certificates.reread_if_changed(), unreadable);
        let seen = versions(&certificates.files);
        write(&format!("another one\n{certificate}"), &key);
        assert_eq!(
            versions(&certificates.files),
            seen,
            "nothing seems to change"
        );
        assert_eq!(certificates.reread_if_changed(), Some(Ok(())));
        assert_eq!(certificates.reread_if_changed(), None);
    }
}
