//! [`TraceFile`]: a thread of its own writes it, so that no session waits for a disk, and who never logs in
//! gets no more than a share of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::TraceSettings;

/// What a mode grants to whoever is not the owner of a file.
const OTHERS: u32 = 0o077;

/// Lines, of about a kilobyte at most, that wait for the disk; what comes then is dropped, and counted.
const LINES_MAX: usize = 1024;

/// Of the octets, the part for logins that no upstream has accepted: anybody may type the login.
const UNPROVEN_SHARE: u64 = 8;

/// So long the end of popgate waits for lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Takes lines, and never waits.
pub(super) struct TraceFile {
    orders: mpsc::Sender<Order>,
    budget: Mutex<Budget>,
    lost: Arc<AtomicU64>,
}

enum Order {
    Write(String),
    /// What was ordered before is done.
    Tell(oneshot::Sender<()>),
}

/// Octets that may still be written.
struct Budget {
    octets_left: u64,
    /// Of them, for logins that are not proven.
    unproven_octets_left: u64,
    is_share_told: bool,
}

impl TraceFile {
    /// Opens the file, for its owner alone.
    ///
    /// # Errors
    /// When it cannot be written, or is there already and others than its owner may read or write it.
    pub(super) fn open(settings: &TraceSettings) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let path = settings.file.display();
            io::Error::new(error.kind(), format!("[trace] {path}: {error}"))
        };
        let (file, octets) = open(settings).map_err(explain)?;
        let (orders, receiver) = mpsc::channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        thread::Builder::new()
            .name("trace".to_owned())
            .spawn({
                let lost = lost.clone();
                move || write(receiver, file, &lost)
            })
            .map_err(explain)?;
        Ok(Self {
            orders,
            budget: Mutex::new(Budget {
                octets_left: settings.octets_max.saturating_sub(octets),
                unproven_octets_left: settings.octets_max / UNPROVEN_SHARE,
                is_share_told: false,
            }),
            lost,
        })
    }

    /// A line of a session that is logged in.
    pub(super) fn write(&self, line: String) {
        if self.budget().take(line.len() as u64) {
            self.order(line);
        }
    }

    /// A line of one that is not; how much of the share it took.
    pub(super) fn write_within_share(&self, line: String) -> u64 {
        let octets = line.len() as u64;
        let mut budget = self.budget();
        if budget.octets_left > 0 && octets > budget.unproven_octets_left {
            if !budget.is_share_told {
                budget.is_share_told = true;
                info!("logins that do not succeed have filled their share of the trace");
            }
            return 0;
        }
        if !budget.take(octets) {
            return 0;
        }
        budget.unproven_octets_left -= octets;
        drop(budget);
        self.order(line);
        octets
    }

    /// What a session took of the share, when it is logged in.
    pub(super) fn give_back(&self, octets: u64) {
        self.budget().unproven_octets_left += octets;
    }

    /// Waits for what was written, but not for long.
    pub(super) async fn flush(&self) {
        let (done, told) = oneshot::channel();
        let flush = async {
            if self.orders.send(Order::Tell(done)).await.is_ok() {
                // The thread has ended if nobody tells.
                let _ = told.await;
            }
        };
        // What is not written by then is lost.
        let _ = timeout(FLUSH_MAX, flush).await;
    }

    /// That it cannot be written is no session's trouble.
    fn order(&self, line: String) {
        match self.orders.try_send(Order::Write(line)) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    /// Behind the first line that finds no room there is none.
    fn take(&mut self, octets: u64) -> bool {
        let before = self.octets_left;
        let left = before.checked_sub(octets);
        self.octets_left = left.unwrap_or(0);
        if left.is_none() && before > 0 {
            info!("the trace has become as large as it may");
        }
        left.is_some()
    }
}

/// The file, and how many octets are in it.
fn open(settings: &TraceSettings) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let file = options.open(&settings.file)?;
    let metadata = file.metadata()?;
    // That of a file that was there, also behind a symbolic link.
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        let what = format!(
            "its mode is {mode:o}, so that others may read or write it; chmod 600 it, or name another file"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok((file, metadata.len()))
}

/// Until there is nobody who may order more.
fn write(mut orders: mpsc::Receiver<Order>, mut file: File, lost: &AtomicU64) {
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Write(line) => {
                if let Err(error) = file.write_all(line.as_bytes()) {
                    warn!(%error, "the trace ends here: it cannot be written");
                    return;
                }
            }
            Order::Tell(done) => {
                // Who asked may have waited long enough.
                let _ = done.send(());
            }
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(
                lost,
                "lines of the trace were dropped, since its disk is slow"
            );
        }
    }
}
