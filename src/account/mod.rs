//! Who may log in: which upstream a login belongs to, how many sessions it may have and how often, who
//! has a maildrop to itself, and what guessing passwords costs.

mod guesses;
mod login_delay;
mod login_name;
mod network;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;

use crate::config::{self, Service};
use crate::failure::{Failure, FailureKind};
use crate::sasl::Credential;
use crate::upstream::Upstream;
pub use guesses::Attempt;
use guesses::Guesses;
use login_delay::LoginDelay;
pub use network::network;

/// A mailbox as the memory of popgate knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MailboxKey {
    /// The upstream's name in the config.
    pub upstream: Arc<str>,
    /// Host and port of its IMAP service: a name may come to mean another server, whose UIDs are others.
    pub endpoint: String,
    /// Whose it is, as the upstream was told.
    pub owner: Arc<[u8]>,
    /// As in the config.
    pub folder: String,
}

/// An upstream's name in the config, and the owner of the mailbox as the upstream was told, in lower case.
pub type AccountKey = (Arc<str>, Arc<[u8]>);

/// Who may log in: whoever an upstream lets in.
pub struct Accounts {
    routes: config::Routes,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    login_delimiters: Vec<u8>,
    login_delay: Arc<LoginDelay>,
    guesses: Arc<Guesses>,
    connections_per_account: usize,
    connections: Counts<AccountKey>,
    exclusive: Counts<Arc<MailboxKey>>,
}

impl Accounts {
    /// With the upstreams by the names that the routes use.
    pub fn new(
        routes: config::Routes,
        upstreams: impl IntoIterator<Item = Arc<Upstream>>,
        logins: config::Logins,
        connections_per_account: usize,
    ) -> Self {
        let by_name = |upstream: Arc<Upstream>| (upstream.settings().name.clone(), upstream);
        Self {
            routes,
            upstreams: upstreams.into_iter().map(by_name).collect(),
            login_delimiters: logins.delimiters,
            login_delay: Arc::new(LoginDelay::new(logins.delay)),
            guesses: Arc::new(Guesses::new()),
            connections_per_account,
            connections: Counts::default(),
            exclusive: Counts::default(),
        }
    }

    /// These, with what is counted and remembered of sessions by `before`, which they follow.
    #[must_use]
    pub fn following(self, before: &Self) -> Self {
        let login_delay = match before.login_delay() == self.login_delay() {
            true => before.login_delay.clone(),
            false => self.login_delay,
        };
        Self {
            login_delay,
            guesses: before.guesses.clone(),
            connections: before.connections.clone(),
            exclusive: before.exclusive.clone(),
            ..self
        }
    }

    /// All upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// Which octet of a login as typed stands for `@`; none where a `[[route]]` knows it as it is.
    pub fn delimiter(&self, typed: &[u8]) -> Option<usize> {
        match self.routes.matching(&String::from_utf8_lossy(typed)) {
            Some(_) => None,
            None => login_name::delimiter(typed, &self.login_delimiters),
        }
    }

    /// The upstream for a login.
    ///
    /// # Errors
    /// `Misconfigured` when no route takes it.
    pub fn upstream(&self, login: &[u8]) -> Result<&Arc<Upstream>, Failure> {
        let typed = String::from_utf8_lossy(login);
        self.routes
            .upstream(&typed)
            .and_then(|settings| self.upstreams.get(&settings.name))
            .ok_or_else(|| {
                FailureKind::Misconfigured
                    .because("no [[route]] takes this login, and there is no [upstream.default]")
            })
    }

    /// How long an accepted credential has to wait before it is let in again.
    pub fn login_delay(&self) -> Duration {
        self.login_delay.duration()
    }

    /// Whether this credential may open a maildrop again already.
    ///
    /// # Errors
    /// `LoginTooSoon` when it was accepted less than the delay ago.
    pub fn check_delay(&self, upstream: &Upstream, credential: &Credential) -> Result<(), Failure> {
        if self.login_delay().is_zero() {
            return Ok(());
        }
        let account = account_key(upstream, credential.mailbox_owner());
        match self.login_delay.is_too_soon(&account, credential) {
            true => Err(FailureKind::LoginTooSoon.because("pop3.login_delay has not passed")),
            false => Ok(()),
        }
    }

    /// Leave to ask this service of the upstream once whether this credential is right, for a client at this address.
    ///
    /// # Errors
    /// `AuthRejected` when the upstream has just refused it, `TooManyGuesses` when too many were wrong,
    /// `AuthUnavailable` when it does not decide about those that were before it.
    pub async fn attempt(
        &self,
        upstream: &Upstream,
        service: Service,
        credential: &Credential,
        address: IpAddr,
    ) -> Result<Attempt<'_>, Failure> {
        let name = &upstream.settings().name;
        self.guesses
            .attempt(name, service, credential, address)
            .await
    }

    /// A session of this credential has begun.
    pub fn note_login(&self, upstream: &Upstream, credential: &Credential) {
        if !self.login_delay().is_zero() {
            let account = account_key(upstream, credential.mailbox_owner());
            self.login_delay.note(account, credential);
        }
    }

    /// Leave to have one more connection to this owner's mailboxes, until the permit is dropped.
    ///
    /// # Errors
    /// `Overloaded` when it has `limits.upstream_connections_per_account` already.
    pub fn connection(
        &self,
        upstream: &Upstream,
        owner: impl Into<Arc<[u8]>>,
    ) -> Result<Permit<AccountKey>, Failure> {
        self.connections
            .take(account_key(upstream, owner), self.connections_per_account)
            .ok_or_else(|| {
                FailureKind::Overloaded
                    .because("limits.upstream_connections_per_account is reached")
            })
    }

    /// Leave to have a maildrop alone, until the permit is dropped.
    ///
    /// # Errors
    /// `MaildropInUse` when somebody has it.
    pub fn maildrop(&self, key: &Arc<MailboxKey>) -> Result<Permit<Arc<MailboxKey>>, Failure> {
        let owner = in_one_case(key.owner.clone());
        let key = match owner == key.owner {
            true => key.clone(),
            false => Arc::new(MailboxKey {
                owner,
                ..MailboxKey::clone(key)
            }),
        };
        self.exclusive.take(key, 1).ok_or_else(|| {
            FailureKind::MaildropInUse
                .because("maildrop.sessions is exclusive, and another session has it")
        })
    }
}

fn account_key(upstream: &Upstream, owner: impl Into<Arc<[u8]>>) -> AccountKey {
    (upstream.settings().name.clone(), in_one_case(owner.into()))
}

/// For what is only counted. Most servers take `Joe` for `joe`; what is remembered of a mailbox must not be
/// shared on such a guess.
fn in_one_case(owner: Arc<[u8]>) -> Arc<[u8]> {
    match owner.iter().any(u8::is_ascii_uppercase) {
        true => owner.to_ascii_lowercase().into(),
        false => owner,
    }
}

/// How many of something are out, by key; a key is forgotten when none are.
pub struct Counts<K: Eq + Hash>(Arc<DashMap<K, usize>>);

/// The same counts.
impl<K: Eq + Hash> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::new(DashMap::new()))
    }
}

impl<K: Eq + Hash + Clone> Counts<K> {
    /// One more, until the permit is dropped; `None` when there are `max` already.
    pub fn take(&self, key: K, max: usize) -> Option<Permit<K>> {
        let mut count = self.0.entry(key.clone()).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Permit {
            counts: self.0.clone(),
            key,
        })
    }
}

/// Counts for one until it is dropped.
pub struct Permit<K: Eq + Hash> {
    counts: Arc<DashMap<K, usize>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        self.counts.remove_if_mut(&self.key, |_, count| {
            *count -= 1;
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_and_leave_nothing_behind() {
        let counts = Counts::default();
        let first = counts.take("joe", 2);
        let second = counts.take("joe", 2);
        assert!(first.is_some() && second.is_some() && counts.take("joe", 2).is_none());
        assert!(counts.take("ann", 2).is_some());
        drop(first);
        assert!(counts.take("joe", 2).is_some());
        drop(second);
        assert!(counts.0.is_empty());
    }
}
