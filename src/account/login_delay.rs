//! The pause between two logins (RFC 2449 §6.5, §8.1.1): [`LoginDelay`].
//!
//! Only a credential that was accepted is made to wait. To answer any other from memory would tell a
//! guesser something, and keep the owner of an account out whose password somebody else gets wrong.

use std::hash::RandomState;
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use super::AccountKey;
use crate::sasl::Credential;

/// Accounts whose last login is remembered; beyond that, of new ones it is not.
const ACCOUNTS_MAX: usize = 100_000;

/// The last login of each account, for as long as it matters.
pub(super) struct LoginDelay {
    duration: Duration,
    /// So that what is remembered of a credential is of no use outside of this process.
    keys: RandomState,
    accepted: DashMap<AccountKey, Accepted>,
}

#[derive(Clone, Copy)]
struct Accepted {
    at: Instant,
    fingerprint: u64,
}

impl LoginDelay {
    /// Zero is no delay at all.
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            duration,
            keys: RandomState::new(),
            accepted: DashMap::new(),
        }
    }

    pub(super) fn duration(&self) -> Duration {
        self.duration
    }

    /// Whether it is this credential that the account was last opened with, less than the delay ago.
    /// That does not begin the delay anew, or a client that polls too often would never get in.
    pub(super) fn is_too_soon(&self, account: &AccountKey, credential: &Credential) -> bool {
        let accepted = self.accepted.get(account).map(|accepted| *accepted);
        accepted.is_some_and(|accepted| {
            self.matters(&accepted) && accepted.fingerprint == credential.fingerprint(&self.keys)
        })
    }

    /// The account was opened with this credential.
    pub(super) fn note(&self, account: AccountKey, credential: &Credential) {
        if self.duration.is_zero() {
            return;
        }
        if self.accepted.len() >= ACCOUNTS_MAX {
            self.accepted.retain(|_, accepted| self.matters(accepted));
        }
        if self.accepted.len() < ACCOUNTS_MAX || self.accepted.contains_key(&account) {
            let accepted = Accepted {
                at: Instant::now(),
                fingerprint: credential.fingerprint(&self.keys),
            };
            self.accepted.insert(account, accepted);
        }
    }

    fn matters(&self, accepted: &Accepted) -> bool {
        accepted.at.elapsed() < self.duration
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const DELAY: Duration = Duration::from_secs(60);

    fn account(owner: &str) -> AccountKey {
        ("default".into(), owner.as_bytes().into())
    }

    fn password(text: &str) -> Credential {
        Credential::password(b"joe", Secret::new(text.as_bytes().to_vec())).expect("sound")
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_accepted_last_waits() {
        let delay = LoginDelay::new(DELAY);
        let (joe, right, wrong) = (account("joe"), password("right"), password("wrong"));
        assert!(!delay.is_too_soon(&joe, &right));
        delay.note(joe.clone(), &right);
        assert!(delay.is_too_soon(&joe, &right));
        assert!(!delay.is_too_soon(&joe, &wrong));
        assert!(!delay.is_too_soon(&account("ann"), &right));
        tokio::time::advance(DELAY - Duration::from_millis(1)).await;
        assert!(delay.is_too_soon(&joe, &right));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!delay.is_too_soon(&joe, &right));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_limit_is_remembered_and_what_has_passed_makes_room() {
        let delay = LoginDelay::new(DELAY);
        let right = password("right");
        for number in 0..ACCOUNTS_MAX {
            delay.note(account(&number.to_string()), &right);
        }
        delay.note(account("joe"), &right);
        assert!(!delay.is_too_soon(&account("joe"), &right));
        delay.note(account("7"), &right);
        assert!(delay.is_too_soon(&account("7"), &right));
        assert_eq!(delay.accepted.len(), ACCOUNTS_MAX);
        tokio::time::advance(DELAY).await;
        delay.note(account("joe"), &right);
        assert_eq!(delay.accepted.len(), 1);
        assert!(delay.is_too_soon(&account("joe"), &right));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_delay_nothing_is_remembered() {
        let delay = LoginDelay::new(Duration::ZERO);
        delay.note(account("joe"), &password("right"));
        assert!(delay.accepted.is_empty());
        assert!(!delay.is_too_soon(&account("joe"), &password("right")));
    }
}
