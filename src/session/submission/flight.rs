//! [`Flight`]: commands that go to the upstream together, and what it answers (RFC 2920).

use tokio::time::Instant;
use tracing::debug;

use super::{LoggedIn, authorization};
use crate::failure::{Failure, FailureKind};
use crate::session::Gateway;
use crate::smtp::command::CommandName;
use crate::smtp::reply::Reply;
use crate::upstream::Awaited;

/// Commands that were not sent yet.
#[derive(Default)]
pub(super) struct Flight {
    octets: Vec<u8>,
    sent: Vec<Sent>,
}

/// A command whose reply is awaited.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    /// What it means.
    pub(super) what: What,
    /// By which command of the client, which came then.
    pub(super) name: CommandName,
    pub(super) started: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// RSET, of which the client need not know.
    Reset,
    Mail,
    Rcpt,
    Data,
}

impl Sent {
    /// As what its reply is awaited.
    pub(super) fn awaited(&self) -> Awaited {
        match self.what {
            What::Reset => Awaited::Reset,
            What::Mail | What::Rcpt => Awaited::Envelope,
            What::Data => Awaited::Data,
        }
    }
}

impl Flight {
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub(super) fn octets(&self) -> usize {
        self.octets.len()
    }

    /// Adds a command, which `write` appends.
    pub(super) fn add(
        &mut self,
        what: What,
        name: CommandName,
        started: Instant,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        write(&mut self.octets);
        self.sent.push(Sent {
            what,
            name,
            started,
        });
    }

    /// Sends them; then the replies are next in the connection, the first of them here.
    ///
    /// An upstream that closed between two messages is connected to again: nothing of this transaction
    /// has been answered, and of no message anything is under way, so that nothing can be sent twice.
    pub(super) async fn send(
        &mut self,
        gateway: &Gateway,
        logged_in: &mut LoggedIn,
    ) -> (Vec<Sent>, Result<Reply, Failure>) {
        let octets = std::mem::take(&mut self.octets);
        let sent = std::mem::take(&mut self.sent);
        let begins = matches!(
            sent.first().map(|first| first.what),
            Some(What::Reset | What::Mail)
        );
        let first = sent.first().map_or(Awaited::Envelope, Sent::awaited);
        let mut result = first_reply(logged_in, &octets, first).await;
        let is_gone = match (&result, &logged_in.connection) {
            (Ok(reply), _) => reply.code == 421,
            // Nobody has to think about RSET: who does not answer it has left without a word.
            (Err(_), Some(connection)) => connection.was_closed() || first == Awaited::Reset,
            (Err(_), None) => true,
        };
        if begins && is_gone {
            debug!("the upstream has closed its connection");
            logged_in.drop_connection(gateway);
            result = match reopen(gateway, logged_in).await {
                Ok(()) => first_reply(logged_in, &octets, first).await,
                Err(failure) => Err(failure),
            };
        }
        (sent, result)
    }
}

async fn first_reply(
    logged_in: &mut LoggedIn,
    octets: &[u8],
    awaited: Awaited,
) -> Result<Reply, Failure> {
    if let Some(connection) = &mut logged_in.connection {
        connection.output().extend_from_slice(octets);
    }
    next_reply(logged_in, awaited).await
}

/// The reply to the next command of a flight.
pub(super) async fn next_reply(
    logged_in: &mut LoggedIn,
    awaited: Awaited,
) -> Result<Reply, Failure> {
    match &mut logged_in.connection {
        Some(connection) => connection.reply_to(awaited).await,
        None => Err(FailureKind::UpstreamLost.because("the upstream has closed the connection")),
    }
}

async fn reopen(gateway: &Gateway, logged_in: &mut LoggedIn) -> Result<(), Failure> {
    // A wrong password is tried once: locking an account must take more than a client that goes on.
    if logged_in.is_refused {
        let cause = "the upstream has refused the login meanwhile";
        return Err(FailureKind::AuthUnavailable.because(cause));
    }
    let hostname = &gateway.submission.settings.hostname;
    let LoggedIn {
        upstream,
        credential,
        trace,
        ..
    } = &*logged_in;
    let connected =
        authorization::connect(upstream, credential, hostname, None, trace.as_ref()).await;
    let connection = connected.map_err(|failure| match failure.kind {
        // It was right a while ago, so the user is not asked for another one.
        FailureKind::AuthRejected => {
            logged_in.is_refused = true;
            FailureKind::AuthUnavailable.because(failure.cause)
        }
        _ => failure,
    })?;
    logged_in.extensions = connection.extensions();
    logged_in.connection = Some(connection);
    Ok(())
}
