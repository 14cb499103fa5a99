//! What started us, when it is systemd: sockets that it opened, and what it is told.

use std::io;
use std::net::TcpListener;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::debug;

use crate::server::{Protocol, Security};

/// A socket that was open before we were.
#[derive(Debug)]
pub struct Inherited {
    /// What it is for.
    pub purpose: Purpose,
    /// It listens already.
    pub socket: TcpListener,
}

/// What `FileDescriptorName=` of a socket unit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `pop3`, `pop3s`, `submission`, `submissions`
    Clients(Protocol, Security),
    /// `admin`
    Admin,
}

impl Purpose {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pop3" => Self::Clients(Protocol::Pop3, Security::Upgrade),
            "pop3s" => Self::Clients(Protocol::Pop3, Security::Implicit),
            "submission" => Self::Clients(Protocol::Submission, Security::Upgrade),
            "submissions" => Self::Clients(Protocol::Submission, Security::Implicit),
            "admin" => Self::Admin,
            _ => return None,
        })
    }
}

/// The sockets in `LISTEN_FDS` by their names in `LISTEN_FDNAMES`, and none a second time. Must be called
/// while there is no other thread.
///
/// # Errors
/// For a name that is unknown, and what is no TCP socket.
pub fn inherited() -> io::Result<Vec<Inherited>> {
    // The names are asked first: the other crate removes them with the numbers.
    let names: Vec<String> = sd_notify::listen_fds_with_names()?
        .map(|(_, name)| name)
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut sockets = ListenFd::from_env();
    let mut inherited = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let purpose = Purpose::parse(name).ok_or_else(|| {
            invalid(format!(
                "the socket {name:?} is for nothing; call it pop3, pop3s, submission, submissions or \
                 admin (FileDescriptorName=)"
            ))
        })?;
        let socket = sockets
            .take_tcp_listener(number)
            .map_err(|error| invalid(format!("the socket {name:?}: {error}")))?;
        if let Some(socket) = socket {
            socket.set_nonblocking(true)?;
            inherited.push(Inherited { purpose, socket });
        }
    }
    Ok(inherited)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// What systemd is told (sd_notify(3)); nobody else listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Clients are served, by the settings that were read last.
    Ready,
    /// The settings are being read.
    Reloading,
    /// This is the end.
    Stopping,
}

/// Tells it.
pub fn notify(notice: Notice) {
    let told = match notice {
        Notice::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Notice::Reloading => NotifyState::monotonic_usec_now()
            .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now])),
        Notice::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Err(error) = told {
        debug!(%error, "systemd could not be told");
    }
}
