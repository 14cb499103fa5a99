//! What guessing passwords costs (CWE-307): [`Guesses`].
//!
//! A credential that an upstream has just refused is not shown to it again, so that a device with an old
//! password does not get its account locked there. And whoever gets passwords wrong has so many attempts
//! at an upstream, which come back one by one; more have to wait for them, and are put off if that takes
//! too long. An attempt counts while it is under way, so that many at once gain nothing; and from the
//! moment at which the upstream may judge it, whatever comes of it but that it is accepted, so that nobody
//! gains by not waiting for the answer, or by an upstream that gives none.
//!
//! Attempts are counted by whose password it is and which address together: somebody else who gets one
//! wrong keeps nobody out. Beside that they are counted by address alone, at each upstream, for who tries one
//! password at many logins; but not those at a login that was accepted from there within a day.
//!
//! All that is kept are hashes under keys of this process, times and counts.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::network::network;
use crate::config::Service;
use crate::failure::{Failure, FailureKind};
use crate::sasl::Credential;

/// How long a refused credential is answered from memory.
const REFUSAL_REMEMBERED: Duration = Duration::from_secs(60);

/// How long a login is known at an address where it was accepted.
const ACCEPTANCE_REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Attempts at one login from one address.
const OF_PAIR: Allowance = Allowance {
    attempts: 10,
    returns_after: Duration::from_secs(5),
};

/// Attempts from one address at one upstream, at logins that are not known there.
const OF_ADDRESS: Allowance = Allowance {
    attempts: 25,
    returns_after: Duration::from_secs(3),
};

/// How long an attempt waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Entries of each of the tables, of at most 64 octets.
const ENTRIES_MAX: usize = 100_000;

/// How many of them are forgotten at a time where all of them matter.
const ENTRIES_FORGOTTEN: usize = ENTRIES_MAX / 10;

/// Those who wait are woken in so many groups: an attempt that ends wakes hardly any who do not wait for it.
const GROUPS: usize = 64;

/// So many wrong attempts may be made, and one more each time that this has passed.
#[derive(Clone, Copy)]
struct Allowance {
    attempts: u32,
    returns_after: Duration,
}

/// What is remembered of those who get passwords wrong, and what may be tried now.
pub(super) struct Guesses {
    /// So that what is remembered is of no use outside of this process.
    hasher: RandomState,
    /// By service, login and credential.
    credentials: DashMap<u64, Tried>,
    /// By login and address.
    pairs: DashMap<u64, Spent>,
    /// By upstream and address: one that hangs must not take the attempts at another one.
    addresses: DashMap<u64, Spent>,
    /// Fired when an attempt ends.
    ended: [Notify; GROUPS],
}

/// Where an attempt counts.
#[derive(Clone, Copy)]
struct Keys {
    credential: u64,
    pair: u64,
    address: u64,
}

/// What is known of a credential.
#[derive(Clone, Copy)]
enum Tried {
    /// The upstream is being asked, for a client at whose address the login is not known.
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
    /// The same, had only those been spent that the upstream called wrong.
    wrong_until: Instant,
    /// When the login was accepted last.
    accepted_at: Option<Instant>,
}

/// Leave to ask the upstream about a credential once. Dropped before [`Self::ask`], it counts for nothing;
/// after that it counts, unless the credential was accepted.
pub struct Attempt<'a> {
    guesses: &'a Guesses,
    keys: Keys,
    /// Where the login is known, the address does not count, and nobody else waits for what comes of this.
    is_known: bool,
    started: Instant,
    outcome: Outcome,
}

/// What has come of an attempt so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unasked,
    /// The upstream may have seen the credential.
    Asked,
    Accepted,
    Rejected,
}

/// Why an attempt has to wait.
struct HeldUp {
    /// Whose end it waits for.
    by: u64,
    /// When it may be its turn if none of those ends; `None`: never.
    until: Option<Instant>,
    /// Whether it is mostly wrong passwords that hold it up.
    is_guessing: bool,
}

impl Guesses {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            credentials: DashMap::new(),
            pairs: DashMap::new(),
            addresses: DashMap::new(),
            ended: std::array::from_fn(|_| Notify::new()),
        }
    }

    /// Leave to ask this service of the upstream of this name, as soon as it can be given.
    ///
    /// # Errors
    /// `AuthRejected` for what it has just refused, after as long as that took it, so that nobody learns
    /// what others have tried. When it would take more than [`PATIENCE`]: `TooManyGuesses`, or
    /// `AuthUnavailable` if that is rather for an upstream that does not answer.
    pub(super) async fn attempt(
        &self,
        upstream: &str,
        service: Service,
        credential: &Credential,
        address: IpAddr,
    ) -> Result<Attempt<'_>, Failure> {
        let keys = self.keys(upstream, service, credential, address);
        make_room(&self.credentials, Tried::worth);
        make_room(&self.pairs, Spent::worth);
        make_room(&self.addresses, Spent::worth);
        let patience_ends = Instant::now() + PATIENCE;
        loop {
            if let Some(after) = self.refusal(keys.credential) {
                tokio::time::sleep(after).await;
                return Err(FailureKind::AuthRejected.because(REMEMBERED));
            }
            // From here on, so that no end is missed between the look and the wait.
            let of_credential = self.ended(keys.credential).notified();
            let of_pair = self.ended(keys.pair).notified();
            let of_address = self.ended(keys.address).notified();
            let held_up = match self.begin(keys) {
                Ok(attempt) => return Ok(attempt),
                Err(held_up) => held_up,
            };
            if Instant::now() >= patience_ends {
                return Err(held_up.failure());
            }
            let an_end = match held_up.by {
                by if by == keys.credential => of_credential,
                by if by == keys.pair => of_pair,
                _ => of_address,
            };
            let until = held_up.until.unwrap_or(patience_ends);
            // Either is a reason to look again.
            let _ = timeout_at(until.min(patience_ends), an_end).await;
        }
    }

    /// Whose password is guessed is told by the login: as whom the client wants to act can be anybody.
    /// What one service refuses, the other may take: there are mailboxes without IMAP, and without SMTP AUTH. A
    /// guess it is at either.
    fn keys(
        &self,
        upstream: &str,
        service: Service,
        credential: &Credential,
        address: IpAddr,
    ) -> Keys {
        let login = credential.login().to_ascii_lowercase();
        let network = network(address);
        let fingerprint = credential.fingerprint(&self.hasher);
        Keys {
            credential: (self.hasher).hash_one((upstream, service, &login, fingerprint)),
            pair: self.hasher.hash_one((upstream, &login, network)),
            address: self.hasher.hash_one((upstream, network)),
        }
    }

    fn ended(&self, key: u64) -> &Notify {
        &self.ended[key as usize % GROUPS]
    }

    /// How long the upstream took to refuse this credential, if it did so a moment ago.
    fn refusal(&self, credential: u64) -> Option<Duration> {
        match self.credentials.get(&credential).as_deref() {
            Some(Tried::Refused { at, after }) if at.elapsed() < REFUSAL_REMEMBERED => Some(*after),
            Some(Tried::Refused { .. } | Tried::UnderWay) | None => None,
        }
    }

    /// Takes one of each allowance, or says what to wait for.
    fn begin(&self, keys: Keys) -> Result<Attempt<'_>, HeldUp> {
        // Locked in this order by nobody but here, so that nobody waits for each other.
        let of_credential = self.credentials.entry(keys.credential);
        if let Entry::Occupied(tried) = &of_credential
            && matches!(tried.get(), Tried::UnderWay)
        {
            return Err(HeldUp {
                by: keys.credential,
                until: None,
                is_guessing: false,
            });
        }
        let mut of_pair = self.pairs.entry(keys.pair).or_insert_with(Spent::nothing);
        of_pair.may_begin(OF_PAIR, keys.pair)?;
        let is_known = of_pair.is_known();
        if !is_known {
            let mut of_address = self
                .addresses
                .entry(keys.address)
                .or_insert_with(Spent::nothing);
            of_address.may_begin(OF_ADDRESS, keys.address)?;
            of_address.under_way += 1;
            of_credential.insert(Tried::UnderWay);
        }
        of_pair.under_way += 1;
        Ok(Attempt {
            guesses: self,
            keys,
            is_known,
            started: Instant::now(),
            outcome: Outcome::Unasked,
        })
    }
}

/// What the log says about an answer from memory.
const REMEMBERED: &str = "login: the upstream refused this very credential a moment ago";

impl HeldUp {
    fn failure(&self) -> Failure {
        match self.is_guessing {
            true => {
                FailureKind::TooManyGuesses.because("too many wrong passwords from this address")
            }
            false => FailureKind::AuthUnavailable
                .because("the upstream has not decided about other logins from this address"),
        }
    }
}

impl Attempt<'_> {
    /// From now on the upstream may see the credential.
    pub fn ask(&mut self) {
        self.outcome = Outcome::Asked;
    }

    /// It has turned out that the upstream has not seen it.
    pub fn take_back(&mut self) {
        self.outcome = Outcome::Unasked;
    }

    /// The upstream has said what it thinks of it, or has not.
    pub fn conclude(mut self, failure: Option<FailureKind>) {
        let Guesses {
            credentials, pairs, ..
        } = self.guesses;
        match failure {
            None => {
                self.outcome = Outcome::Accepted;
                if let Some(mut spent) = pairs.get_mut(&self.keys.pair) {
                    spent.accepted_at = Some(Instant::now());
                }
            }
            Some(FailureKind::AuthRejected) => {
                self.outcome = Outcome::Rejected;
                let refused = Tried::Refused {
                    at: Instant::now(),
                    after: self.started.elapsed(),
                };
                credentials.insert(self.keys.credential, refused);
            }
            Some(_) => {}
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Self {
            guesses,
            keys,
            outcome,
            ..
        } = *self;
        guesses
            .pairs
            .remove_if_mut(&keys.pair, |_, spent| spent.end(outcome, OF_PAIR));
        if !self.is_known {
            guesses
                .addresses
                .remove_if_mut(&keys.address, |_, spent| spent.end(outcome, OF_ADDRESS));
            guesses.credentials.remove_if(&keys.credential, |_, tried| {
                matches!(tried, Tried::UnderWay)
            });
        }
        for key in [keys.credential, keys.pair, keys.address] {
            guesses.ended(key).notify_waiters();
        }
    }
}

impl Tried {
    fn worth(&self) -> Worth {
        match self {
            Self::UnderWay => Worth {
                is_under_way: true,
                ..Worth::default()
            },
            Self::Refused { at, .. } => Worth {
                returns_after: REFUSAL_REMEMBERED.saturating_sub(at.elapsed()),
                ..Worth::default()
            },
        }
    }
}

impl Spent {
    fn nothing() -> Self {
        Self {
            under_way: 0,
            whole_at: Instant::now(),
            wrong_until: Instant::now(),
            accepted_at: None,
        }
    }

    /// Whether one more attempt can be wrong; otherwise what those of this `key` have to wait for.
    fn may_begin(&self, allowance: Allowance, key: u64) -> Result<(), HeldUp> {
        let now = Instant::now();
        let taken = |until: Instant| {
            let missing = until.saturating_duration_since(now);
            // Rounded up: what has come back in part is not there yet.
            (missing.as_secs_f64() / allowance.returns_after.as_secs_f64()).ceil()
        };
        let under_way = f64::from(self.under_way);
        let not_free = taken(self.whole_at) + under_way;
        if not_free < f64::from(allowance.attempts) {
            return Ok(());
        }
        let spent_at_most = allowance.attempts.checked_sub(self.under_way + 1);
        Err(HeldUp {
            by: key,
            until: spent_at_most.map(|spent| self.whole_at - allowance.returns_after * spent),
            is_guessing: 2.0 * taken(self.wrong_until) >= not_free,
        })
    }

    /// One is not under way any more; whether that leaves nothing to remember.
    fn end(&mut self, outcome: Outcome, allowance: Allowance) -> bool {
        // Where it was forgotten meanwhile, there is less than was begun.
        self.under_way = self.under_way.saturating_sub(1);
        let later = |until: Instant| until.max(Instant::now()) + allowance.returns_after;
        match outcome {
            Outcome::Unasked | Outcome::Accepted => {}
            Outcome::Asked => self.whole_at = later(self.whole_at),
            Outcome::Rejected => {
                self.whole_at = later(self.whole_at);
                self.wrong_until = later(self.wrong_until);
            }
        }
        self.worth() == Worth::default()
    }

    fn is_known(&self) -> bool {
        self.accepted_at
            .is_some_and(|at| at.elapsed() < ACCEPTANCE_REMEMBERED)
    }

    fn worth(&self) -> Worth {
        Worth {
            is_under_way: self.under_way > 0,
            returns_after: self.whole_at.saturating_duration_since(Instant::now()),
            accepted_at: self.accepted_at.filter(|_| self.is_known()),
        }
    }
}

/// How much an entry matters, nothing by default: first of all what is under way, then what is not
/// forgiven yet, then who came in last.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Worth {
    is_under_way: bool,
    returns_after: Duration,
    accepted_at: Option<Instant>,
}

/// Forgets what does not matter any more when a table is full, and if that is not enough, what matters
/// least: not all of it, since who brings so many addresses would begin anew with each of them, and not
/// nothing, since nobody else shall be kept out for want of room.
fn make_room<V>(table: &DashMap<u64, V>, worth: impl Fn(&V) -> Worth) {
    if table.len() < ENTRIES_MAX {
        return;
    }
    table.retain(|_, value| worth(value) != Worth::default());
    if table.len() < ENTRIES_MAX {
        return;
    }
    let mut entries: Vec<_> = table
        .iter()
        .map(|entry| (worth(entry.value()), *entry.key()))
        .collect();
    // Others may have made room meanwhile.
    if entries.len() > ENTRIES_FORGOTTEN {
        let (least, _, _) = entries.select_nth_unstable(ENTRIES_FORGOTTEN);
        for (_, key) in least {
            table.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::sasl::{Mechanism, Proof};
    use crate::secret::Secret;

    const HERE: &str = "2001:db8:1:2::7";
    const NEXT_DOOR: &str = "2001:db8:1:2:3:4:5:6";
    const ELSEWHERE: &str = "2001:db8:1:3::7";

    /// How long the upstream takes to answer.
    const ROUND_TRIP: Duration = Duration::from_millis(50);

    /// How long popgate waits for one that says nothing.
    const SILENCE: Duration = Duration::from_secs(30);

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
            self.log_in_as("", login, password, from).await
        }

        /// What the upstream says is told by the password: nothing at all to that of `silence`.
        async fn log_in_as(
            &self,
            owner: &str,
            login: &str,
            password: &str,
            from: &str,
        ) -> Result<(), FailureKind> {
            self.log_in_at(Service::Imap, credential(owner, login, password), from)
                .await
        }

        async fn log_in_at(
            &self,
            service: Service,
            credential: Credential,
            from: &str,
        ) -> Result<(), FailureKind> {
            let Proof::Password(password) = credential.proof() else {
                panic!("a password");
            };
            let password = str::from_utf8(password.expose()).expect("text");
            let address = from.parse().expect("an address");
            let attempt = self
                .guesses
                .attempt("default", service, &credential, address)
                .await;
            let mut attempt = attempt.map_err(|failure| failure.kind)?;
            attempt.ask();
            self.times.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(ROUND_TRIP).await;
            let refused = match password {
                "right" => None,
                "silence" => {
                    tokio::time::sleep(SILENCE).await;
                    return Err(FailureKind::UpstreamUnreachable);
                }
                throttled if throttled.starts_with("throttled") => {
                    Some(FailureKind::AuthUnavailable)
                }
                _ => Some(FailureKind::AuthRejected),
            };
            attempt.conclude(refused);
            refused.map_or(Ok(()), Err)
        }

        fn times(&self) -> u32 {
            self.times.swap(0, Ordering::Relaxed)
        }

        /// So many guesses at once, each by what its number says; what they are told.
        async fn storm(
            &self,
            guesses: u32,
            guess: impl Fn(u32) -> [String; 3],
        ) -> Vec<Result<(), FailureKind>> {
            let storm: Vec<_> = (0..guesses)
                .map(|number| {
                    let (asked, [login, password, from]) = (self.clone(), guess(number));
                    tokio::spawn(async move { asked.log_in(&login, &password, &from).await })
                })
                .collect();
            let mut told = Vec::new();
            for guess in storm {
                told.push(guess.await.expect("no panic"));
            }
            told
        }
    }

    fn credential(owner: &str, login: &str, password: &str) -> Credential {
        let response = Secret::new(format!("{owner}\0{login}\0{password}").into_bytes());
        Credential::from_response(Mechanism::Plain, &response).expect("sound")
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
    async fn what_one_service_refused_the_other_is_asked() {
        let asked = Asked::new();
        let wrong = || credential("", "joe", "wrong");
        for _ in 0..2 {
            for service in [Service::Imap, Service::Submission] {
                let told = asked.log_in_at(service, wrong(), HERE).await;
                assert_eq!(told, Err(FailureKind::AuthRejected));
            }
        }
        assert_eq!(asked.times(), 2);
        let told = asked.storm(200, password).await;
        let guesses = asked.times();
        assert!((9..=11).contains(&guesses), "both were guesses: {guesses}");
        assert!(told.contains(&Err(FailureKind::TooManyGuesses)));
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
        let told = asked.storm(200, password).await;
        assert!((11..=13).contains(&asked.times()));
        let put_off = told
            .iter()
            .filter(|told| **told == Err(FailureKind::TooManyGuesses));
        assert!(put_off.count() >= 187);
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
    async fn what_the_upstream_does_not_judge_is_a_guess_as_well() {
        for guess in ["throttled", "silence"] {
            let asked = Asked::new();
            let guesses = |number| {
                let password = match guess {
                    "throttled" => format!("throttled{number}"),
                    silence => silence.to_owned(),
                };
                // Each at another login, since a credential that is under way is asked about once.
                [format!("user{}", number % 25), password, HERE.to_owned()]
            };
            let told = asked.storm(100, guesses).await;
            assert!((25..=28).contains(&asked.times()), "{guess}");
            let unavailable = told
                .iter()
                .filter(|told| **told == Err(FailureKind::AuthUnavailable));
            assert!(unavailable.count() >= 72, "{guess}: nothing was wrong");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_hangs_keeps_nobody_out_of_another() {
        let guesses = Guesses::new();
        let address = HERE.parse().expect("an address");
        let mut held = Vec::new();
        for number in 0..OF_ADDRESS.attempts {
            let credential = credential("", &format!("user{number}"), "right");
            let attempt = guesses
                .attempt("hangs", Service::Imap, &credential, address)
                .await;
            held.push(attempt.map_err(|failure| failure.kind).expect("a free one"));
        }
        let began = Instant::now();
        let credential = credential("", "ann", "right");
        let elsewhere = guesses
            .attempt("answers", Service::Imap, &credential, address)
            .await;
        assert!(elsewhere.is_ok() && began.elapsed() < ROUND_TRIP);
        let there = guesses
            .attempt("hangs", Service::Imap, &credential, address)
            .await;
        let refused = there.err().map(|failure| failure.kind);
        assert_eq!(refused, Some(FailureKind::AuthUnavailable));
    }

    #[tokio::test(start_paused = true)]
    async fn one_by_one_they_are_too() {
        let asked = Asked::new();
        let began = Instant::now();
        for number in 0..OF_PAIR.attempts {
            let password = format!("throttled{number}");
            let throttled = asked.log_in("joe", &password, HERE).await;
            assert_eq!(throttled, Err(FailureKind::AuthUnavailable));
        }
        assert!(takes_round_trips(began, OF_PAIR.attempts));
        assert_eq!(asked.log_in("joe", "right", HERE).await, Ok(()));
        assert!(began.elapsed() >= OF_PAIR.returns_after, "has to wait");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_upstream_has_not_seen_counts_for_nothing() {
        let guesses = Guesses::new();
        let credential = credential("", "joe", "right");
        let address = HERE.parse().expect("an address");
        for number in 0..100 {
            let attempt = guesses.attempt("default", Service::Imap, &credential, address);
            let mut attempt = attempt.await.expect("no guess");
            match number % 3 {
                0 => attempt.conclude(Some(FailureKind::UpstreamUnreachable)),
                1 => {
                    attempt.ask();
                    attempt.take_back();
                }
                _ => drop(attempt),
            }
        }
        assert!(guesses.pairs.is_empty() && guesses.addresses.is_empty());
        assert!(guesses.credentials.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_the_login_whose_password_is_guessed() {
        let asked = Asked::new();
        let guess = |number: u32| {
            let asked = asked.clone();
            async move {
                let (owner, password) = (format!("random{number}"), format!("{number}"));
                asked.log_in_as(&owner, "joe", &password, HERE).await
            }
        };
        let storm: Vec<_> = (0..200).map(|number| tokio::spawn(guess(number))).collect();
        for guess in storm {
            guess.await.expect("no panic").expect_err("wrong");
        }
        assert!((11..=13).contains(&asked.times()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_of_the_attackers_own_makes_nobody_else_known() {
        let asked = Asked::new();
        assert_eq!(asked.log_in("mallory", "right", HERE).await, Ok(()));
        asked.times();
        let guess = |number: u32| {
            let asked = asked.clone();
            async move {
                let login = format!("victim{number}");
                asked.log_in_as("mallory", &login, "guess", HERE).await
            }
        };
        let storm: Vec<_> = (0..200).map(|number| tokio::spawn(guess(number))).collect();
        for guess in storm {
            guess.await.expect("no panic").expect_err("wrong");
        }
        assert!((25..=28).contains(&asked.times()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_as_soon_as_it_may() {
        let asked = Asked::new();
        let began = Instant::now();
        let right = |_| ["joe".to_owned(), "right".to_owned(), HERE.to_owned()];
        assert_eq!(asked.storm(2, right).await, [Ok(()), Ok(())]);
        assert!(takes_round_trips(began, 2), "one after the other");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_limit_is_remembered() {
        let table = DashMap::new();
        let fill = || {
            let at = Instant::now();
            for key in 0..ENTRIES_MAX as u64 {
                let after = Duration::ZERO;
                table.insert(key, Tried::Refused { at, after });
            }
            table.insert(7, Tried::UnderWay);
        };
        fill();
        tokio::time::advance(REFUSAL_REMEMBERED / 2).await;
        make_room(&table, Tried::worth);
        assert_eq!(table.len(), ENTRIES_MAX - ENTRIES_FORGOTTEN, "all mattered");
        assert!(table.contains_key(&7), "under way");
        fill();
        tokio::time::advance(REFUSAL_REMEMBERED).await;
        make_room(&table, Tried::worth);
        assert_eq!(table.len(), 1, "what has passed makes room");
        assert!(size_of::<(u64, Tried)>() <= 64 && size_of::<(u64, Spent)>() <= 64);
    }

    #[tokio::test(start_paused = true)]
    async fn what_matters_least_is_forgotten_first() {
        let table = DashMap::new();
        let start = Instant::now();
        let accepted = |seconds| Spent {
            accepted_at: Some(start + Duration::from_secs(seconds)),
            ..Spent::nothing()
        };
        let half = ENTRIES_MAX as u64 / 2;
        for key in 0..half {
            table.insert(key, accepted(key % 3600));
            let mut wrong = Spent::nothing();
            wrong.end(Outcome::Rejected, OF_PAIR);
            table.insert(half + key, wrong);
        }
        make_room(&table, Spent::worth);
        let left =
            |range: std::ops::Range<u64>| range.filter(|key| table.contains_key(key)).count();
        assert_eq!(left(half..2 * half), half as usize, "penalties run on");
        assert_eq!(left(0..half), half as usize - ENTRIES_FORGOTTEN);
        assert!(
            !table.contains_key(&0) && table.contains_key(&3599),
            "the oldest"
        );
        tokio::time::advance(ACCEPTANCE_REMEMBERED + Duration::from_secs(3600)).await;
        for key in 2 * half..3 * half {
            table.insert(
                key,
                Spent {
                    under_way: 1,
                    ..Spent::nothing()
                },
            );
        }
        make_room(&table, Spent::worth);
        assert_eq!(left(0..half), 0, "a day has passed");
        assert_eq!(table.len(), half as usize);
    }
}
