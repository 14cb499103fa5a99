//! What guessing passwords costs (CWE-307): [`Guesses`].
//!
//! A credential that an upstream has just refused is not shown to it again, so that a device with an old
//! password does not get its account locked there. And whoever gets passwords wrong has so many attempts
//! at an upstream, which come back one by one; more have to wait for them, and are put off if that takes
//! too long. An attempt counts while it is under way, so that many at once gain nothing.
//!
//! Attempts are counted by whose mailbox and which address together: somebody else who gets a password
//! wrong keeps nobody out. Beside that they are counted by address alone, for who tries one password at
//! many mailboxes; but not those at a mailbox that was opened from there before.
//!
//! All that is kept are hashes under keys of this process, times and counts.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::time::{Instant, sleep_until};

use super::AccountKey;
use super::network::network;
use crate::failure::{Failure, FailureKind};
use crate::sasl::Credential;

/// How long a refused credential is answered from memory.
const REFUSAL_REMEMBERED: Duration = Duration::from_secs(60);

/// Attempts at one mailbox from one address.
const OF_PAIR: Allowance = Allowance {
    attempts: 10,
    returns_after: Duration::from_secs(5),
};

/// Attempts from one address, at mailboxes that it has not opened yet.
const OF_ADDRESS: Allowance = Allowance {
    attempts: 25,
    returns_after: Duration::from_secs(3),
};

/// How long an attempt waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks whether it is its turn, while that depends on others.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Entries of each of the tables, of at most 64 octets.
const ENTRIES_MAX: usize = 100_000;

/// So many wrong attempts may be made, and one more each time that this has passed.
#[derive(Clone, Copy)]
struct Allowance {
    attempts: u32,
    returns_after: Duration,
}

/// What is remembered of those who get passwords wrong, and what may be tried now.
pub(super) struct Guesses {
    /// So that what is remembered is of no use outside of this process.
    keys: RandomState,
    /// By mailbox and credential.
    credentials: DashMap<u64, Tried>,
    /// By mailbox and address.
    pairs: DashMap<u64, Spent>,
    addresses: DashMap<u64, Spent>,
}

/// What is known of a credential.
#[derive(Clone, Copy)]
enum Tried {
    /// The upstream is being asked, for a client whose mailbox was not opened from there before.
    UnderWay,
    Refused {
        at: Instant,
        /// How long the upstream took for it.
        after: Duration,
    },
}

/// How much of an allowance is used.
#[derive(Clone, Copy)]
struct Spent {
    under_way: u32,
    /// When all that was spent will have come back.
    whole_at: Instant,
    /// Whether a mailbox was opened.
    accepted: bool,
}

/// Leave to ask the upstream about a credential once. Dropped without a word about what came of it, it
/// counts for nothing.
pub struct Attempt<'a> {
    guesses: &'a Guesses,
    credential: u64,
    pair: u64,
    /// None where the mailbox was opened from there before: then the address does not count, and nobody
    /// else waits for what comes of this.
    address: Option<u64>,
    started: Instant,
}

impl Guesses {
    pub(super) fn new() -> Self {
        Self {
            keys: RandomState::new(),
            credentials: DashMap::new(),
            pairs: DashMap::new(),
            addresses: DashMap::new(),
        }
    }

    /// Leave to ask the upstream, as soon as it can be given.
    ///
    /// # Errors
    /// `AuthRejected` for what it has just refused, after as long as that took it, so that nobody learns
    /// what others have tried; `TooManyGuesses` when it would take more than [`PATIENCE`].
    pub(super) async fn attempt(
        &self,
        account: &AccountKey,
        credential: &Credential,
        address: IpAddr,
    ) -> Result<Attempt<'_>, Failure> {
        let (upstream, owner) = account;
        let owner = owner.to_ascii_lowercase();
        let network = network(address);
        let pair = self.key((upstream, &owner, network));
        let address = self.key(network);
        let credential = self.key((upstream, &owner, credential.fingerprint(&self.keys)));
        let patience_ends = Instant::now() + PATIENCE;
        loop {
            if let Some(after) = self.refusal(credential) {
                tokio::time::sleep(after).await;
                return Err(FailureKind::AuthRejected.because(REMEMBERED));
            }
            let next = match self.begin(credential, pair, address) {
                Ok(attempt) => return Ok(attempt),
                Err(next) => next,
            };
            sleep_until(next.min(patience_ends)).await;
            if Instant::now() >= patience_ends {
                let cause = "too many wrong passwords from this address";
                return Err(FailureKind::TooManyGuesses.because(cause));
            }
        }
    }

    fn key(&self, of: impl Hash) -> u64 {
        self.keys.hash_one(of)
    }

    /// How long the upstream took to refuse this credential, if it did so a moment ago.
    fn refusal(&self, credential: u64) -> Option<Duration> {
        match self.credentials.get(&credential).as_deref() {
            Some(Tried::Refused { at, after }) if at.elapsed() < REFUSAL_REMEMBERED => Some(*after),
            Some(Tried::Refused { .. } | Tried::UnderWay) | None => None,
        }
    }

    /// Takes one of each allowance, or says when to look again.
    fn begin(&self, credential: u64, pair: u64, address: u64) -> Result<Attempt<'_>, Instant> {
        make_room(&self.credentials, Tried::matters);
        make_room(&self.pairs, Spent::matters);
        make_room(&self.addresses, Spent::matters);
        // Locked in this order by nobody but here, so that nobody waits for each other.
        let of_credential = self.credentials.entry(credential);
        if let Entry::Occupied(tried) = &of_credential
            && matches!(tried.get(), Tried::UnderWay)
        {
            return Err(Instant::now() + LOOK_AGAIN);
        }
        let mut of_pair = self.pairs.entry(pair).or_insert_with(Spent::nothing);
        of_pair.may_begin(OF_PAIR)?;
        let is_known = of_pair.accepted;
        if !is_known {
            let mut of_address = self.addresses.entry(address).or_insert_with(Spent::nothing);
            of_address.may_begin(OF_ADDRESS)?;
            of_address.under_way += 1;
            of_credential.insert(Tried::UnderWay);
        }
        of_pair.under_way += 1;
        Ok(Attempt {
            guesses: self,
            credential,
            pair,
            address: (!is_known).then_some(address),
            started: Instant::now(),
        })
    }
}

/// What the log says about an answer from memory.
const REMEMBERED: &str = "login: the upstream refused this very credential a moment ago";

impl Attempt<'_> {
    /// The upstream has said what it thinks of it, or has not.
    pub fn conclude(self, failure: Option<FailureKind>) {
        let is_wrong = failure == Some(FailureKind::AuthRejected);
        if is_wrong {
            let refused = Tried::Refused {
                at: Instant::now(),
                after: self.started.elapsed(),
            };
            self.guesses.credentials.insert(self.credential, refused);
        }
        let Guesses {
            pairs, addresses, ..
        } = self.guesses;
        if let Some(mut spent) = pairs.get_mut(&self.pair) {
            spent.accepted |= failure.is_none();
            if is_wrong {
                spent.spend(OF_PAIR);
            }
        }
        if let Some(address) = self.address.filter(|_| is_wrong)
            && let Some(mut spent) = addresses.get_mut(&address)
        {
            spent.spend(OF_ADDRESS);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Guesses {
            credentials,
            pairs,
            addresses,
            ..
        } = self.guesses;
        pairs.remove_if_mut(&self.pair, |_, spent| spent.end());
        if let Some(address) = self.address {
            addresses.remove_if_mut(&address, |_, spent| spent.end());
            credentials.remove_if(&self.credential, |_, tried| {
                matches!(tried, Tried::UnderWay)
            });
        }
    }
}

impl Tried {
    fn matters(&self) -> bool {
        match self {
            Self::UnderWay => true,
            Self::Refused { at, .. } => at.elapsed() < REFUSAL_REMEMBERED,
        }
    }
}

impl Spent {
    fn nothing() -> Self {
        Self {
            under_way: 0,
            whole_at: Instant::now(),
            accepted: false,
        }
    }

    /// Whether one more attempt can be wrong; otherwise when to look again.
    fn may_begin(&self, allowance: Allowance) -> Result<(), Instant> {
        let now = Instant::now();
        let missing = self.whole_at.saturating_duration_since(now);
        let taken = missing.as_secs_f64() / allowance.returns_after.as_secs_f64();
        // Rounded up: what has come back in part is not there yet.
        let free = f64::from(allowance.attempts) - taken.ceil();
        if f64::from(self.under_way) < free {
            return Ok(());
        }
        // Others may be right, and what they hold be free at once.
        if self.under_way > 0 {
            return Err(now + LOOK_AGAIN);
        }
        let all_but_one = allowance.returns_after * (allowance.attempts - 1);
        Err(self.whole_at - all_but_one)
    }

    /// One is not under way any more; whether that leaves nothing to remember.
    fn end(&mut self) -> bool {
        // After the table was cleared there is less than was begun.
        self.under_way = self.under_way.saturating_sub(1);
        !self.matters()
    }

    /// One was wrong.
    fn spend(&mut self, allowance: Allowance) {
        self.whole_at = self.whole_at.max(Instant::now()) + allowance.returns_after;
    }

    fn matters(&self) -> bool {
        self.accepted || self.under_way > 0 || self.whole_at > Instant::now()
    }
}

/// Forgets what does not matter any more when a table is full, and if that is not enough, everything:
/// an attacker who brings so many addresses is not held up by counting them, and nobody else shall be.
fn make_room<V: Copy>(table: &DashMap<u64, V>, matters: impl Fn(&V) -> bool) {
    if table.len() < ENTRIES_MAX {
        return;
    }
    table.retain(|_, value| matters(value));
    if table.len() >= ENTRIES_MAX {
        table.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::secret::Secret;

    const HERE: &str = "2001:db8:1:2::7";
    const NEXT_DOOR: &str = "2001:db8:1:2:3:4:5:6";
    const ELSEWHERE: &str = "2001:db8:1:3::7";

    /// How long the upstream takes to answer.
    const ROUND_TRIP: Duration = Duration::from_millis(50);

    /// An upstream at which `right` is everybody's password.
    #[derive(Clone)]
    struct Asked {
        guesses: Arc<Guesses>,
        times: Arc<AtomicU32>,
    }

    impl Asked {
        fn new() -> Self {
            Self {
                guesses: Arc::new(Guesses::new()),
                times: Arc::default(),
            }
        }

        async fn log_in(&self, login: &str, password: &str, from: &str) -> Result<(), FailureKind> {
            let account = ("default".into(), login.as_bytes().to_vec());
            let secret = Secret::new(password.as_bytes().to_vec());
            let credential = Credential::password(login.as_bytes(), secret).expect("sound");
            let address = from.parse().expect("an address");
            let attempt = self.guesses.attempt(&account, &credential, address).await;
            let attempt = attempt.map_err(|failure| failure.kind)?;
            self.times.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(ROUND_TRIP).await;
            let refused = (password != "right").then_some(FailureKind::AuthRejected);
            attempt.conclude(refused);
            refused.map_or(Ok(()), Err)
        }

        fn times(&self) -> u32 {
            self.times.swap(0, Ordering::Relaxed)
        }

        /// So many guesses at once, each by what its number says.
        async fn storm(&self, guesses: u32, guess: impl Fn(u32) -> [String; 3]) {
            let storm: Vec<_> = (0..guesses)
                .map(|number| {
                    let (asked, [login, password, from]) = (self.clone(), guess(number));
                    tokio::spawn(async move { asked.log_in(&login, &password, &from).await })
                })
                .collect();
            for guess in storm {
                let _ = guess.await.expect("no panic");
            }
        }
    }

    /// A timer has milliseconds, which are rounded up.
    fn takes_round_trips(began: Instant, times: u32) -> bool {
        let tolerance = 2 * times * Duration::from_millis(1);
        (times * ROUND_TRIP..=times * ROUND_TRIP + tolerance).contains(&began.elapsed())
    }

    fn password(number: u32) -> [String; 3] {
        ["joe".to_owned(), format!("{number}"), HERE.to_owned()]
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_not_asked_again_for_a_while_and_takes_as_long() {
        let asked = Asked::new();
        let rejected = Err(FailureKind::AuthRejected);
        assert_eq!(asked.log_in("joe", "wrong", HERE).await, rejected);
        for from in [HERE, ELSEWHERE] {
            let began = Instant::now();
            assert_eq!(asked.log_in("joe", "wrong", from).await, rejected);
            assert!(takes_round_trips(began, 1), "as the upstream");
        }
        assert_eq!(asked.times(), 1);
        assert_eq!(asked.log_in("ann", "wrong", HERE).await, rejected);
        tokio::time::advance(REFUSAL_REMEMBERED).await;
        assert_eq!(asked.log_in("joe", "wrong", HERE).await, rejected);
        assert_eq!(asked.times(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_password_at_many_connections_is_asked_once() {
        let asked = Asked::new();
        asked
            .storm(20, |_| ["joe".into(), "wrong".into(), HERE.into()])
            .await;
        assert_eq!(asked.times(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_one_after_the_other_come_back_one_by_one() {
        let asked = Asked::new();
        let began = Instant::now();
        let mut number = 0;
        while began.elapsed() < PATIENCE {
            let [login, password, from] = password(number);
            let _ = asked.log_in(&login, &password, &from).await;
            number += 1;
        }
        assert!(
            (11..=13).contains(&asked.times()),
            "ten, and a few came back"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_at_once_are_no_more() {
        let asked = Asked::new();
        asked.storm(200, password).await;
        assert!((11..=13).contains(&asked.times()));
        let late = asked.log_in("joe", "another", NEXT_DOOR).await;
        assert_eq!(late, Err(FailureKind::AuthRejected), "the same site waits");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_else_waits() {
        let asked = Asked::new();
        let attack = tokio::spawn({
            let asked = asked.clone();
            async move { asked.storm(20, password).await }
        });
        tokio::time::sleep(2 * ROUND_TRIP).await;
        let began = Instant::now();
        assert_eq!(asked.log_in("joe", "right", ELSEWHERE).await, Ok(()));
        assert_eq!(asked.log_in("ann", "right", HERE).await, Ok(()));
        assert!(takes_round_trips(began, 2));
        attack.await.expect("no panic");
        assert_eq!(
            asked.log_in("joe", "right", HERE).await,
            Ok(()),
            "after a while"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_password_at_many_mailboxes_is_a_guess_as_well() {
        let asked = Asked::new();
        assert_eq!(asked.log_in("ann", "right", HERE).await, Ok(()));
        asked.times();
        let spray = tokio::spawn({
            let asked = asked.clone();
            let guess = |number| [format!("user{number}"), "wrong".into(), HERE.into()];
            async move { asked.storm(200, guess).await }
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(asked.times(), OF_ADDRESS.attempts);
        let began = Instant::now();
        assert_eq!(asked.log_in("ann", "right", HERE).await, Ok(()));
        assert!(takes_round_trips(began, 1), "known from there");
        asked.times();
        spray.await.expect("no panic");
        assert!(asked.times() <= 3, "a few come back meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_right_is_never_held_up() {
        let asked = Asked::new();
        for _ in 0..100 {
            assert_eq!(asked.log_in("joe", "right", HERE).await, Ok(()));
        }
        let users = |number| [format!("user{number}"), "right".into(), HERE.into()];
        asked.times();
        asked.storm(1000, users).await;
        assert_eq!(asked.times(), 1000);
        assert!(asked.guesses.addresses.is_empty() && asked.guesses.credentials.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_upstream_did_not_judge_counts_for_nothing() {
        let asked = Asked::new();
        let account = ("default".into(), b"joe".to_vec());
        let secret = Secret::new(b"right".to_vec());
        let credential = Credential::password(b"joe", secret).expect("sound");
        let address = HERE.parse().expect("an address");
        for number in 0..100 {
            let attempt = asked.guesses.attempt(&account, &credential, address);
            let attempt = attempt.await.expect("no guess");
            match number % 2 {
                0 => attempt.conclude(Some(FailureKind::UpstreamUnreachable)),
                _ => drop(attempt),
            }
        }
        assert!(asked.guesses.pairs.is_empty() && asked.guesses.addresses.is_empty());
        assert!(asked.guesses.credentials.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_limit_is_remembered() {
        let table = DashMap::new();
        let now = Instant::now();
        for key in 0..ENTRIES_MAX as u64 {
            let after = Duration::ZERO;
            table.insert(key, Tried::Refused { at: now, after });
        }
        tokio::time::advance(REFUSAL_REMEMBERED / 2).await;
        make_room(&table, Tried::matters);
        assert!(table.is_empty(), "all of it mattered");
        for key in 0..ENTRIES_MAX as u64 {
            let after = Duration::ZERO;
            table.insert(key, Tried::Refused { at: now, after });
        }
        table.insert(7, Tried::UnderWay);
        tokio::time::advance(REFUSAL_REMEMBERED / 2).await;
        make_room(&table, Tried::matters);
        assert_eq!(table.len(), 1, "what has passed makes room");
        assert!(size_of::<(u64, Tried)>() <= 64 && size_of::<(u64, Spent)>() <= 64);
    }
}
