//! The sample's other half: what is sent through it arrives in the sample mailbox at once, whomever it
//! is addressed to, and goes nowhere else.

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::date::InternalDate;
use super::mailbox::SampleStore;
use super::{PASSWORD, USER};
use crate::line_stream::{ByteStream, LineError, LineStream};
use crate::sasl::{Credential, Mechanism, Proof, decode};
use crate::secret::Secret;
use crate::smtp::command::{AUTHENTICATION_LINE_OCTETS_MAX, Command};
use crate::smtp::data::{Framing, MessageReader};
use crate::smtp::reply::{continuation, line, say};

/// A person's attachments fit.
const MESSAGE_OCTETS_MAX: usize = 35 * 1024 * 1024;

/// RFC 5321 §4.5.3.2.7
const IDLE: Duration = Duration::from_secs(5 * 60);

/// Serves one client until it leaves.
pub(super) async fn serve(
    stream: Box<dyn ByteStream>,
    store: SampleStore,
    shutdown: CancellationToken,
) {
    let mut lines = LineStream::new(stream, IDLE);
    line(lines.output(), "220 sample.localdomain ESMTP the sample");
    tokio::select! {
        _ = conversation(&mut lines, &store) => {}
        () = shutdown.cancelled() => say(lines.output(), 421, "4.3.2", "the sample is shutting down"),
    }
    lines.close().await;
}

/// Tells a client that there are too many.
pub(super) async fn turn_away(stream: Box<dyn ByteStream>) {
    let mut lines = LineStream::new(stream, IDLE);
    say(lines.output(), 421, "4.3.2", "too many connections");
    lines.close().await;
}

#[derive(Default)]
struct Envelope {
    has_sender: bool,
    recipients: u32,
}

/// Until QUIT, or the client is gone.
async fn conversation(lines: &mut LineStream, store: &SampleStore) -> Result<(), LineError> {
    let mut logged_in = false;
    let mut envelope = Envelope::default();
    loop {
        let parsed = Command::parse(lines.line(AUTHENTICATION_LINE_OCTETS_MAX).await?);
        let (code, enhanced, text) = match parsed {
            Ok(Command::Ehlo(_)) => {
                envelope = Envelope::default();
                for keyword in ["sample.localdomain", "PIPELINING", "8BITMIME", "SMTPUTF8"] {
                    line(lines.output(), format_args!("250-{keyword}"));
                }
                line(
                    lines.output(),
                    format_args!("250-SIZE {MESSAGE_OCTETS_MAX}"),
                );
                line(lines.output(), "250-ENHANCEDSTATUSCODES");
                line(lines.output(), "250 AUTH PLAIN");
                continue;
            }
            Ok(Command::Auth {
                mechanism,
                initial_response,
            }) => {
                logged_in = authenticate(&mechanism, initial_response, lines).await?;
                match logged_in {
                    true => (235, "2.7.0", "welcome"),
                    false => (535, "5.7.8", "user demo, password demo"),
                }
            }
            Ok(Command::Mail(..)) if logged_in => {
                envelope.has_sender = true;
                (250, "2.1.0", "ok")
            }
            Ok(Command::Rcpt(..)) if envelope.has_sender => {
                envelope.recipients += 1;
                (250, "2.1.5", "ok")
            }
            Ok(Command::Data) if envelope.recipients > 0 => {
                envelope = Envelope::default();
                line(lines.output(), "354 go ahead");
                match receive(lines, store).await? {
                    Ok(()) => (250, "2.0.0", "it is in the INBOX"),
                    Err(_) => (452, "4.3.1", "the sample is full"),
                }
            }
            Ok(Command::Rset) => {
                envelope = Envelope::default();
                (250, "2.0.0", "ok")
            }
            Ok(Command::Noop) => (250, "2.0.0", "ok"),
            Ok(Command::Quit) => {
                say(lines.output(), 221, "2.0.0", "bye");
                return Ok(());
            }
            Ok(_) | Err(_) => (503, "5.5.1", "not here, or not now"),
        };
        say(lines.output(), code, enhanced, text);
    }
}

async fn authenticate(
    mechanism: &[u8],
    initial_response: Option<Secret>,
    lines: &mut LineStream,
) -> Result<bool, LineError> {
    if Mechanism::parse(mechanism) != Some(Mechanism::Plain) {
        return Ok(false);
    }
    let response = match initial_response {
        Some(response) => decode(response.expose()),
        None => {
            continuation(lines.output(), "");
            decode(lines.line(AUTHENTICATION_LINE_OCTETS_MAX).await?)
        }
    };
    let credential =
        response.and_then(|response| Credential::from_response(Mechanism::Plain, &response));
    let password = Proof::Password(Secret::new(PASSWORD.as_bytes().to_vec()));
    Ok(credential.is_ok_and(|it| it.login() == USER.as_bytes() && *it.proof() == password))
}

/// Reads a message to its end, and puts it into the INBOX.
async fn receive(lines: &mut LineStream, store: &SampleStore) -> Result<io::Result<()>, LineError> {
    let mut reader = MessageReader::new(Framing::Dots);
    let mut message = Vec::new();
    while !reader.is_complete() {
        let read = reader.push(lines.peek().await?, &mut message);
        lines.consume(read);
        // Of what is too large, nothing need be kept.
        message.truncate(MESSAGE_OCTETS_MAX + 1);
    }
    if message.len() > MESSAGE_OCTETS_MAX {
        return Ok(Err(io::ErrorKind::StorageFull.into()));
    }
    let mut mailboxes = store.lock();
    let delivered = mailboxes
        .find("INBOX")
        .and_then(|inbox| mailboxes.append(inbox, message.into(), Vec::new(), InternalDate::now()));
    Ok(delivered
        .map(drop)
        .map_err(|_| io::ErrorKind::StorageFull.into()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_is_in_the_inbox() {
        let store = SampleStore::new(1);
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let serving = serve(Box::new(theirs), store.clone(), CancellationToken::new());
        let serving = tokio::spawn(serving);
        let (mut reader, mut writer) = tokio::io::split(ours);
        let said = b"MAIL FROM:<x@y>\r\nEHLO me\r\nAUTH PLAIN AGRlbW8AZGVtbw==\r\n\
            MAIL FROM:<x@y>\r\nRCPT TO:<z@y>\r\nDATA\r\nSubject: hi\r\n\r\n..\r\n.\r\nQUIT\r\n";
        writer.write_all(said).await.expect("written");
        let mut heard = String::new();
        reader.read_to_string(&mut heard).await.expect("read");
        serving.await.expect("no panic");
        let codes: Vec<&str> = heard.lines().map(|line| &line[..4]).collect();
        let expected = "220 503 250-250-250-250-250-250-250 235 250 250 354 250 221 ";
        assert_eq!(codes.concat(), expected);
        let mailboxes = store.lock();
        let inbox = mailboxes.get(mailboxes.find("INBOX").expect("INBOX"));
        let messages: Vec<&[u8]> = inbox.messages().iter().map(|it| &**it.octets()).collect();
        assert_eq!(messages, [b"Subject: hi\r\n\r\n.\r\n"]);
    }

    #[tokio::test]
    async fn the_password_is_asked_for() {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let store = SampleStore::new(1);
        let serving = tokio::spawn(serve(Box::new(theirs), store, CancellationToken::new()));
        let (mut reader, mut writer) = tokio::io::split(ours);
        let said = b"AUTH PLAIN AGRlbW8AZGVtMA==\r\nMAIL FROM:<x@y>\r\nQUIT\r\n";
        writer.write_all(said).await.expect("written");
        let mut heard = String::new();
        reader.read_to_string(&mut heard).await.expect("read");
        serving.await.expect("no panic");
        let codes: Vec<&str> = heard.lines().map(|line| &line[..4]).collect();
        assert_eq!(codes.concat(), "220 535 503 221 ");
    }
}
