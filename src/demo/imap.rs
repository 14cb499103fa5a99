//! The conversation of the sample IMAP server with one client (RFC 3501).
//!
//! It owns the state of the connection and says what the replies are. The mailboxes themselves
//! are in [`SampleStore`], the grammar in [`command`].

mod command;
mod connection;
mod fetch;
mod search;
mod selected;
mod sequence_set;
#[cfg(test)]
mod tests;
mod view;
mod words;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use self::command::{
    Access, AnyState, Authenticated, Command, List, NotAuthenticated, Numbering, Selected,
    StatusItem, SyntaxError,
};
use self::connection::{Connection, Hangup, Incoming, LINE_OCTETS_MAX};
use self::view::{Expunges, NoSuchNumber, View};
use super::date::InternalDate;
use super::mailbox::{Flag, HIERARCHY_DELIMITER, Refusal, SampleMessage, SampleStore};
use super::{PASSWORD, USER};

const CAPABILITIES: &str = "IMAP4rev1 UIDPLUS MOVE SPECIAL-USE LITERAL+ SASL-IR ID ENABLE \
                            NAMESPACE ESEARCH UNSELECT AUTH=PLAIN";

/// The largest message that APPEND takes.
const MESSAGE_OCTETS_MAX: usize = 50 * 1024 * 1024;

/// Talks with a client until it is gone, says LOGOUT, or the sample is shut down.
pub(super) async fn serve<S>(stream: S, store: SampleStore, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut conversation = Conversation {
        connection: Connection::new(stream),
        store,
        state: State::NotAuthenticated,
        shutdown,
    };
    if let Hangup::Bye(text) = conversation.converse().await {
        // The client may be gone already, which is no news now.
        let _ = conversation.connection.bye(text).await;
    }
}

/// Says why there is no place for a client.
pub(super) async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let _ = Connection::new(stream)
        .bye("[LIMIT] Too many connections")
        .await;
}

/// RFC 3501 §3.
enum State {
    NotAuthenticated,
    Authenticated,
    Selected(View),
}

/// `resp-cond-state` of a tagged response.
enum Reply {
    Ok(String),
    No(String),
    Bad(&'static str),
}

impl Reply {
    fn completed(command: &str) -> Self {
        Self::Ok(format!("{command} completed"))
    }

    /// RFC 5530 has a code for each of them.
    fn refused(refusal: Refusal) -> Self {
        let text = match refusal {
            Refusal::NoSuchMailbox => "[NONEXISTENT] There is no such mailbox",
            Refusal::AlreadyExists => "[ALREADYEXISTS] There is such a mailbox already",
            Refusal::ImpossibleName => "[CANNOT] No mailbox can have that name",
            Refusal::Full => "[OVERQUOTA] The sample holds as much as it may",
            Refusal::TooManyFlags => "[LIMIT] Too many flags",
        };
        Self::No(text.to_owned())
    }

    /// Where a message should go to: the client may create it (RFC 3501 §6.4.7).
    fn refused_target(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchMailbox => Self::No("[TRYCREATE] There is no such mailbox".to_owned()),
            other => Self::refused(other),
        }
    }
}

impl From<NoSuchNumber> for Reply {
    fn from(_: NoSuchNumber) -> Self {
        Self::Bad("There is no message of that number")
    }
}

struct Conversation<S> {
    connection: Connection<S>,
    store: SampleStore,
    state: State,
    shutdown: CancellationToken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    async fn converse(&mut self) -> Hangup {
        self.untagged(&format!(
            "OK [CAPABILITY {CAPABILITIES}] The sample mailbox of popgate is ready"
        ));
        loop {
            if let Err(hangup) = self.next_command().await {
                return hangup;
            }
        }
    }

    async fn next_command(&mut self) -> Result<(), Hangup> {
        self.connection.flush().await?;
        let authenticated = !matches!(self.state, State::NotAuthenticated);
        let literal_octets_max = |begun: &[u8]| match authenticated && command::beginning(begun).1 {
            true => MESSAGE_OCTETS_MAX + LINE_OCTETS_MAX,
            false => LINE_OCTETS_MAX,
        };
        let incoming = tokio::select! {
            biased;
            // Only here, so that no response is cut in its middle.
            () = self.shutdown.cancelled() => {
                return Err(Hangup::Bye("The sample is shutting down"));
            }
            incoming = self.connection.read_command(literal_octets_max) => incoming?,
        };
        let (tag, reply) = match incoming {
            Incoming::Command(octets) => match Command::parse(&octets) {
                Ok((tag, command)) => {
                    let reply = self.execute(&tag, command).await?;
                    (Some(tag), reply)
                }
                Err(SyntaxError { tag }) => (tag, Reply::Bad("The sample does not know that")),
            },
            Incoming::LiteralTooLarge(octets) => {
                let reply = Reply::No("[TOOBIG] Literal too large".to_owned());
                (command::beginning(&octets).0, reply)
            }
        };
        let tag = tag.as_deref().unwrap_or("*");
        let line = match reply {
            Reply::Ok(text) => format!("{tag} OK {text}\r\n"),
            Reply::No(text) => format!("{tag} NO {text}\r\n"),
            Reply::Bad(text) => format!("{tag} BAD {text}\r\n"),
        };
        self.connection.output.extend(line.into_bytes());
        Ok(())
    }

    /// Says whether the command is allowed in this state, and if it is, does it.
    async fn execute(&mut self, tag: &str, command: Command) -> Result<Reply, Hangup> {
        let expunges = match &command {
            Command::Selected(
                Selected::Fetch { numbering, .. }
                | Selected::Store { numbering, .. }
                | Selected::Search { numbering, .. },
            ) if *numbering == Numbering::SequenceNumbers => Expunges::Withheld,
            _ => Expunges::Announced,
        };
        let reply = match (command, &mut self.state) {
            (Command::AnyState(command), _) => self.any_state(tag, command).await?,
            (Command::NotAuthenticated(command), State::NotAuthenticated) => {
                self.not_authenticated(command).await?
            }
            (Command::NotAuthenticated(_), _) => Reply::Bad("You have logged in already"),
            (Command::Authenticated(_) | Command::Selected(_), State::NotAuthenticated) => {
                Reply::Bad("Please log in first")
            }
            (Command::Authenticated(command), _) => self.authenticated(command),
            (Command::Selected(_), State::Authenticated) => {
                Reply::Bad("Please select a mailbox first")
            }
            (Command::Selected(command), State::Selected(view)) => {
                let session = selected::Session {
                    view,
                    store: &self.store,
                    connection: &mut self.connection,
                };
                let (reply, after) = session.execute(tag, command).await?;
                if after == selected::After::MailboxLeft {
                    self.state = State::Authenticated;
                }
                reply
            }
        };
        self.announce(expunges);
        Ok(reply)
    }

    async fn any_state(&mut self, tag: &str, command: AnyState) -> Result<Reply, Hangup> {
        Ok(match command {
            AnyState::Capability => {
                self.untagged(&format!("CAPABILITY {CAPABILITIES}"));
                Reply::completed("CAPABILITY")
            }
            AnyState::Id => {
                let version = env!("CARGO_PKG_VERSION");
                self.untagged(&format!(
                    "ID (\"name\" \"popgate sample\" \"version\" \"{version}\")"
                ));
                Reply::completed("ID")
            }
            AnyState::Noop => Reply::completed("NOOP"),
            AnyState::Logout => {
                self.untagged("BYE See you");
                let line = format!("{tag} OK LOGOUT completed\r\n");
                self.connection.output.extend(line.into_bytes());
                self.connection.flush().await?;
                return Err(Hangup::Closed);
            }
        })
    }

    async fn not_authenticated(&mut self, command: NotAuthenticated) -> Result<Reply, Hangup> {
        let accepted = match command {
            NotAuthenticated::Login { user, password } => {
                user == USER && password.expose() == PASSWORD.as_bytes()
            }
            NotAuthenticated::Authenticate { mechanism, .. }
                if !mechanism.eq_ignore_ascii_case("PLAIN") =>
            {
                return Ok(Reply::No("[CANNOT] Only PLAIN".to_owned()));
            }
            NotAuthenticated::Authenticate {
                initial_response, ..
            } => {
                let response = match initial_response {
                    // RFC 4959 §3: "=" is an empty one.
                    Some(response) if response.expose() == b"=" => Vec::new(),
                    Some(response) => response.expose().to_vec(),
                    None => {
                        self.connection.output.extend_from_slice(b"+ \r\n");
                        self.connection.flush().await?;
                        self.connection.read_reply().await?
                    }
                };
                if response == b"*" {
                    return Ok(Reply::Bad("AUTHENTICATE cancelled"));
                }
                let Ok(message) = STANDARD.decode(response) else {
                    return Ok(Reply::Bad("That is not base64"));
                };
                accepts_plain(&message)
            }
        };
        Ok(match accepted {
            true => {
                self.state = State::Authenticated;
                Reply::Ok(format!("[CAPABILITY {CAPABILITIES}] Welcome"))
            }
            false => Reply::No(format!(
                "[AUTHENTICATIONFAILED] The sample knows user {USER}, password {PASSWORD}"
            )),
        })
    }

    fn authenticated(&mut self, command: Authenticated) -> Reply {
        match command {
            Authenticated::Namespace => {
                self.untagged(&format!(
                    "NAMESPACE ((\"\" \"{HIERARCHY_DELIMITER}\")) NIL NIL"
                ));
                Reply::completed("NAMESPACE")
            }
            Authenticated::Enable => {
                self.untagged("ENABLED");
                Reply::completed("ENABLE")
            }
            Authenticated::Select { mailbox, access } => self.select(&mailbox, access),
            Authenticated::Create(name) => match self.store.lock().create(&name) {
                Ok(()) => Reply::completed("CREATE"),
                Err(refusal) => Reply::refused(refusal),
            },
            Authenticated::Reorganize => {
                Reply::No("[CANNOT] The sample keeps its mailboxes as they are".to_owned())
            }
            // Everything is subscribed, always.
            Authenticated::Subscription(name) => match self.store.lock().find(&name) {
                Ok(_) => Reply::completed("(UN)SUBSCRIBE"),
                Err(refusal) => Reply::refused(refusal),
            },
            Authenticated::List(list) => self.list(&list),
            Authenticated::Status { mailbox, items } => self.status(&mailbox, &items),
            Authenticated::Append {
                mailbox,
                flags,
                internal_date,
                message,
            } => {
                let internal_date = internal_date.unwrap_or_else(InternalDate::now);
                self.append(&mailbox, message, flags, internal_date)
            }
        }
    }

    fn select(&mut self, name: &str, access: Access) -> Reply {
        // RFC 3501 §6.3.1: what was selected no longer is, also if this fails.
        self.state = State::Authenticated;
        let store = self.store.clone();
        let store = store.lock();
        let id = match store.find(name) {
            Ok(id) => id,
            Err(refusal) => return Reply::refused(refusal),
        };
        let mailbox = store.get(id);
        let keywords = mailbox.keywords();
        let keywords = keywords.iter().map(Flag::as_str);
        let flags = Flag::SYSTEM.into_iter().chain(keywords);
        let flags = flags.collect::<Vec<_>>().join(" ");
        let (code, permanent) = match access {
            Access::ReadWrite => ("READ-WRITE", format!("{flags} \\*")),
            Access::ReadOnly => ("READ-ONLY", String::new()),
        };
        self.untagged(&format!("FLAGS ({flags})"));
        self.untagged(&format!("{} EXISTS", mailbox.messages().len()));
        self.untagged("0 RECENT");
        if let Some(at) = mailbox.messages().iter().position(is_unseen) {
            self.untagged(&format!("OK [UNSEEN {}] First unseen", at + 1));
        }
        self.untagged(&format!("OK [PERMANENTFLAGS ({permanent})] Kept"));
        self.untagged(&format!(
            "OK [UIDVALIDITY {}] UIDs valid",
            mailbox.uid_validity()
        ));
        self.untagged(&format!("OK [UIDNEXT {}] Next UID", mailbox.uid_next()));
        self.state = State::Selected(View::new(id, mailbox, access));
        Reply::Ok(format!("[{code}] {} selected", mailbox.name()))
    }

    fn list(&mut self, list: &List) -> Reply {
        let store = self.store.clone();
        if list.pattern.is_empty() {
            // RFC 3501 §6.3.8: asks for the delimiter.
            self.untagged(&format!(
                "{} (\\Noselect) \"{HIERARCHY_DELIMITER}\" \"\"",
                list.response
            ));
        }
        for mailbox in store.lock().iter() {
            let wanted = mailbox.special_use().is_some() || !list.special_use_only;
            if wanted && name_matches(mailbox.name().as_bytes(), list.pattern.as_bytes()) {
                // Names have neither quotes nor backslashes.
                self.untagged(&format!(
                    "{} ({}) \"{HIERARCHY_DELIMITER}\" \"{}\"",
                    list.response,
                    mailbox.special_use().unwrap_or_default(),
                    mailbox.name()
                ));
            }
        }
        Reply::completed(list.response)
    }

    fn status(&mut self, name: &str, items: &[StatusItem]) -> Reply {
        let store = self.store.clone();
        let store = store.lock();
        let mailbox = match store.find(name) {
            Ok(id) => store.get(id),
            Err(refusal) => return Reply::refused(refusal),
        };
        let messages = mailbox.messages();
        let item = |item: &StatusItem| match item {
            StatusItem::Messages => format!("MESSAGES {}", messages.len()),
            StatusItem::Recent => "RECENT 0".to_owned(),
            StatusItem::UidNext => format!("UIDNEXT {}", mailbox.uid_next()),
            StatusItem::UidValidity => format!("UIDVALIDITY {}", mailbox.uid_validity()),
            StatusItem::Unseen => {
                format!(
                    "UNSEEN {}",
                    messages.iter().filter(|it| is_unseen(it)).count()
                )
            }
        };
        let items: Vec<_> = items.iter().map(item).collect();
        self.untagged(&format!(
            "STATUS \"{}\" ({})",
            mailbox.name(),
            items.join(" ")
        ));
        Reply::completed("STATUS")
    }

    fn append(
        &mut self,
        name: &str,
        message: Vec<u8>,
        flags: Vec<Flag>,
        internal_date: InternalDate,
    ) -> Reply {
        let mut store = self.store.lock();
        let id = match store.find(name) {
            Ok(id) => id,
            Err(refusal) => return Reply::refused_target(refusal),
        };
        match store.append(id, message.into(), flags, internal_date) {
            Ok(uid) => {
                let uid_validity = store.get(id).uid_validity();
                Reply::Ok(format!("[APPENDUID {uid_validity} {uid}] APPEND completed"))
            }
            Err(refusal) => Reply::refused(refusal),
        }
    }

    fn announce(&mut self, expunges: Expunges) {
        if let State::Selected(view) = &mut self.state {
            let store = self.store.lock();
            view.announce(
                store.get(view.mailbox),
                expunges,
                &mut self.connection.output,
            );
        }
    }

    fn untagged(&mut self, text: &str) {
        self.connection.untagged(text);
    }
}

/// `message = [authzid] NUL authcid NUL passwd` (RFC 4616); one may act as oneself.
fn accepts_plain(message: &[u8]) -> bool {
    let parts: Vec<_> = message.split(|&octet| octet == 0).collect();
    match parts.as_slice() {
        [authzid, authcid, password] => {
            (authzid.is_empty() || authzid == authcid)
                && *authcid == USER.as_bytes()
                && *password == PASSWORD.as_bytes()
        }
        _ => false,
    }
}

fn is_unseen(message: &SampleMessage) -> bool {
    !message.flags().contains(&Flag::seen())
}

/// `*` stands for anything, `%` for anything but the delimiter (RFC 3501 §6.3.8).
fn name_matches(name: &[u8], pattern: &[u8]) -> bool {
    // INBOX is INBOX in any case, and no other sample mailbox differs from one by case alone.
    let fits = |a: u8, b: u8| a.eq_ignore_ascii_case(&b);
    // `reached[i]`: the pattern so far fits the first i octets of the name. Linear in both,
    // where backtracking would be exponential for "*a*a*a*b".
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for &wanted in pattern {
        match wanted {
            b'*' | b'%' => {
                for at in 1..=name.len() {
                    let crosses = wanted == b'%' && name[at - 1] == HIERARCHY_DELIMITER as u8;
                    reached[at] |= reached[at - 1] && !crosses;
                }
            }
            wanted => {
                for at in (1..=name.len()).rev() {
                    reached[at] = reached[at - 1] && fits(name[at - 1], wanted);
                }
                reached[0] = false;
            }
        }
    }
    reached[name.len()]
}
