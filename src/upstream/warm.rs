//! [`Warm`]: connections that are through TLS and greeting and wait for the next login, so that it takes
//! one round trip. Nobody is logged in on any of them, and none comes back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{ImapClient, Upstream};
use crate::metrics::OpenGuard;

/// Servers close a connection on which nobody logs in after some minutes: Dovecot after three. One that
/// nobody wanted for so long is given up, and not replaced before somebody logs in again.
const AGE_MAX: Duration = Duration::from_secs(110);

/// After a login, so that it has the way to itself.
const PAUSE: Duration = Duration::from_millis(500);

/// The connections that wait.
pub(super) struct Warm {
    connections_max: usize,
    /// The oldest first.
    waiting: Mutex<Vec<Connection>>,
    /// Somebody logs in.
    login: Notify,
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
        self.login.notify_one();
        loop {
            let Connection { mut client, .. } = self.youngest()?;
            if client.is_quiet().await {
                return Some(client);
            }
        }
    }

    fn youngest(&self) -> Option<Connection> {
        self.drop_old();
        self.waiting().pop()
    }

    fn drop_old(&self) {
        self.waiting()
            .retain(|connection| connection.since.elapsed() < AGE_MAX);
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Whatever panicked, connections are only taken out and put in.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    /// Keeps connections for the logins to come, after one has come, until `draining`.
    pub async fn keep_warm(self: Arc<Self>, draining: CancellationToken) {
        if self.warm.connections_max == 0 {
            return;
        }
        let keep = async {
            loop {
                match timeout(AGE_MAX, self.warm.login.notified()).await {
                    Ok(()) => {
                        sleep(PAUSE).await;
                        self.fill_up().await;
                    }
                    Err(_) => self.warm.drop_old(),
                }
            }
        };
        tokio::select! {
            () = keep => {}
            () = draining.cancelled() => self.warm.waiting().clear(),
        }
    }

    async fn fill_up(self: &Arc<Self>) {
        loop {
            self.warm.drop_old();
            if self.warm.waiting().len() >= self.warm.connections_max {
                return;
            }
            match self.counted(self.connect_anew().await) {
                Ok(client) => self.warm.waiting().push(Connection {
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
