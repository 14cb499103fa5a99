//! The TRANSACTION state (RFC 1939 §5): one command after the other, until QUIT.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{LoggedIn, Record, capa, retrieve, update};
use crate::maildrop::{Maildrop, Message, NoSuchMessage};
use crate::pop3::command::{Command, MessageNumber, TRANSACTION_LINE_OCTETS_MAX};
use crate::pop3::reply::{self, ResponseCode};
use crate::session::{Client, Gateway, Offer, SessionEnd};

/// When no command comes for so long, a session gives back the memory that it needs for work alone.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Runs until QUIT. On any error the marks must be forgotten.
pub(super) async fn run(
    client: &mut Client,
    gateway: &Gateway,
    offer: Offer,
    logged_in: &mut LoggedIn,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    loop {
        // Who says more than it hears must not make its replies pile up.
        client.lines.relieve().await?;
        if timeout(REST_AFTER, client.lines.wait_readable())
            .await
            .is_err()
        {
            client.lines.rest();
            logged_in.imap.rest();
        }
        let line = client.lines.line(TRANSACTION_LINE_OCTETS_MAX).await?;
        let started = Instant::now();
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(mistake) => {
                record.mistaken(client, gateway, mistake)?;
                continue;
            }
        };
        if command == Command::Quit {
            return Ok(());
        }
        if logged_in.imap.has_been_silent() {
            Box::pin(logged_in.imap.keep_alive()).await?;
        }
        let name = command.name();
        let refused_before = record.refused;
        // In a box, so that a session that waits is small; the largest of it in another, for who needs that.
        Box::pin(obey(command, client, gateway, logged_in, record, offer)).await?;
        let succeeded = record.refused == refused_before;
        gateway
            .metrics
            .pop3_command(name, succeeded, started.elapsed());
    }
}

async fn obey(
    command: Command,
    client: &mut Client,
    gateway: &Gateway,
    logged_in: &mut LoggedIn,
    record: &mut Record,
    offer: Offer,
) -> Result<(), SessionEnd> {
    let maildrop = &mut logged_in.maildrop;
    match command {
        Command::Stat => {
            let stat = maildrop.drop_listing();
            reply::ok(
                client.lines.output(),
                format_args!("{} {}", stat.messages, stat.octets),
            );
        }
        Command::List(number) => list(Listed::Octets, number, client, maildrop, record).await?,
        Command::Uidl(number) => list(Listed::UniqueId, number, client, maildrop, record).await?,
        Command::Retr(number) => {
            if let Some(message) = find(maildrop.message(number), client, record) {
                let retr = retrieve::retr(message, client, gateway, logged_in, record);
                Box::pin(retr).await?;
            }
        }
        Command::Top { number, lines } => {
            if let Some(message) = find(maildrop.message(number), client, record) {
                let top = retrieve::top(message, lines, client, gateway, logged_in, record);
                Box::pin(top).await?;
            }
        }
        Command::Dele(number) => dele(number, client, logged_in, record),
        Command::Rset => {
            maildrop.reset();
            let messages = maildrop.drop_listing().messages;
            reply::ok(
                client.lines.output(),
                format_args!("{messages} messages, none marked"),
            );
        }
        Command::Last => {
            let last = maildrop.last();
            reply::ok(client.lines.output(), last);
        }
        Command::Noop => reply::ok(client.lines.output(), "still here"),
        Command::Capa => {
            let may_log_in = gateway.permits_login(client);
            let has_stls = gateway.tls.is_some() && !client.secure;
            capa(client.lines.output(), may_log_in, has_stls, offer);
        }
        Command::User(_)
        | Command::Pass(_)
        | Command::Auth { .. }
        | Command::AuthList
        | Command::Stls
        | Command::Utf8 => {
            record.misplaced(client, "you are logged in already")?;
        }
        // Handled where the state ends.
        Command::Quit => {}
    }
    Ok(())
}

/// The message, or the reply that there is none.
fn find(
    result: Result<Message, NoSuchMessage>,
    client: &mut Client,
    record: &mut Record,
) -> Option<Message> {
    match result {
        Ok(message) => Some(message),
        Err(reason) => {
            no_such_message(reason, client, record);
            None
        }
    }
}

fn no_such_message(reason: NoSuchMessage, client: &mut Client, record: &mut Record) {
    record.refused += 1;
    let text = match reason {
        NoSuchMessage::Absent => "no such message",
        NoSuchMessage::Deleted => "that message is marked as deleted",
    };
    reply::err(client.lines.output(), text);
}

/// A mark is a promise that QUIT will try; where it is clear that it cannot, it is not made.
fn dele(number: MessageNumber, client: &mut Client, logged_in: &mut LoggedIn, record: &mut Record) {
    if update::removal(logged_in).is_none() {
        record.refused += 1;
        let text = "this mailbox is read-only, nothing can be deleted";
        reply::err_with(client.lines.output(), ResponseCode::SysPerm, text);
        return;
    }
    match logged_in.maildrop.delete(number) {
        Ok(()) => reply::ok(client.lines.output(), "marked"),
        Err(reason) => no_such_message(reason, client, record),
    }
}

/// What a line of LIST or UIDL tells of a message.
#[derive(Clone, Copy)]
enum Listed {
    Octets,
    UniqueId,
}

/// LIST and UIDL: one message's line in the status line, or those of all messages, sent while they are
/// made.
async fn list(
    listed: Listed,
    number: Option<MessageNumber>,
    client: &mut Client,
    maildrop: &Maildrop,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    let line = |message| ListingLine {
        listed,
        maildrop,
        message,
    };
    if let Some(number) = number {
        if let Some(message) = find(maildrop.message(number), client, record) {
            reply::ok(client.lines.output(), line(message));
        }
        return Ok(());
    }
    let messages = maildrop.drop_listing().messages;
    reply::ok(client.lines.output(), format_args!("{messages} messages"));
    record.in_multi_line = true;
    let first = MessageNumber::new(1);
    for message in first
        .into_iter()
        .flat_map(|first| maildrop.messages_from(first))
    {
        reply::line(client.lines.output(), line(message));
        client.lines.relieve().await?;
    }
    reply::terminator(client.lines.output());
    record.in_multi_line = false;
    Ok(())
}

/// `msg SP octets` or `msg SP unique-id` (RFC 1939 §5, §7)
struct ListingLine<'a> {
    listed: Listed,
    maildrop: &'a Maildrop,
    message: Message,
}

impl fmt::Display for ListingLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.message.number.number();
        match self.listed {
            Listed::Octets => {
                write!(f, "{number} {}", self.maildrop.octets(self.message))
            }
            Listed::UniqueId => write!(f, "{number} {}", self.maildrop.unique_id(self.message)),
        }
    }
}
