//! [`Warm`]: connections that are through TLS and greeting and wait for the next login, so that it takes
//! one round trip. Nobody is logged in on any of them, and none comes back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{ImapClient, Upstream};
use crate::metrics::OpenGuard;

/// Servers close a connection on which nobody logs in after one to three minutes.
const AGE_MAX: Duration = Duration::from_secs(50);

/// An upstream to which nobody has logged in for so long gets none.
const IN_USE_FOR: Duration = Duration::from_secs(10 * 60);

/// After a login, so that it has the way to itself.
const PAUSE: Duration = Duration::from_millis(500);

/// The connections that wait.
pub(super) struct Warm {
    connections_max: usize,
    waiting: Mutex<Waiting>,
    /// Somebody logs in.
    login: Notify,
}

#[derive(Default)]
struct Waiting {
    /// The oldest first.
    connections: Vec<Connection>,
    last_login: Option<Instant>,
}

struct Connection {
    client: ImapClient,
    since: Instant,
    _open: OpenGuard,
}

impl Warm {
    pub(super) fn new(connections_max: usize) -> Self {
        Self {
            connections_max,
            waiting: Mutex::default(),
            login: Notify::new(),
        }
    }

    /// The one that has waited for the shortest time and is still quiet, for a login.
    pub(super) async fn take(&self) -> Option<ImapClient> {
        self.waiting().last_login = Some(Instant::now());
        self.login.notify_one();
        loop {
            let Connection { mut client, .. } = self.youngest()?;
            if client.is_quiet().await {
                return Some(client);
            }
        }
    }

    fn youngest(&self) -> Option<Connection> {
        let mut waiting = self.waiting();
        waiting.drop_old();
        waiting.connections.pop()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Whatever panicked, connections are only taken out and put in.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn drop_old(&mut self) {
        self.connections
            .retain(|connection| connection.since.elapsed() < AGE_MAX);
    }

    fn is_wanted(&self) -> bool {
        self.last_login
            .is_some_and(|login| login.elapsed() < IN_USE_FOR)
    }
}

impl Upstream {
    /// Keeps connections for logins to come, as long as somebody logs in from time to time, until
    /// `draining`.
    pub async fn keep_warm(self: Arc<Self>, draining: CancellationToken) {
        if self.warm.connections_max == 0 {
            return;
        }
        let keep = async {
            loop {
                self.warm.login.notified().await;
                self.keep_warm_while_wanted().await;
            }
        };
        tokio::select! {
            () = keep => {}
            () = draining.cancelled() => self.warm.waiting().connections.clear(),
        }
    }

    async fn keep_warm_while_wanted(self: &Arc<Self>) {
        while self.warm.waiting().is_wanted() {
            sleep(PAUSE).await;
            self.fill_up().await;
            // A new one is needed when one was taken, or has become old.
            let _ = timeout(AGE_MAX / 2, self.warm.login.notified()).await;
        }
        self.warm.waiting().connections.clear();
    }

    async fn fill_up(self: &Arc<Self>) {
        loop {
            let open = {
                let mut waiting = self.warm.waiting();
                waiting.drop_old();
                waiting.connections.len()
            };
            if open >= self.warm.connections_max {
                return;
            }
            match self.connect_anew().await {
                Ok(client) => self.warm.waiting().connections.push(Connection {
                    client,
                    since: Instant::now(),
                    _open: self
                        .metrics
                        .upstream_connection(&self.settings.name, "warm"),
                }),
                Err(failure) => {
                    // Who logs in next will say so, louder.
                    debug!(upstream = %self.settings.name, %failure, "no connection in advance");
                    return;
                }
            }
        }
    }
}
