//! Commands (RFC 3501 §6), written so that no argument can become a second command.

mod append;

use zeroize::Zeroizing;

pub use append::{AppendedHeader, SoughtCopy, StoredSince};

use super::capability::{Capabilities, Capability};
use super::fetch::HIDDEN_KEYWORD;
use super::ids::{ModSeq, Uid, UidSet};
use super::mailbox_name::MailboxName;
use super::response::Tag;
use crate::secret::Secret;

/// UIDs that one command names. That keeps its line within the 8192 octets that RFC 9051 §4 lets
/// servers insist on, its answer within a line too, and the work within what an upstream does before
/// it is taken for lost.
pub const UIDS_MAX: u32 = 200;

/// Messages that a listing may have; mpop, for one, takes no more.
pub const MESSAGES_MAX: u32 = 1_000_000;

/// Octets up to which LITERAL- (RFC 7888 §4) lets a literal go without waiting.
const LITERAL_MINUS_OCTETS_MAX: u64 = 4096;

/// A command without its tag, ready for the wire.
#[derive(PartialEq, Eq)]
pub struct Command {
    name: CommandName,
    octets: Zeroizing<Vec<u8>>,
    /// Positions in `octets` at which the upstream must ask for more before we go on.
    pauses: Vec<usize>,
}

/// The closed set of commands that we send; also the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum CommandName {
    Capability,
    StartTls,
    Authenticate,
    Login,
    Id,
    Enable,
    Namespace,
    List,
    Create,
    Select,
    FetchListing,
    FetchBody,
    Search,
    Store,
    Copy,
    Move,
    Expunge,
    Append,
    Noop,
    Logout,
}

impl CommandName {
    /// All of them, for metrics that start at zero.
    pub const ALL: [Self; 20] = [
        Self::Capability,
        Self::StartTls,
        Self::Authenticate,
        Self::Login,
        Self::Id,
        Self::Enable,
        Self::Namespace,
        Self::List,
        Self::Create,
        Self::Select,
        Self::FetchListing,
        Self::FetchBody,
        Self::Search,
        Self::Store,
        Self::Copy,
        Self::Move,
        Self::Expunge,
        Self::Append,
        Self::Noop,
        Self::Logout,
    ];

    /// In lower case, for labels and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Capability => "capability",
            Self::StartTls => "starttls",
            Self::Authenticate => "authenticate",
            Self::Login => "login",
            Self::Id => "id",
            Self::Enable => "enable",
            Self::Namespace => "namespace",
            Self::List => "list",
            Self::Create => "create",
            Self::Select => "select",
            Self::FetchListing => "fetch_listing",
            Self::FetchBody => "fetch_body",
            Self::Search => "search",
            Self::Store => "store",
            Self::Copy => "copy",
            Self::Move => "move",
            Self::Expunge => "expunge",
            Self::Append => "append",
            Self::Noop => "noop",
            Self::Logout => "logout",
        }
    }
}

/// Whether a literal may be sent without waiting for the upstream's `+` (RFC 7888).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Literals {
    /// It must wait.
    Synchronizing,
    /// LITERAL-: up to 4096 octets may go at once.
    Minus,
    /// LITERAL+: all may.
    Plus,
}

impl From<Capabilities> for Literals {
    fn from(capabilities: Capabilities) -> Self {
        if capabilities.has(Capability::LiteralPlus) {
            Self::Plus
        } else if capabilities.has(Capability::LiteralMinus) {
            Self::Minus
        } else {
            Self::Synchronizing
        }
    }
}

/// Which octets of a message a FETCH asks for, never setting `\Seen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `BODY.PEEK[]`
    Whole,
    /// `BODY.PEEK[]<first.octets>`
    Part {
        /// From 0.
        first: u32,
        /// How many at most.
        octets: u32,
    },
}

/// Data items of a listing beyond UID, RFC822.SIZE and FLAGS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListingIdentity {
    /// None: UID and UIDVALIDITY name the message.
    Uid,
    /// X-GM-MSGID
    GmailMessageId,
    /// EMAILID
    EmailId,
}

/// Of which messages a listing is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListingRange {
    /// The lowest UID.
    pub first: Uid,
    /// The highest UID; `None` for `*`, the highest that there is.
    pub last: Option<Uid>,
    /// Of those that came or changed since (RFC 7162); of all, if `None`.
    pub changed_since: Option<ModSeq>,
    /// Whether the upstream is to name those that have left since, too; where QRESYNC was enabled.
    pub vanished: bool,
}

impl ListingRange {
    /// All messages.
    pub const ALL: Self = Self {
        first: Uid::FIRST,
        last: None,
        changed_since: None,
        vanished: false,
    };
}

/// What a SEARCH asks of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchedState {
    /// That they are there.
    Present,
    /// That they do not bear `\Deleted`.
    Undeleted,
    /// That they do not bear [`HIDDEN_KEYWORD`].
    Unhidden,
    /// That they bear `\Seen`.
    Seen,
    /// That they bear `\Deleted`.
    Deleted,
    /// That they bear `\Deleted` or [`HIDDEN_KEYWORD`].
    DeletedOrHidden,
}

/// How a SEARCH is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchAnswer {
    /// With a number a message.
    Numbers,
    /// With ranges (RFC 4731).
    Ranges,
}

/// The shorter one, where the upstream can give it.
impl From<Capabilities> for SearchAnswer {
    fn from(capabilities: Capabilities) -> Self {
        match capabilities.has(Capability::ExtendedSearch) {
            true => Self::Ranges,
            false => Self::Numbers,
        }
    }
}

/// What a STORE does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagChange {
    /// `+FLAGS.SILENT`
    Set,
    /// `-FLAGS.SILENT`
    Clear,
}

/// A flag that we set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredFlag {
    /// `\Deleted`
    Deleted,
    /// `\Seen`
    Seen,
    /// [`HIDDEN_KEYWORD`]
    Hidden,
}

impl Command {
    /// Which command this is.
    pub fn name(&self) -> CommandName {
        self.name
    }

    /// Whether it can be sent in one go, without waiting for the upstream in between.
    pub fn is_in_one_part(&self) -> bool {
        self.pauses.is_empty()
    }

    /// The parts between which the upstream must be heard, the first behind the tag.
    pub fn parts(&self, tag: Tag) -> impl Iterator<Item = Zeroizing<Vec<u8>>> + '_ {
        let starts = std::iter::once(0).chain(self.pauses.iter().copied());
        let ends = self.pauses.iter().copied().chain([self.octets.len()]);
        let mut before = format!("{tag} ").into_bytes();
        starts.zip(ends).map(move |(start, end)| {
            let mut part = Zeroizing::new(Vec::with_capacity(before.len() + end - start));
            part.append(&mut before);
            part.extend_from_slice(&self.octets[start..end]);
            part
        })
    }

    /// `CAPABILITY`
    pub fn capability() -> Self {
        Writer::new(CommandName::Capability, "CAPABILITY").end()
    }

    /// `STARTTLS`
    pub fn start_tls() -> Self {
        Writer::new(CommandName::StartTls, "STARTTLS").end()
    }

    /// `LOGIN userid password`
    pub fn login(user: &[u8], password: &Secret, literals: Literals) -> Self {
        let octets = 2 * (user.len() + password.expose().len()) + 64;
        let mut writer = Writer::with_capacity(CommandName::Login, "LOGIN", octets);
        writer.text(" ").astring(user, literals);
        writer.text(" ").astring(password.expose(), literals);
        writer.end()
    }

    /// `AUTHENTICATE mechanism [initial-response]`; the response is base64 already.
    pub fn authenticate(mechanism: &str, initial_response: Option<&Secret>) -> Self {
        let octets = initial_response.map_or(0, |response| response.expose().len()) + 64;
        let mut writer = Writer::with_capacity(CommandName::Authenticate, "AUTHENTICATE ", octets);
        writer.text(mechanism);
        if let Some(response) = initial_response {
            writer.text(" ").octets(response.expose());
        }
        writer.end()
    }

    /// `ID (…)` (RFC 2971). Some providers refuse an empty one, and NetEase serves nobody without.
    pub fn id(version: &str) -> Self {
        let mut writer = Writer::new(CommandName::Id, "ID (\"name\" \"popgate\" \"version\" \"");
        writer.text(version).text("\")");
        writer.end()
    }

    /// `ENABLE UTF8=ACCEPT` (RFC 9755)
    pub fn enable_utf8() -> Self {
        Writer::new(CommandName::Enable, "ENABLE UTF8=ACCEPT").end()
    }

    /// `ENABLE QRESYNC` (RFC 7162 §3.2.3); only before a mailbox is selected.
    pub fn enable_qresync() -> Self {
        Writer::new(CommandName::Enable, "ENABLE QRESYNC").end()
    }

    /// `NAMESPACE` (RFC 2342)
    pub fn namespace() -> Self {
        Writer::new(CommandName::Namespace, "NAMESPACE").end()
    }

    /// `LIST "" "*"`: every mailbox, with its special use where the upstream tells (RFC 6154 §5.2).
    pub fn list(variant: ListVariant) -> Self {
        let text = match variant {
            ListVariant::Plain => "LIST \"\" \"*\"",
            ListVariant::SpecialUse => "LIST \"\" \"*\" RETURN (SPECIAL-USE)",
            ListVariant::XList => "XLIST \"\" \"*\"",
        };
        Writer::new(CommandName::List, text).end()
    }

    /// `CREATE mailbox`
    pub fn create(mailbox: &MailboxName, literals: Literals) -> Self {
        let mut writer = Writer::new(CommandName::Create, "CREATE ");
        writer.astring(mailbox.as_bytes(), literals);
        writer.end()
    }

    /// `SELECT mailbox [(CONDSTORE)]`. Some servers count modifications only once they are asked to.
    pub fn select(mailbox: &MailboxName, capabilities: Capabilities) -> Self {
        let mut writer = Writer::new(CommandName::Select, "SELECT ");
        writer.astring(mailbox.as_bytes(), Literals::from(capabilities));
        if capabilities.has(Capability::CondStore) {
            writer.text(" (CONDSTORE)");
        }
        writer.end()
    }

    /// `UID FETCH first:last (UID RFC822.SIZE FLAGS …) [(CHANGEDSINCE … [VANISHED])]`
    pub fn fetch_listing(range: ListingRange, identity: ListingIdentity) -> Self {
        let items = match identity {
            ListingIdentity::Uid => "UID RFC822.SIZE FLAGS",
            ListingIdentity::GmailMessageId => "UID RFC822.SIZE FLAGS X-GM-MSGID",
            ListingIdentity::EmailId => "UID RFC822.SIZE FLAGS EMAILID",
        };
        let ListingRange {
            first,
            last,
            changed_since,
            vanished,
        } = range;
        let last = last.map_or("*".to_owned(), |last| last.to_string());
        let mut writer = Writer::new(CommandName::FetchListing, "UID FETCH ");
        writer.text(&format!("{first}:{last} ({items})"));
        if let Some(mod_seq) = changed_since {
            let vanished = if vanished { " VANISHED" } else { "" };
            writer.text(&format!(" (CHANGEDSINCE {mod_seq}{vanished})"));
        }
        writer.end()
    }

    /// `FETCH number (UID)`: which message is at this place. No EXPUNGE may come between the last answer
    /// and that to this (RFC 3501 §7.4.1), so that it asks what it means to, if nothing else is under way.
    pub fn fetch_uid(number: u32) -> Self {
        let mut writer = Writer::new(CommandName::FetchListing, "FETCH ");
        writer.text(&format!("{number} (UID)"));
        writer.end()
    }

    /// `UID FETCH uid (UID BODY.PEEK[]…)`
    pub fn fetch_body(uid: Uid, section: Section) -> Self {
        let section = match section {
            Section::Whole => String::new(),
            Section::Part { first, octets } => format!("<{first}.{octets}>"),
        };
        let mut writer = Writer::new(CommandName::FetchBody, "UID FETCH ");
        writer.text(&format!("{uid} (UID BODY.PEEK[]{section})"));
        writer.end()
    }

    /// `UID SEARCH UID set …`: which of these are there, and as `state` says.
    pub fn search(set: &UidSet, state: SearchedState, answer: SearchAnswer) -> Self {
        let answer = match answer {
            SearchAnswer::Numbers => "",
            SearchAnswer::Ranges => "RETURN (ALL) ",
        };
        let state = match state {
            SearchedState::Present => String::new(),
            SearchedState::Undeleted => " UNDELETED".to_owned(),
            SearchedState::Unhidden => format!(" UNKEYWORD {HIDDEN_KEYWORD}"),
            SearchedState::Deleted => " DELETED".to_owned(),
            SearchedState::DeletedOrHidden => format!(" OR DELETED KEYWORD {HIDDEN_KEYWORD}"),
            SearchedState::Seen => " SEEN".to_owned(),
        };
        let mut writer = Writer::new(CommandName::Search, "UID SEARCH ");
        writer.text(&format!("{answer}UID {set}{state}"));
        writer.end()
    }

    /// `UID STORE set ±FLAGS.SILENT (flag)`
    pub fn store(set: &UidSet, change: FlagChange, flag: StoredFlag) -> Self {
        let sign = match change {
            FlagChange::Set => '+',
            FlagChange::Clear => '-',
        };
        let flag = match flag {
            StoredFlag::Deleted => "\\Deleted",
            StoredFlag::Seen => "\\Seen",
            StoredFlag::Hidden => HIDDEN_KEYWORD,
        };
        let mut writer = Writer::new(CommandName::Store, "UID STORE ");
        writer.text(&format!("{set} {sign}FLAGS.SILENT ({flag})"));
        writer.end()
    }

    /// `UID COPY set mailbox`
    pub fn copy(set: &UidSet, mailbox: &MailboxName, literals: Literals) -> Self {
        let mut writer = Writer::new(CommandName::Copy, "UID COPY ");
        writer.text(&format!("{set} "));
        writer.astring(mailbox.as_bytes(), literals);
        writer.end()
    }

    /// `UID MOVE set mailbox` (RFC 6851)
    pub fn move_to(set: &UidSet, mailbox: &MailboxName, literals: Literals) -> Self {
        let mut writer = Writer::new(CommandName::Move, "UID MOVE ");
        writer.text(&format!("{set} "));
        writer.astring(mailbox.as_bytes(), literals);
        writer.end()
    }

    /// `UID EXPUNGE set` (RFC 4315): the only expunge we ever send.
    pub fn expunge(set: &UidSet) -> Self {
        let mut writer = Writer::new(CommandName::Expunge, "UID EXPUNGE ");
        writer.text(&set.to_string());
        writer.end()
    }

    /// `NOOP`
    pub fn noop() -> Self {
        Writer::new(CommandName::Noop, "NOOP").end()
    }

    /// `LOGOUT`. Never CLOSE, which would expunge what others marked.
    pub fn logout() -> Self {
        Writer::new(CommandName::Logout, "LOGOUT").end()
    }
}

/// How the upstream lets us ask for special uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListVariant {
    /// Not at all.
    Plain,
    /// RFC 6154
    SpecialUse,
    /// Before RFC 6154.
    XList,
}

/// What most commands take besides their first words and what is secret, with the line end.
const ARGUMENTS_OCTETS: usize = 64;

struct Writer {
    name: CommandName,
    octets: Zeroizing<Vec<u8>>,
    pauses: Vec<usize>,
}

impl Writer {
    fn new(name: CommandName, text: &str) -> Self {
        Self::with_capacity(name, text, 0)
    }

    /// Reserves what a secret will need, so that no reallocation leaves a copy of it behind.
    fn with_capacity(name: CommandName, text: &str, more: usize) -> Self {
        let octets_max = text.len() + more + ARGUMENTS_OCTETS;
        let mut octets = Zeroizing::new(Vec::with_capacity(octets_max));
        octets.extend_from_slice(text.as_bytes());
        Self {
            name,
            octets,
            pauses: Vec::new(),
        }
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.octets(text.as_bytes())
    }

    fn octets(&mut self, octets: &[u8]) -> &mut Self {
        self.octets.extend_from_slice(octets);
        self
    }

    /// `astring = 1*ASTRING-CHAR / quoted / literal`. NUL fits into none of them (RFC 3501 §9,
    /// CHAR8); [`crate::sasl`] and the config refuse it before it comes here.
    fn astring(&mut self, value: &[u8], literals: Literals) {
        let is_atom = |octet: &u8| octet.is_ascii_alphanumeric() || b"-_.@/+=:".contains(octet);
        let is_quotable = |octet: &u8| octet.is_ascii() && !matches!(octet, b'\r' | b'\n' | 0);
        // NIL would be an atom in one place and nothing in another.
        if !value.is_empty() && value.iter().all(is_atom) && !value.eq_ignore_ascii_case(b"NIL") {
            self.octets(value);
        } else if value.iter().all(is_quotable) {
            self.quoted(value);
        } else {
            self.literal(value, literals);
        }
    }

    fn quoted(&mut self, value: &[u8]) {
        self.octets.push(b'"');
        for octet in value {
            if matches!(octet, b'"' | b'\\') {
                self.octets.push(b'\\');
            }
            self.octets.push(*octet);
        }
        self.octets.push(b'"');
    }

    fn literal(&mut self, value: &[u8], literals: Literals) {
        self.announce(value.len() as u64, literals);
        self.octets(value);
    }

    /// The head of a literal.
    fn announce(&mut self, octets: u64, literals: Literals) {
        let waits = match literals {
            Literals::Plus => false,
            Literals::Minus => octets > LITERAL_MINUS_OCTETS_MAX,
            Literals::Synchronizing => true,
        };
        let plus = if waits { "" } else { "+" };
        self.text(&format!("{{{octets}{plus}}}\r\n"));
        if waits {
            self.pauses.push(self.octets.len());
        }
    }

    fn end(mut self) -> Command {
        self.text("\r\n");
        self.unfinished()
    }

    /// A command whose end somebody else writes.
    fn unfinished(self) -> Command {
        Command {
            name: self.name,
            octets: self.octets,
            pauses: self.pauses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(command: &Command) -> Vec<String> {
        command
            .parts(Tag(1))
            .map(|part| String::from_utf8_lossy(&part).into_owned())
            .collect()
    }

    fn login(password: &[u8], literals: Literals) -> Vec<String> {
        wire(&Command::login(
            b"joe@example.org",
            &Secret::new(password.to_vec()),
            literals,
        ))
    }

    #[test]
    fn a_password_is_one_argument_whatever_is_in_it() {
        for (password, literals, parts) in [
            (
                &b"secret"[..],
                Literals::Plus,
                vec!["g1 LOGIN joe@example.org secret\r\n"],
            ),
            (
                b"",
                Literals::Plus,
                vec!["g1 LOGIN joe@example.org \"\"\r\n"],
            ),
            (
                b"NIL",
                Literals::Plus,
                vec!["g1 LOGIN joe@example.org \"NIL\"\r\n"],
            ),
            (
                b" a\"b\\c ",
                Literals::Plus,
                vec!["g1 LOGIN joe@example.org \" a\\\"b\\\\c \"\r\n"],
            ),
            (
                b"{3}",
                Literals::Plus,
                vec!["g1 LOGIN joe@example.org \"{3}\"\r\n"],
            ),
            (
                b"%*()]",
                Literals::Plus,
                vec!["g1 LOGIN joe@example.org \"%*()]\"\r\n"],
            ),
            (
                b"a\r\nx",
                Literals::Plus,
                vec!["g1 LOGIN joe@example.org {4+}\r\na\r\nx\r\n"],
            ),
            (
                "ü".as_bytes(),
                Literals::Minus,
                vec!["g1 LOGIN joe@example.org {2+}\r\nü\r\n"],
            ),
            (
                "ü".as_bytes(),
                Literals::Synchronizing,
                vec!["g1 LOGIN joe@example.org {2}\r\n", "ü\r\n"],
            ),
        ] {
            assert_eq!(login(password, literals), parts);
        }
        let long = "ü".repeat(2049);
        assert_eq!(
            login(long.as_bytes(), Literals::Minus).len(),
            2,
            "LITERAL- stops at 4096"
        );
    }

    #[test]
    fn an_independent_codec_reads_every_command() {
        use imap_codec::CommandCodec;
        use imap_codec::decode::Decoder;
        let set: UidSet = [1, 2, 9].into_iter().filter_map(Uid::new).collect();
        let uid = Uid::new(7).expect("not 0");
        let mut capable = Capabilities::default();
        capable.insert(Capability::LiteralPlus);
        let mut counting = capable;
        counting.insert(Capability::CondStore);
        let below = ListingRange {
            last: Some(uid),
            ..ListingRange::ALL
        };
        let changed = ListingRange {
            changed_since: ModSeq::new(715_194_045_007),
            ..ListingRange::ALL
        };
        let mailbox = MailboxName::encode("Müll \"x\"", false);
        let password = Secret::new(b"a\"b".to_vec());
        let response = Secret::new(b"AGpvZQBhIm4=".to_vec());
        let plus = Literals::Plus;
        for command in [
            Command::capability(),
            Command::start_tls(),
            Command::login(b"joe", &password, plus),
            Command::authenticate("PLAIN", Some(&response)),
            Command::authenticate("PLAIN", None),
            Command::id("0.1.0"),
            Command::enable_utf8(),
            Command::namespace(),
            Command::list(ListVariant::Plain),
            Command::create(&mailbox, plus),
            Command::select(&mailbox, capable),
            Command::select(&mailbox, counting),
            Command::fetch_listing(ListingRange::ALL, ListingIdentity::Uid),
            Command::fetch_listing(below, ListingIdentity::Uid),
            Command::fetch_listing(changed, ListingIdentity::Uid),
            Command::fetch_uid(13_000_001),
            Command::fetch_body(uid, Section::Whole),
            Command::fetch_body(
                uid,
                Section::Part {
                    first: 0,
                    octets: 4096,
                },
            ),
            Command::search(&set, SearchedState::Present, SearchAnswer::Numbers),
            Command::search(&set, SearchedState::Undeleted, SearchAnswer::Numbers),
            Command::search(&set, SearchedState::Unhidden, SearchAnswer::Numbers),
            Command::search(&set, SearchedState::Deleted, SearchAnswer::Numbers),
            Command::search(&set, SearchedState::DeletedOrHidden, SearchAnswer::Numbers),
            Command::search(&set, SearchedState::Seen, SearchAnswer::Numbers),
            Command::store(&set, FlagChange::Set, StoredFlag::Deleted),
            Command::store(&set, FlagChange::Clear, StoredFlag::Deleted),
            Command::store(&set, FlagChange::Set, StoredFlag::Seen),
            Command::store(&set, FlagChange::Set, StoredFlag::Hidden),
            Command::copy(&set, &mailbox, plus),
            Command::move_to(&set, &mailbox, plus),
            Command::expunge(&set),
            Command::noop(),
            Command::logout(),
        ] {
            let wire = wire(&command).concat();
            match CommandCodec::default().decode(wire.as_bytes()) {
                Ok((b"", _)) => {}
                other => panic!("{wire}: {other:?}"),
            }
        }
    }
}
