//! [`CopyLogins`]: which credentials a mailbox has refused, so that one that is good for sending alone costs
//! its owner one refused IMAP login, and not one a message, which locks accounts.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

/// When a credential was refused. Who holds it is asking.
type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// What is known of the credentials of all sessions.
pub(super) struct CopyLogins {
    /// So that what is remembered of a credential is of no use outside of this process.
    keys: RandomState,
    turns: Mutex<HashMap<u64, Turn>>,
}

impl Default for CopyLogins {
    fn default() -> Self {
        Self {
            keys: RandomState::new(),
            turns: Mutex::default(),
        }
    }
}

impl CopyLogins {
    /// Whether the mailbox has refused this credential lately.
    pub(super) fn is_refused(&self, upstream: &Upstream, credential: &Credential) -> bool {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.get(&self.key(upstream, credential));
        let refused = turn.and_then(|turn| turn.try_lock().ok().and_then(|refused| *refused));
        is_lately(refused)
    }

    /// A connection that is logged in. As long as it is not known whether a credential is taken, one
    /// asks, and the others wait.
    ///
    /// # Errors
    /// `AuthRejected` also for a credential that was refused lately, without a word to the upstream.
    pub(super) async fn log_in(
        &self,
        upstream: &Arc<Upstream>,
        credential: &Credential,
    ) -> Result<ImapClient, Failure> {
        let turn = self.turn(self.key(upstream, credential));
        let Ok(mut refused) = timeout(TURN_PATIENCE, turn.lock()).await else {
            let cause = "another copy has been waiting for the answer to this login";
            return Err(FailureKind::UpstreamUnreachable.because(cause));
        };
        if is_lately(*refused) {
            let cause = "the mailbox has refused this login before, and is not asked again yet";
            return Err(FailureKind::AuthRejected.because(cause));
        }
        let mut imap = upstream.connect_anew().await?;
        match imap.authenticate(credential).await {
            Ok(()) => Ok(imap),
            Err(failure) => {
                if !may_pass(failure.kind) {
                    *refused = Some(Instant::now());
                }
                Err(failure)
            }
        }
    }

    fn key(&self, upstream: &Upstream, credential: &Credential) -> u64 {
        let fingerprint = credential.fingerprint(&self.keys);
        self.keys.hash_one((&upstream.settings().name, fingerprint))
    }

    fn turn(&self, key: u64) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&key) {
            return turn.clone();
        }
        let turn = Turn::default();
        if turns.len() >= CREDENTIALS_MAX {
            turns.retain(|_, turn| turn.try_lock().map_or(true, |refused| is_lately(*refused)));
        }
        if turns.len() < CREDENTIALS_MAX {
            turns.insert(key, turn.clone());
        }
        turn
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
