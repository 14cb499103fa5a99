//! [`CopyLogins`]: which credentials a mailbox has refused, so that one that is good for sending alone costs
//! its owner one refused IMAP login, and not one a message, which locks accounts.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

use crate::failure::{Failure, FailureKind};
use crate::sasl::Credential;
use crate::upstream::{ImapClient, Upstream};

/// For so long a refused credential is not tried again; then its owner may have been permitted IMAP.
const REFUSED_FOR: Duration = Duration::from_secs(60 * 60);

/// Credentials that are remembered; beyond that, new ones are tried each time.
const CREDENTIALS_MAX: usize = 10_000;

/// For so long a copy waits while another one asks whether the same credential is taken.
const TURN_PATIENCE: Duration = Duration::from_secs(2 * 60);

/// When a credential was refused.
type Refused = Arc<Mutex<Option<Instant>>>;

/// Leave to ask whether a credential is taken, which one copy at a time has.
pub(super) struct Turn(OwnedMutexGuard<Option<Instant>>);

impl Turn {
    /// A connection that is logged in.
    ///
    /// # Errors
    /// When the upstream cannot be reached or refuses.
    pub(super) async fn log_in(
        mut self,
        upstream: &Arc<Upstream>,
        credential: &Credential,
    ) -> Result<ImapClient, Failure> {
        let mut imap = upstream.counted(upstream.connect_anew().await)?;
        let answer = imap.authenticate(credential).await;
        if let Err(failure) = &answer
            && !may_pass(failure.kind)
        {
            *self.0 = Some(Instant::now());
        }
        answer.map(|()| imap)
    }
}

/// What is known of the credentials of all sessions.
pub(super) struct CopyLogins {
    /// So that what is remembered of a credential is of no use outside of this process.
    keys: RandomState,
    known: std::sync::Mutex<HashMap<u64, Refused>>,
}

impl Default for CopyLogins {
    fn default() -> Self {
        Self {
            keys: RandomState::new(),
            known: std::sync::Mutex::default(),
        }
    }
}

impl CopyLogins {
    /// Whether the mailbox has refused this credential lately.
    pub(super) fn is_refused(&self, upstream: &Upstream, credential: &Credential) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = known.get(&self.key(upstream, credential));
        // Who asks just now does not know it either.
        refused.is_some_and(|refused| refused.try_lock().is_ok_and(|at| is_lately(*at)))
    }

    /// Waits until no other copy asks.
    ///
    /// # Errors
    /// `AuthRejected` when the credential was refused lately: the upstream is not asked again.
    pub(super) async fn turn(
        &self,
        upstream: &Upstream,
        credential: &Credential,
    ) -> Result<Turn, Failure> {
        let refused = self.refused(self.key(upstream, credential));
        let Ok(refused) = timeout(TURN_PATIENCE, refused.lock_owned()).await else {
            let cause = "another copy has been waiting for the answer to this login";
            return Err(FailureKind::UpstreamUnreachable.because(cause));
        };
        match is_lately(*refused) {
            true => Err(FailureKind::AuthRejected
                .because("the mailbox has refused this login before, and is not asked again yet")),
            false => Ok(Turn(refused)),
        }
    }

    /// By where the mailbox is, which may change while the upstream's name stays.
    fn key(&self, upstream: &Upstream, credential: &Credential) -> u64 {
        let fingerprint = credential.fingerprint(&self.keys);
        let endpoint = &upstream.settings().imap;
        (self.keys).hash_one((&endpoint.host, endpoint.port, fingerprint))
    }

    fn refused(&self, key: u64) -> Refused {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = known.get(&key) {
            return refused.clone();
        }
        let new = Refused::default();
        if known.len() >= CREDENTIALS_MAX {
            known.retain(|_, refused| refused.try_lock().map_or(true, |at| is_lately(*at)));
        }
        if known.len() < CREDENTIALS_MAX {
            known.insert(key, new.clone());
        }
        new
    }
}

fn is_lately(refused: Option<Instant>) -> bool {
    refused.is_some_and(|at| at.elapsed() < REFUSED_FOR)
}

/// A wrong password or a missing folder will not mend itself.
pub(super) fn may_pass(kind: FailureKind) -> bool {
    !matches!(
        kind,
        FailureKind::AuthRejected | FailureKind::OurMistake | FailureKind::Misconfigured
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Endpoint, EndpointSecurity, Service};
    use crate::metrics::Metrics;
    use crate::secret::Secret;
    use crate::upstream::TcpDialer;

    fn upstream(name: &str, host: &str) -> Upstream {
        crate::tls::install_provider();
        let endpoint = Endpoint {
            service: Service::Imap,
            host: host.to_owned(),
            port: 993,
            security: EndpointSecurity::Implicit,
        };
        let settings = Arc::new(config::Upstream::new(name, endpoint));
        let metrics = Arc::new(Metrics::new(&[name], &[]).expect("sound families"));
        let (second, dialer) = (Duration::from_secs(1), Arc::new(TcpDialer));
        Upstream::new(settings, second, dialer, metrics).expect("the system's roots")
    }

    #[tokio::test]
    async fn what_one_server_has_refused_another_one_is_asked() {
        let logins = CopyLogins::default();
        let secret = Secret::new(b"secret".to_vec());
        let credential = Credential::password(b"joe", secret).expect("sound");
        let before = upstream("default", "imap.example.com");
        let turn = logins.turn(&before, &credential).await;
        *turn.map(|turn| turn.0).expect("unknown so far") = Some(Instant::now());
        assert!(logins.is_refused(&before, &credential));
        let same = upstream("renamed", "imap.example.com");
        assert!(logins.is_refused(&same, &credential));
        // The settings were read again, and have the mailboxes elsewhere.
        let moved = upstream("default", "imap.example.net");
        assert!(!logins.is_refused(&moved, &credential));
    }
}
