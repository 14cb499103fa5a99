//! [`ImapClient`]: one connection to an IMAP server, from greeting to LOGOUT.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::{LiteralReader, Upstream};
use crate::config::Quirks;
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::command::{
    Command, CommandName, FlagChange, ListVariant, ListingIdentity, Literals, MailboxName,
    SearchedState, Section, StoredFlag,
};
use crate::imap::fetch::{self, BodyHead, BodyPlace, Fetch};
use crate::imap::framing::{self, Ending, LINE_OCTETS_MAX, LITERALS_MAX};
use crate::imap::ids::{Uid, UidSet, UidValidity};
use crate::imap::response::{
    Capabilities, Capability, Code, Condition, Listed, PermanentFlags, Response, SpecialUse,
    Status, Tag, Untagged,
};
use crate::line_stream::{ByteStream, LineStream};
use crate::metrics::Metrics;
use crate::sasl::{Credential, Mechanism, Proof};

/// A command must be answered within so many stall limits, however steadily its answer trickles.
/// The listing of a million messages takes 60 MB.
const COMMAND_STALLS_MAX: u32 = 20;

/// Silence after which an upstream is asked whether it is still there; servers log out after 30
/// minutes (RFC 3501 §5.4).
const KEEP_ALIVE: Duration = Duration::from_secs(5 * 60);

/// Time for the last words to an upstream.
const LOGOUT_PATIENCE: Duration = Duration::from_secs(5);

/// Octets of the upstream's text that go into a log line.
const QUOTED_OCTETS_MAX: usize = 200;

/// Octets of a body that is held until its UID is known. Of a longer one the UID is checked behind it,
/// before its terminator is said.
const UNNAMED_BODY_OCTETS_MAX: u64 = 64 * 1024;

/// Octets of the names that a LIST may return; what exceeds them is ignored.
const MAILBOX_NAMES_OCTETS_MAX: usize = 1024 * 1024;

/// Messages that a maildrop may have; mpop, for one, takes no more.
const MESSAGES_MAX: u32 = 1_000_000;

/// One connection to an IMAP server. Dropping it closes the connection at once.
pub struct ImapClient {
    stream: LineStream,
    upstream: Arc<Upstream>,
    metrics: Arc<Metrics>,
    capabilities: Option<Capabilities>,
    utf8: bool,
    tags: u32,
    last_answer: Instant,
    validity: Option<UidValidity>,
    /// So that no text of the upstream which repeats it reaches a log.
    credential: Option<Credential>,
}

/// What SELECT said.
#[derive(Debug, Clone)]
pub struct Selected {
    /// Under which the UIDs of this session count.
    pub validity: UidValidity,
    /// How many messages there are.
    pub exists: u32,
    /// Whether nothing can be changed.
    pub read_only: bool,
    /// Which flags can be changed for good.
    pub permanent_flags: PermanentFlags,
}

/// The mailboxes of an account.
#[derive(Debug, Default)]
pub struct Folders {
    listed: Vec<Listed>,
    /// Where a new folder would go.
    personal_prefix: Vec<u8>,
}

/// A folder that messages can be moved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name on the wire.
    pub mailbox: MailboxName,
    /// Whether LIST has shown it.
    pub exists: bool,
}

/// How the answer to a FETCH of a body begins.
enum BodyStart {
    /// With the literal, whose octets are next.
    Streamed(BodyHead),
    /// With all of it.
    Held(Vec<u8>),
    /// There is no such message.
    Absent,
    /// NO, BAD, or NIL for a body.
    Refused(Status),
}

/// What came in.
pub(super) enum Received {
    Response(Response),
    Body(BodyHead),
}

impl ImapClient {
    /// Waits for the greeting.
    pub(super) async fn greet(
        stream: LineStream,
        upstream: Arc<Upstream>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Failure> {
        let mut client = Self::resume(stream, upstream, metrics);
        client.limit_command();
        let unreachable = |cause: String| FailureKind::UpstreamUnreachable.because(cause);
        let greeting = match client.receive().await {
            Ok(Received::Response(Response::Untagged(Untagged::Status(status)))) => status,
            Ok(_) => {
                return Err(unreachable(
                    "the upstream's greeting is not IMAP".to_owned(),
                ));
            }
            Err(failure) => {
                return Err(unreachable(format!("no IMAP greeting: {}", failure.cause)));
            }
        };
        match greeting.condition {
            Condition::Ok => {
                if let Some(Code::Capability(capabilities)) = greeting.code {
                    client.capabilities = Some(capabilities);
                }
                Ok(client)
            }
            // Nobody has proved anything yet, so nobody may be logged in.
            Condition::PreAuth => Err(unreachable("the upstream greets with PREAUTH".to_owned())),
            _ => Err(unreachable(format!(
                "the upstream turned us away: {}",
                client.quote(&greeting.text)
            ))),
        }
    }

    /// A connection on which the greeting has been read, before TLS began.
    pub(super) fn resume(
        stream: LineStream,
        upstream: Arc<Upstream>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            stream,
            upstream,
            metrics,
            capabilities: None,
            utf8: false,
            tags: 0,
            last_answer: Instant::now(),
            validity: None,
            credential: None,
        }
    }

    /// STARTTLS, whatever was advertised: an upstream that does not want it is not spoken to.
    pub(super) async fn start_tls(mut self) -> Result<Box<dyn ByteStream>, Failure> {
        let status = self.run(Command::start_tls(), |_| {}).await?;
        if status.condition != Condition::Ok {
            let text = self.quote(&status.text);
            return Err(FailureKind::UpstreamUnreachable
                .because(format!("the upstream refuses STARTTLS: {text}")));
        }
        if self.stream.has_input() {
            // Somebody in between added clear text that we would take for the upstream's.
            return Err(
                FailureKind::UpstreamGarbled.because("clear text behind the OK to STARTTLS")
            );
        }
        Ok(self.stream.into_transport())
    }

    /// What the upstream can do at this point of the connection.
    ///
    /// # Errors
    /// When it was lost or is no IMAP server.
    pub async fn known_capabilities(&mut self) -> Result<Capabilities, Failure> {
        if let Some(capabilities) = self.capabilities {
            return Ok(capabilities);
        }
        let status = self.run(Command::capability(), |_| {}).await?;
        self.expect_ok(CommandName::Capability, status)?;
        self.capabilities
            .ok_or_else(|| Garbled("OK to CAPABILITY without capabilities").into())
    }

    /// What was known last, without asking.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities
            .is_some_and(|capabilities| capabilities.has(capability))
    }

    fn literals(&self) -> Literals {
        self.capabilities
            .map_or(Literals::Synchronizing, literals_of)
    }

    /// Logs in by the best common mechanism; one attempt, whatever comes of it. Then greets with ID,
    /// without which some providers open no mailbox.
    ///
    /// # Errors
    /// `AuthRejected` only when the upstream said that the credential is wrong.
    pub async fn authenticate(&mut self, credential: &Credential) -> Result<(), Failure> {
        let capabilities = self.known_capabilities().await?;
        let choice = choose_mechanism(capabilities, credential)
            .map_err(|cause| FailureKind::Misconfigured.because(cause))?;
        self.credential = Some(credential.clone());
        // What was said before login does not hold after it (RFC 3501 §6.2.3).
        self.capabilities = None;
        let status = match (choice, credential.proof()) {
            (Choice::Login, Proof::Password(password)) => {
                let literals = literals_of(capabilities);
                let command = Command::login(credential.login(), password, literals);
                self.run(command, |_| {}).await?
            }
            (Choice::Login, Proof::BearerToken(_)) => {
                return Err(FailureKind::Misconfigured.because("LOGIN cannot carry a token"));
            }
            (Choice::Authenticate(mechanism), _) => {
                let at_once = capabilities.has(Capability::SaslIr);
                self.exchange(mechanism, credential, at_once).await?
            }
        };
        if status.condition != Condition::Ok {
            return Err(self.login_failure(&status));
        }
        let capabilities = self.known_capabilities().await?;
        self.upstream
            .note(|seen| seen.after_login = Some(capabilities));
        if capabilities.has(Capability::Id) {
            // Its answer, even NO, changes nothing.
            self.run(Command::id(env!("CARGO_PKG_VERSION")), |_| {})
                .await?;
        }
        Ok(())
    }

    /// AUTHENTICATE (RFC 3501 §6.2.2, RFC 4959)
    async fn exchange(
        &mut self,
        mechanism: Mechanism,
        credential: &Credential,
        at_once: bool,
    ) -> Result<Status, Failure> {
        let endpoint = &self.upstream.settings().imap;
        let response = credential
            .response(mechanism, &endpoint.host, endpoint.port)
            .ok_or_else(|| FailureKind::Misconfigured.because("a mechanism without a response"))?;
        let initial_response = at_once.then_some(&response);
        let command = Command::authenticate(mechanism.name(), initial_response);
        let started = Instant::now();
        let tag = self.send(&command).await?;
        let mut answers = Vec::new();
        // The challenge after a refused token explains the refusal; it wants an empty answer.
        answers.push(match mechanism {
            Mechanism::OauthBearer => &b"AQ=="[..],
            _ => b"",
        });
        if !at_once {
            answers.push(response.expose());
        }
        let status = loop {
            match self.receive().await? {
                Received::Response(Response::Continuation(_)) => {
                    let answer = answers
                        .pop()
                        .ok_or(Garbled("more challenges than the mechanism has"))?;
                    self.stream.output().extend_from_slice(answer);
                    self.stream.output().extend_from_slice(b"\r\n");
                }
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    break status;
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        };
        self.observe(CommandName::Authenticate, &status, started);
        Ok(status)
    }

    /// RFC 5530 says what a NO means; where there is no code, it means the credential.
    fn login_failure(&self, status: &Status) -> Failure {
        let kind = match (&status.code, status.condition) {
            (Some(Code::AuthenticationFailed | Code::Expired), _) => FailureKind::AuthRejected,
            (Some(Code::Unavailable), _) => FailureKind::AuthUnavailable,
            (Some(Code::Limit), _) => FailureKind::AuthUnavailable,
            (Some(Code::InUse), _) => FailureKind::MaildropInUse,
            (Some(Code::AuthorizationFailed | Code::PrivacyRequired), _) => {
                FailureKind::Misconfigured
            }
            (_, Condition::Bad) => FailureKind::OurMistake,
            _ if speaks_of_throttling(&status.text) => FailureKind::AuthUnavailable,
            _ => FailureKind::AuthRejected,
        };
        kind.because(format!("login: {}", self.quote(&status.text)))
    }

    /// ENABLE UTF8=ACCEPT (RFC 9755), if the upstream can.
    ///
    /// # Errors
    /// When it was lost.
    pub async fn enable_utf8(&mut self) -> Result<(), Failure> {
        if self.has(Capability::Utf8Accept) && self.has(Capability::Enable) {
            let mut enabled = false;
            self.run(Command::enable_utf8(), |untagged| {
                if let Untagged::Enabled(what) = untagged {
                    enabled |= what.has(Capability::Utf8Accept);
                }
            })
            .await?;
            self.utf8 = enabled;
        }
        Ok(())
    }

    /// Whether messages come as they are, with UTF-8 in their headers.
    pub fn is_utf8(&self) -> bool {
        self.utf8
    }

    /// A name from the config as this connection spells it.
    pub fn mailbox(&self, name: &str) -> MailboxName {
        let only_rev2 = self.has(Capability::Imap4Rev2) && !self.has(Capability::Imap4Rev1);
        MailboxName::encode(name, self.utf8 || only_rev2)
    }

    /// Opens a mailbox for reading and writing.
    ///
    /// # Errors
    /// `Misconfigured` when there is no such mailbox, `MaildropInUse` when it is locked.
    pub async fn select(&mut self, mailbox: &MailboxName) -> Result<Selected, Failure> {
        let mut exists = 0;
        let mut validity = None;
        // RFC 3501 §6.3.1: without PERMANENTFLAGS all flags can be changed; of keywords we do not
        // believe it.
        let mut permanent_flags = PermanentFlags {
            seen: true,
            deleted: true,
            hidden: false,
        };
        self.validity = None;
        let status = self
            .run(
                Command::select(mailbox, self.literals()),
                |untagged| match untagged {
                    Untagged::Exists(count) => exists = count,
                    Untagged::Status(status) => match status.code {
                        Some(Code::UidValidity(said)) => validity = Some(said),
                        Some(Code::PermanentFlags(said)) => permanent_flags = said,
                        _ => {}
                    },
                    _ => {}
                },
            )
            .await?;
        let read_only = status.code == Some(Code::ReadOnly);
        match &status {
            Status {
                code: Some(Code::InUse),
                ..
            } => {
                let text = self.quote(&status.text);
                return Err(FailureKind::MaildropInUse.because(format!("SELECT: {text}")));
            }
            Status {
                code: Some(Code::NonExistent | Code::TryCreate),
                condition: Condition::No,
                ..
            } => {
                let text = self.quote(&status.text);
                return Err(FailureKind::Misconfigured
                    .because(format!("maildrop.folder cannot be opened: {text}")));
            }
            _ => self.expect_ok(CommandName::Select, status)?,
        }
        let validity = validity.ok_or_else(|| {
            FailureKind::Misconfigured
                .because("the upstream has no UIDVALIDITY, so its UIDs name nothing")
        })?;
        self.validity = Some(validity);
        Ok(Selected {
            validity,
            exists,
            read_only,
            permanent_flags,
        })
    }

    /// UID, size and flags of every message of a selected mailbox, one response each, and some more
    /// where flags change meanwhile.
    ///
    /// # Errors
    /// When there are too many messages, the upstream refuses or is lost; what came before is not to
    /// be trusted then.
    pub async fn list_messages(
        &mut self,
        selected: &Selected,
        identity: ListingIdentity,
        mut each: impl FnMut(Fetch),
    ) -> Result<(), Failure> {
        // `1:*` names the last message even of an empty mailbox.
        if selected.exists == 0 {
            return Ok(());
        }
        if selected.exists > MESSAGES_MAX {
            return Err(FailureKind::Misconfigured.because(format!(
                "the folder has {} messages; a maildrop may have {MESSAGES_MAX}",
                selected.exists
            )));
        }
        // An upstream that repeats itself without end must not fill our memory.
        let responses_max = 2 * selected.exists + 1000;
        let mut responses = 0;
        let mut last = None;
        loop {
            let status = self
                .run(Command::fetch_listing(last, identity), |untagged| {
                    if let Untagged::Fetch(fetch) = untagged {
                        responses += 1;
                        if responses <= responses_max {
                            each(*fetch);
                        }
                    }
                })
                .await?;
            if responses > responses_max {
                return Err(Garbled("far more FETCH responses than messages").into());
            }
            let code = status.code.clone();
            self.expect_ok(CommandName::FetchListing, status)?;
            // RFC 9738 §3: from the highest UID down, so that what is below is still to come.
            last = match code {
                Some(Code::MessageLimit(lowest)) if last.is_none_or(|last| lowest <= last) => {
                    Uid::new(lowest.number() - 1)
                }
                _ => None,
            };
            if last.is_none() {
                return Ok(());
            }
        }
    }

    /// Begins to fetch a message, or part of it. `None`: there is no such message any more.
    ///
    /// # Errors
    /// When the upstream refuses, is lost, or has a message without showing it.
    pub async fn fetch_body(
        &mut self,
        uid: Uid,
        section: Section,
    ) -> Result<Option<LiteralReader<'_>>, Failure> {
        let started = Instant::now();
        let tag = self.send(&Command::fetch_body(uid, section)).await?;
        let status = match self.body_start(tag, uid, section).await? {
            BodyStart::Streamed(head) => {
                return Ok(Some(LiteralReader::streamed(self, tag, uid, head, started)));
            }
            BodyStart::Held(content) => {
                return Ok(Some(LiteralReader::inline(
                    self, tag, uid, content, started,
                )));
            }
            BodyStart::Absent => return Ok(None),
            BodyStart::Refused(status) => status,
        };
        self.observe(CommandName::FetchBody, &status, started);
        let failure = match self.expect_ok(CommandName::FetchBody, status) {
            Ok(()) => FailureKind::UpstreamRefused.because("the upstream says NIL for a body"),
            Err(failure) => failure,
        };
        // That may be how the upstream says that the message is gone (Dovecot: `BODY[] NIL` and
        // EXPUNGEISSUED); then it will not come back, and there is no failure.
        let left = self
            .search(&UidSet::from_iter([uid]), SearchedState::Present)
            .await?;
        match left.is_empty() {
            true => Ok(None),
            false => Err(failure),
        }
    }

    /// Reads up to the first octet of the body, or the end of the command.
    async fn body_start(
        &mut self,
        tag: Tag,
        uid: Uid,
        section: Section,
    ) -> Result<BodyStart, Failure> {
        let mut withheld = false;
        loop {
            match self.receive().await? {
                Received::Body(head) if is_ours(&head.items, uid) && fits(head.place, section) => {
                    if head.items.uid.is_some() || head.octets > UNNAMED_BODY_OCTETS_MAX {
                        return Ok(BodyStart::Streamed(head));
                    }
                    if let Some(content) = self.unnamed_body(head, uid).await? {
                        return Ok(BodyStart::Held(content));
                    }
                }
                Received::Response(Response::Untagged(Untagged::Fetch(mut fetch)))
                    if fetch.uid == Some(uid)
                        && fetch
                            .body
                            .as_ref()
                            .is_some_and(|body| fits(body.place, section)) =>
                {
                    match fetch.body.take().and_then(|body| body.content) {
                        Some(content) => return Ok(BodyStart::Held(content)),
                        None => withheld = true,
                    }
                }
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    let ok = status.condition == Condition::Ok;
                    return Ok(match ok && !withheld {
                        true => BodyStart::Absent,
                        false => BodyStart::Refused(status),
                    });
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        }
    }

    /// A body whose UID comes behind it (Exchange Online): held until it is clear whose it is.
    async fn unnamed_body(&mut self, head: BodyHead, uid: Uid) -> Result<Option<Vec<u8>>, Failure> {
        let mut content = Vec::new();
        self.read_octets(&mut content, head.octets).await?;
        let mut tail = Vec::new();
        if self.complete_line(&mut tail).await?.is_some() {
            return Err(Garbled("two bodies in one response").into());
        }
        let items = fetch::body_tail(&tail, head.items)?;
        Ok((items.uid == Some(uid)).then_some(content))
    }

    /// Sets or clears a flag on each of these messages that is still there; at most [`UIDS_MAX`].
    ///
    /// # Errors
    /// When the upstream refuses or is lost; some may have changed then.
    ///
    /// [`UIDS_MAX`]: crate::imap::command::UIDS_MAX
    pub async fn store(
        &mut self,
        set: &UidSet,
        change: FlagChange,
        flag: StoredFlag,
    ) -> Result<(), Failure> {
        let status = self.run(Command::store(set, change, flag), |_| {}).await?;
        self.expect_ok(CommandName::Store, status)
    }

    /// Removes those of these messages that bear `\Deleted`, and no others (RFC 4315).
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn expunge(&mut self, set: &UidSet) -> Result<(), Failure> {
        let status = self.run(Command::expunge(set), |_| {}).await?;
        self.expect_ok(CommandName::Expunge, status)
    }

    /// UID MOVE (RFC 6851); creates the folder if the upstream says that this would help.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn move_to(&mut self, set: &UidSet, mailbox: &MailboxName) -> Result<(), Failure> {
        self.transfer(set, mailbox, CommandName::Move, Command::move_to)
            .await
    }

    /// UID COPY; creates the folder if the upstream says that this would help.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn copy(&mut self, set: &UidSet, mailbox: &MailboxName) -> Result<(), Failure> {
        self.transfer(set, mailbox, CommandName::Copy, Command::copy)
            .await
    }

    async fn transfer(
        &mut self,
        set: &UidSet,
        mailbox: &MailboxName,
        name: CommandName,
        command: fn(&UidSet, &MailboxName, Literals) -> Command,
    ) -> Result<(), Failure> {
        let literals = self.literals();
        let mut status = self.run(command(set, mailbox, literals), |_| {}).await?;
        if status.condition == Condition::No && status.code == Some(Code::TryCreate) {
            self.create(mailbox).await?;
            status = self.run(command(set, mailbox, literals), |_| {}).await?;
        }
        self.expect_ok(name, status)
    }

    /// CREATE
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn create(&mut self, mailbox: &MailboxName) -> Result<(), Failure> {
        let status = self
            .run(Command::create(mailbox, self.literals()), |_| {})
            .await?;
        self.expect_ok(CommandName::Create, status)
    }

    /// Which of these messages are in the mailbox still, and as `state` says.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn search(&mut self, set: &UidSet, state: SearchedState) -> Result<UidSet, Failure> {
        let mut found = UidSet::default();
        let status = self
            .run(Command::search(set, state), |untagged| {
                if let Untagged::Search(uids) = untagged {
                    // Ours alone, so that a set of four billion cannot be walked through.
                    for uid in set.iter().filter(|uid| uids.contains(*uid)) {
                        found.insert_range(uid, uid);
                    }
                }
            })
            .await?;
        self.expect_ok(CommandName::Search, status)?;
        Ok(found)
    }

    /// The mailboxes of the account, and where a new one would go.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn folders(&mut self) -> Result<Folders, Failure> {
        // RFC 6154 §2 lets a server show special uses in every LIST; to ask for them takes
        // LIST-EXTENDED, without which RETURN has been answered with BAD.
        let variant = match self.has(Capability::SpecialUse) {
            true if self.has(Capability::ListExtended) => ListVariant::SpecialUse,
            false if self.has(Capability::XList) => ListVariant::XList,
            true | false => ListVariant::Plain,
        };
        let mut folders = Folders::default();
        let mut status = self.list(variant, &mut folders).await?;
        if status.condition != Condition::Ok && variant != ListVariant::Plain {
            status = self.list(ListVariant::Plain, &mut folders).await?;
        }
        self.expect_ok(CommandName::List, status)?;
        if self.has(Capability::Namespace) {
            self.run(Command::namespace(), |untagged| {
                if let Untagged::Namespace(prefix) = untagged {
                    folders.personal_prefix = prefix;
                }
            })
            .await?;
        }
        Ok(folders)
    }

    async fn list(
        &mut self,
        variant: ListVariant,
        folders: &mut Folders,
    ) -> Result<Status, Failure> {
        let mut octets = 0;
        self.run(Command::list(variant), |untagged| {
            if let Untagged::List(listed) = untagged {
                // A name costs some memory even when it is empty.
                octets += listed.name.len() + size_of::<Listed>();
                if octets <= MAILBOX_NAMES_OCTETS_MAX {
                    folders.listed.push(listed);
                }
            }
        })
        .await
    }

    /// NOOP when the upstream has been silent for long, so that neither it nor a firewall forgets us.
    ///
    /// # Errors
    /// When it was lost.
    pub async fn keep_alive(&mut self) -> Result<(), Failure> {
        if self.last_answer.elapsed() >= KEEP_ALIVE {
            let status = self.run(Command::noop(), |_| {}).await?;
            self.expect_ok(CommandName::Noop, status)?;
        }
        Ok(())
    }

    /// LOGOUT, without waiting for its answer; nothing depends on it.
    pub async fn logout(mut self) {
        self.stream.limit_stalls(LOGOUT_PATIENCE);
        if self.send(&Command::logout()).await.is_ok() {
            self.stream.close().await;
        }
    }

    /// Deviations of this provider.
    pub fn quirks(&self) -> &Quirks {
        &self.upstream.settings().quirks
    }

    /// Octets from and to the upstream so far.
    pub fn octets(&self) -> (u64, u64) {
        (self.stream.octets_read(), self.stream.octets_written())
    }

    /// The text of the upstream as a log may show it: short, escaped, without our credential.
    pub(super) fn quote(&self, text: &[u8]) -> String {
        if self
            .credential
            .as_ref()
            .is_some_and(|credential| credential.is_echoed_in(text))
        {
            return "(withheld: it repeats the credential)".to_owned();
        }
        let shown = &text[..text.len().min(QUOTED_OCTETS_MAX)];
        format!("\"{}\"", shown.escape_ascii())
    }

    /// Sends a command, handing every untagged response to `each`, until its tagged one.
    async fn run(
        &mut self,
        command: Command,
        mut each: impl FnMut(Untagged),
    ) -> Result<Status, Failure> {
        let started = Instant::now();
        let mut parts = command.parts(self.next_tag()).peekable();
        let tag = Tag(self.tags);
        self.limit_command();
        let status = 'answered: loop {
            if let Some(part) = parts.next() {
                self.stream.output().extend_from_slice(&part);
            }
            loop {
                match self.receive().await? {
                    Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                        break 'answered status;
                    }
                    Received::Response(Response::Continuation(_)) if parts.peek().is_some() => {
                        break;
                    }
                    other => self.other(other, &mut each).await?,
                }
            }
        };
        self.observe(command.name(), &status, started);
        Ok(status)
    }

    /// Sends a command that has no synchronizing literal.
    async fn send(&mut self, command: &Command) -> Result<Tag, Failure> {
        for part in command.parts(self.next_tag()) {
            self.stream.output().extend_from_slice(&part);
        }
        self.limit_command();
        self.stream.flush().await?;
        Ok(Tag(self.tags))
    }

    fn next_tag(&mut self) -> Tag {
        self.tags = self.tags.wrapping_add(1);
        Tag(self.tags)
    }

    pub(super) fn limit_command(&mut self) {
        let limit = self.upstream.stall_limit * COMMAND_STALLS_MAX;
        self.stream.set_deadline(Some(Instant::now() + limit));
    }

    /// One response, or as much of one as comes before a body.
    pub(super) async fn receive(&mut self) -> Result<Received, Failure> {
        let line = self.stream.line(LINE_OCTETS_MAX).await?;
        self.last_answer = Instant::now();
        match framing::ending_of_first(line)? {
            Ending::Complete => Ok(Received::Response(Response::parse(line)?)),
            Ending::Body(head) => Ok(Received::Body(head)),
            Ending::Literal { octets } => {
                let mut logical = line.to_vec();
                self.splice(&mut logical, octets).await?;
                match self.complete_line(&mut logical).await? {
                    Some(head) => Ok(Received::Body(head)),
                    None => Ok(Received::Response(Response::parse(&logical)?)),
                }
            }
        }
    }

    /// Reads on until a logical line is complete, or comes to a body.
    pub(super) async fn complete_line(
        &mut self,
        logical: &mut Vec<u8>,
    ) -> Result<Option<BodyHead>, Failure> {
        for _ in 0..LITERALS_MAX {
            let line_start = logical.len();
            let line = self.stream.line(LINE_OCTETS_MAX).await?;
            logical.extend_from_slice(line);
            match framing::ending_of_next(logical, line_start)? {
                Ending::Complete => return Ok(None),
                Ending::Body(head) => return Ok(Some(head)),
                Ending::Literal { octets } => self.splice(logical, octets).await?,
            }
        }
        Err(Garbled("too many literals in one response").into())
    }

    async fn splice(&mut self, logical: &mut Vec<u8>, octets: usize) -> Result<(), Failure> {
        framing::splice(logical);
        self.read_octets(logical, octets as u64).await
    }

    async fn read_octets(&mut self, into: &mut Vec<u8>, octets: u64) -> Result<(), Failure> {
        let mut left = octets;
        while left > 0 {
            let chunk = self
                .stream
                .chunk(usize::try_from(left).unwrap_or(usize::MAX))
                .await?;
            into.extend_from_slice(chunk);
            left -= chunk.len() as u64;
        }
        Ok(())
    }

    pub(super) fn stream(&mut self) -> &mut LineStream {
        &mut self.stream
    }

    /// What came in although nobody waited for it: noted, handed on, or skipped.
    pub(super) async fn other(
        &mut self,
        received: Received,
        each: &mut impl FnMut(Untagged),
    ) -> Result<(), Failure> {
        match received {
            Received::Response(Response::Untagged(untagged)) => {
                self.note(&untagged)?;
                each(untagged);
                Ok(())
            }
            Received::Response(Response::Tagged { .. }) => {
                Err(Garbled("the end of a command that we did not send").into())
            }
            Received::Response(Response::Continuation(_)) => {
                Err(Garbled("a continuation that we did not ask for").into())
            }
            Received::Body(head) => self.skip_body(head).await,
        }
    }

    /// A body that nobody asked for is never shown to anybody.
    async fn skip_body(&mut self, head: BodyHead) -> Result<(), Failure> {
        let mut left = head.octets;
        while left > 0 {
            let octets_max = usize::try_from(left).unwrap_or(usize::MAX);
            left -= self.stream.chunk(octets_max).await?.len() as u64;
        }
        let mut tail = Vec::new();
        match self.complete_line(&mut tail).await? {
            None => Ok(()),
            Some(_) => Err(Garbled("two bodies in one response").into()),
        }
    }

    fn note(&mut self, untagged: &Untagged) -> Result<(), Failure> {
        match untagged {
            Untagged::Capability(capabilities) => self.capabilities = Some(*capabilities),
            Untagged::Status(status) => {
                if status.condition == Condition::Bye {
                    let text = self.quote(&status.text);
                    return Err(FailureKind::UpstreamLost.because(format!("BYE {text}")));
                }
                if let (Some(Code::UidValidity(said)), Some(known)) = (&status.code, self.validity)
                    && *said != known
                {
                    return Err(Garbled("UIDVALIDITY changed in mid-session").into());
                }
                if let Some(Code::Capability(capabilities)) = status.code {
                    self.capabilities = Some(capabilities);
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn observe(&mut self, name: CommandName, status: &Status, started: Instant) {
        self.stream.set_deadline(None);
        if let Some(Code::Capability(capabilities)) = status.code {
            self.capabilities = Some(capabilities);
        }
        let upstream = &self.upstream.settings().name;
        self.metrics
            .imap_command(upstream, name, status.condition, started.elapsed());
        debug!(
            command = name.label(),
            status = ?status.condition,
            milliseconds = started.elapsed().as_millis(),
            "upstream command"
        );
    }

    /// NO and BAD to a command that should work.
    pub(super) fn expect_ok(&self, name: CommandName, status: Status) -> Result<(), Failure> {
        let kind = match status.condition {
            Condition::Ok => return Ok(()),
            Condition::Bad if !is_exchange_disconnect(&status.text) => FailureKind::OurMistake,
            _ => FailureKind::UpstreamRefused,
        };
        let text = self.quote(&status.text);
        Err(kind.because(format!("{}: {text}", name.label())))
    }
}

impl Folders {
    /// The folder with one of these special uses, else with one of these names, else the first of the
    /// names as a folder to be created.
    pub fn find(&self, uses: &[SpecialUse], names: &[&str]) -> Target {
        let selectable = || self.listed.iter().filter(|listed| listed.selectable);
        let by_use = uses
            .iter()
            .find_map(|wanted| selectable().find(|listed| listed.special_use == Some(*wanted)));
        let by_name = || {
            names.iter().map(|name| name.as_bytes()).find_map(|name| {
                selectable().find(|listed| last_component(listed).eq_ignore_ascii_case(name))
            })
        };
        let name = match by_use.or_else(by_name) {
            Some(listed) => listed.name.clone(),
            None => {
                let mut name = self.personal_prefix.clone();
                name.extend_from_slice(names.first().copied().unwrap_or_default().as_bytes());
                name
            }
        };
        let mailbox = MailboxName::from_wire(name);
        Target {
            exists: self.has(&mailbox),
            mailbox,
        }
    }

    /// Whether there is a folder of this name.
    pub fn has(&self, mailbox: &MailboxName) -> bool {
        let names = self.listed.iter().map(|listed| listed.name.clone());
        names
            .map(MailboxName::from_wire)
            .any(|name| name == *mailbox)
    }
}

/// `INBOX.Trash` is a trash folder as well as `Trash`; a folder `Projects/Trash` is somebody's own.
fn last_component(listed: &Listed) -> &[u8] {
    match listed.delimiter {
        Some(delimiter)
            if listed.name.len() > 6 && listed.name[..5].eq_ignore_ascii_case(b"INBOX") =>
        {
            match listed.name[5] == delimiter {
                true => &listed.name[6..],
                false => &listed.name,
            }
        }
        _ => &listed.name,
    }
}

/// Exchange Online, since 2016 (MailKit#1494): the mailbox behind the login is unreachable for now,
/// which it reports as a syntax error.
fn is_exchange_disconnect(text: &[u8]) -> bool {
    contains(text, b"authenticated but not connected")
}

/// Gmail (2016) and others refuse a login that comes too often with nothing but a text:
/// `NO [ALERT] Too many simultaneous connections. (Failure)`. To call that a wrong password would make
/// clients ask for it.
fn speaks_of_throttling(text: &[u8]) -> bool {
    [
        &b"too many"[..],
        b"simultaneous connections",
        b"try again later",
        b"temporar",
        b"rate limit",
        b"unavailable",
        b"exceeded",
    ]
    .iter()
    .any(|phrase| contains(text, phrase))
}

fn contains(text: &[u8], phrase: &[u8]) -> bool {
    memchr::memmem::find(&text.to_ascii_lowercase(), phrase).is_some()
}

fn is_ours(items: &Fetch, uid: Uid) -> bool {
    // Where the UID comes behind the body, the tail of the response decides.
    items.uid.is_none_or(|said| said == uid)
}

/// Whether these are octets that we asked for. A server that knows no partial fetch sends the whole
/// message; from its beginning that is as good.
fn fits(place: BodyPlace, section: Section) -> bool {
    place.whole_message
        && match section {
            Section::Whole => place.origin.is_none(),
            Section::Part { first, .. } => place.origin.unwrap_or(0) == first,
        }
}

fn literals_of(capabilities: Capabilities) -> Literals {
    if capabilities.has(Capability::LiteralPlus) {
        Literals::Plus
    } else if capabilities.has(Capability::LiteralMinus) {
        Literals::Minus
    } else {
        Literals::Synchronizing
    }
}

enum Choice {
    Login,
    Authenticate(Mechanism),
}

/// The mechanism by which this credential fits through this upstream, with the fewest flights.
fn choose_mechanism(
    capabilities: Capabilities,
    credential: &Credential,
) -> Result<Choice, &'static str> {
    let plain = capabilities.has(Capability::AuthPlain);
    let login = !capabilities.has(Capability::LoginDisabled);
    match credential.proof() {
        Proof::BearerToken(_) if capabilities.has(Capability::AuthOauthBearer) => {
            Ok(Choice::Authenticate(Mechanism::OauthBearer))
        }
        Proof::BearerToken(_) if capabilities.has(Capability::AuthXoauth2) => {
            Ok(Choice::Authenticate(Mechanism::Xoauth2))
        }
        Proof::BearerToken(_) => Err("the upstream takes no OAuth token"),
        // Only PLAIN can say as whom to act.
        Proof::Password(_) if credential.authorize_as().is_some() => match plain {
            true => Ok(Choice::Authenticate(Mechanism::Plain)),
            false => {
                Err("the client wants to act as somebody else, and the upstream has no AUTH=PLAIN")
            }
        },
        Proof::Password(_) if plain && capabilities.has(Capability::SaslIr) => {
            Ok(Choice::Authenticate(Mechanism::Plain))
        }
        Proof::Password(_) if login => Ok(Choice::Login),
        Proof::Password(_) if plain => Ok(Choice::Authenticate(Mechanism::Plain)),
        Proof::Password(_) => Err("the upstream takes no password (LOGINDISABLED)"),
    }
}
