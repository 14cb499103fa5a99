//! What is measured of whom.

use serde::Serialize;

use crate::wire::Result;

/// Where and as whom to log in.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) port: u16,
    pub(crate) login: String,
    pub(crate) password: String,
}

/// A session without messages.
#[derive(Serialize)]
pub(crate) struct Listed {
    pub(crate) seconds: f64,
}

/// All messages of a mailbox.
#[derive(Serialize)]
pub(crate) struct Retrieved {
    pub(crate) first_octet_seconds: f64,
    pub(crate) seconds: f64,
}

/// Messages that were sent.
#[derive(Serialize)]
pub(crate) struct Sent {
    pub(crate) messages: usize,
    pub(crate) seconds: f64,
}

/// Many sessions.
#[derive(Serialize)]
pub(crate) struct Looked {
    pub(crate) sessions: u32,
    pub(crate) seconds: f64,
}

/// Has workers log in side by side, each as somebody else: `{}` in the login is the worker's number.
pub(crate) fn by_workers(
    account: &Account,
    workers: u32,
    sessions_of_each: u32,
    look: impl Fn(&Account) -> Result<()> + Sync,
) -> Result<Looked> {
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = (1..=workers)
            .map(|number| {
                let login = account.login.replace("{}", &number.to_string());
                let own = Account {
                    login,
                    ..account.clone()
                };
                let look = &look;
                scope.spawn(move || (0..sessions_of_each).try_for_each(|_| look(&own)))
            })
            .collect();
        running.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err("a worker panicked".into()))
        })
    })?;
    Ok(Looked {
        sessions: workers * sessions_of_each,
        seconds: start.elapsed().as_secs_f64(),
    })
}
