//! The commands of RFC 3501 §6 and of the extensions that the sample has: grammar only.
//!
//! They are grouped as the RFC groups them, by the state in which they are allowed.

use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case, take, take_while1};
use nom::character::complete::{char, u32};
use nom::combinator::{all_consuming, map_opt, map_res, opt, success, value, verify};
use nom::multi::{separated_list0, separated_list1};
use nom::sequence::{delimited, preceded, separated_pair};

use super::search::SearchKey;
use super::sequence_set::SequenceSet;
use super::words::{
    Parsed, astring, atom, fail, is_astring_char, is_atom_char, list_atom, literal, nstring,
    string, text,
};
use crate::demo::date::InternalDate;
use crate::demo::mailbox::{Flag, FlagChange};
use crate::secret::Secret;

#[derive(Debug)]
pub(super) enum Command {
    AnyState(AnyState),
    NotAuthenticated(NotAuthenticated),
    Authenticated(Authenticated),
    Selected(Selected),
}

/// RFC 3501 §6.1.
#[derive(Debug, Clone)]
pub(super) enum AnyState {
    Capability,
    Noop,
    Logout,
    Id,
}

/// RFC 3501 §6.2.
#[derive(Debug)]
pub(super) enum NotAuthenticated {
    Login {
        user: String,
        password: Secret,
    },
    Authenticate {
        mechanism: String,
        /// As it is on the wire (RFC 4959).
        initial_response: Option<Secret>,
    },
}

/// RFC 3501 §6.3.
#[derive(Debug, Clone)]
pub(super) enum Authenticated {
    Namespace,
    Enable,
    Select {
        mailbox: String,
        access: Access,
    },
    Create(String),
    /// DELETE and RENAME.
    Reorganize,
    /// SUBSCRIBE and UNSUBSCRIBE.
    Subscription(String),
    List(List),
    Status {
        mailbox: String,
        items: Vec<StatusItem>,
    },
    Append {
        mailbox: String,
        flags: Vec<Flag>,
        internal_date: Option<InternalDate>,
        message: Vec<u8>,
    },
}

/// RFC 3501 §6.4.
#[derive(Debug, Clone)]
pub(super) enum Selected {
    Check,
    Close,
    Unselect,
    /// Of all messages, or of these UIDs (RFC 4315).
    Expunge(Option<SequenceSet>),
    Search {
        numbering: Numbering,
        /// `None`: answered in the old way.
        returns: Option<Vec<SearchReturn>>,
        known_charset: bool,
        key: SearchKey,
    },
    Fetch {
        numbering: Numbering,
        set: SequenceSet,
        items: Vec<FetchItem>,
    },
    Store {
        numbering: Numbering,
        set: SequenceSet,
        change: FlagChange,
        silent: bool,
    },
    Copy {
        numbering: Numbering,
        set: SequenceSet,
        mailbox: String,
    },
    Move {
        numbering: Numbering,
        set: SequenceSet,
        mailbox: String,
    },
}

/// What the numbers of a command are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbering {
    SequenceNumbers,
    Uids,
}

/// SELECT or EXAMINE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
}

/// LIST (RFC 3501 §6.3.8, RFC 6154 §5) or LSUB.
#[derive(Debug, Clone)]
pub(super) struct List {
    /// With what the responses begin.
    pub(super) response: &'static str,
    pub(super) special_use_only: bool,
    /// Reference and pattern together.
    pub(super) pattern: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusItem {
    Messages,
    Recent,
    UidNext,
    UidValidity,
    Unseen,
}

/// RFC 4731.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchReturn {
    Min,
    Max,
    All,
    Count,
}

/// `fetch-att`, as far as the sample goes: no ENVELOPE, no BODYSTRUCTURE, no MIME parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FetchItem {
    Uid,
    Flags,
    InternalDate,
    Size,
    Body {
        /// How the response names it.
        label: String,
        section: Section,
        sets_seen: bool,
        /// First octet and how many.
        partial: Option<(u32, u32)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Section {
    Whole,
    Header,
    Text,
    HeaderFields(Vec<String>),
    HeaderFieldsNot(Vec<String>),
}

/// Which command could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// `None` if not even the tag could be.
    pub(super) tag: Option<String>,
}

impl Command {
    /// `command = tag SP (command-any / …)`, literals in place, without the last CRLF.
    pub(super) fn parse(input: &[u8]) -> Result<(String, Self), SyntaxError> {
        let (input, tag) = tag_and_space(input).map_err(|_| SyntaxError { tag: None })?;
        match command(input) {
            Ok((_, command)) => Ok((tag, command)),
            Err(_) => Err(SyntaxError { tag: Some(tag) }),
        }
    }
}

/// The tag of a command that goes on with a literal, and whether that is an APPEND.
pub(super) fn beginning(input: &[u8]) -> (Option<String>, bool) {
    match tag_and_space(input) {
        Ok((rest, tag)) => (
            Some(tag),
            rest.get(..7)
                .is_some_and(|it| it.eq_ignore_ascii_case(b"APPEND ")),
        ),
        Err(_) => (None, false),
    }
}

/// `tag SP`; `tag = 1*<any ASTRING-CHAR except "+">`
fn tag_and_space(input: &[u8]) -> Parsed<'_, String> {
    let tag = take_while1(|octet| is_astring_char(octet) && octet != b'+');
    (text(tag), char(' ')).map(|(tag, _)| tag).parse(input)
}

fn command(input: &[u8]) -> Parsed<'_, Command> {
    let (input, uid) = opt(tag_no_case("UID ")).parse(input)?;
    let (input, name) = take_while1(|octet: u8| octet.is_ascii_alphabetic()).parse(input)?;
    let numbering = match uid {
        Some(_) => Numbering::Uids,
        None => Numbering::SequenceNumbers,
    };
    let name = name.to_ascii_uppercase();
    if let Some(result) = selected(numbering, &name, input) {
        return result.map(|(rest, it)| (rest, Command::Selected(it)));
    }
    if uid.is_some() {
        return fail(input);
    }
    match name.as_slice() {
        b"LOGIN" | b"AUTHENTICATE" => all_consuming(|it| not_authenticated(&name, it))
            .map(Command::NotAuthenticated)
            .parse(input),
        b"CAPABILITY" | b"NOOP" | b"LOGOUT" | b"ID" => all_consuming(|it| any_state(&name, it))
            .map(Command::AnyState)
            .parse(input),
        _ => all_consuming(|it| authenticated(&name, it))
            .map(Command::Authenticated)
            .parse(input),
    }
}

fn any_state<'a>(name: &[u8], input: &'a [u8]) -> Parsed<'a, AnyState> {
    match name {
        b"CAPABILITY" => Ok((input, AnyState::Capability)),
        b"NOOP" => Ok((input, AnyState::Noop)),
        b"LOGOUT" => Ok((input, AnyState::Logout)),
        // What the client says of itself (RFC 2971) changes nothing.
        _ => {
            let list = delimited(char('('), separated_list0(char(' '), nstring), char(')'));
            let nothing = alt((value((), tag_no_case("NIL")), value((), list)));
            value(AnyState::Id, preceded(char(' '), nothing)).parse(input)
        }
    }
}

fn not_authenticated<'a>(name: &[u8], input: &'a [u8]) -> Parsed<'a, NotAuthenticated> {
    if name == b"LOGIN" {
        let login = preceded(
            char(' '),
            separated_pair(text(astring), char(' '), astring.map(Secret::new)),
        );
        return login
            .map(|(user, password)| NotAuthenticated::Login { user, password })
            .parse(input);
    }
    let mechanism = preceded(char(' '), text(atom));
    let response = preceded(char(' '), take_while1(|octet: u8| octet.is_ascii_graphic()));
    (mechanism, opt(response))
        .map(
            |(mechanism, response): (_, Option<&[u8]>)| NotAuthenticated::Authenticate {
                mechanism,
                initial_response: response.map(|it| Secret::new(it.to_vec())),
            },
        )
        .parse(input)
}

fn authenticated<'a>(name: &[u8], input: &'a [u8]) -> Parsed<'a, Authenticated> {
    let mailbox = || preceded(char(' '), text(astring));
    let select = |access| mailbox().map(move |mailbox| Authenticated::Select { mailbox, access });
    match name {
        b"NAMESPACE" => Ok((input, Authenticated::Namespace)),
        b"ENABLE" => {
            let names = preceded(char(' '), separated_list1(char(' '), atom));
            value(Authenticated::Enable, names).parse(input)
        }
        b"SELECT" => select(Access::ReadWrite).parse(input),
        b"EXAMINE" => select(Access::ReadOnly).parse(input),
        b"CREATE" => mailbox().map(Authenticated::Create).parse(input),
        b"DELETE" => value(Authenticated::Reorganize, mailbox()).parse(input),
        b"RENAME" => value(Authenticated::Reorganize, (mailbox(), mailbox())).parse(input),
        b"SUBSCRIBE" | b"UNSUBSCRIBE" => mailbox().map(Authenticated::Subscription).parse(input),
        b"LIST" => list("LIST", input),
        b"LSUB" => list("LSUB", input),
        b"STATUS" => {
            let items = delimited(
                tag(" ("),
                separated_list1(char(' '), status_item),
                char(')'),
            );
            (mailbox(), items)
                .map(|(mailbox, items)| Authenticated::Status { mailbox, items })
                .parse(input)
        }
        b"APPEND" => append(input),
        _ => fail(input),
    }
}

/// `None` if there is no such command in the selected state.
fn selected<'a>(
    numbering: Numbering,
    name: &[u8],
    input: &'a [u8],
) -> Option<Parsed<'a, Selected>> {
    let set = || preceded(char(' '), SequenceSet::parse);
    let set_and_mailbox = || (set(), preceded(char(' '), text(astring)));
    Some(match (name, numbering) {
        (b"CHECK", Numbering::SequenceNumbers) => nothing(Selected::Check, input),
        (b"CLOSE", Numbering::SequenceNumbers) => nothing(Selected::Close, input),
        (b"UNSELECT", Numbering::SequenceNumbers) => nothing(Selected::Unselect, input),
        (b"EXPUNGE", Numbering::SequenceNumbers) => nothing(Selected::Expunge(None), input),
        (b"EXPUNGE", Numbering::Uids) => all_consuming(set())
            .map(|set| Selected::Expunge(Some(set)))
            .parse(input),
        (b"SEARCH", _) => all_consuming(|it| search(numbering, it)).parse(input),
        (b"FETCH", _) => all_consuming((set(), preceded(char(' '), fetch_items)))
            .map(|(set, items)| Selected::Fetch {
                numbering,
                set,
                items,
            })
            .parse(input),
        (b"STORE", _) => all_consuming((set(), preceded(char(' '), store_change)))
            .map(|(set, (change, silent))| Selected::Store {
                numbering,
                set,
                change,
                silent,
            })
            .parse(input),
        (b"COPY", _) => all_consuming(set_and_mailbox())
            .map(|(set, mailbox)| Selected::Copy {
                numbering,
                set,
                mailbox,
            })
            .parse(input),
        (b"MOVE", _) => all_consuming(set_and_mailbox())
            .map(|(set, mailbox)| Selected::Move {
                numbering,
                set,
                mailbox,
            })
            .parse(input),
        _ => return None,
    })
}

fn nothing(command: Selected, input: &[u8]) -> Parsed<'_, Selected> {
    all_consuming(success(()))
        .map(|()| command.clone())
        .parse(input)
}

/// `list = "LIST" [SP "(SPECIAL-USE)"] SP mailbox SP list-mailbox [SP "RETURN (SPECIAL-USE)"]`
fn list<'a>(response: &'static str, input: &'a [u8]) -> Parsed<'a, Authenticated> {
    let reference = preceded(char(' '), text(astring));
    let pattern = preceded(char(' '), text(alt((list_atom, string))));
    (
        opt(tag_no_case(" (SPECIAL-USE)")),
        reference,
        pattern,
        opt(tag_no_case(" RETURN (SPECIAL-USE)")),
    )
        .map(|(only, reference, pattern, _)| {
            Authenticated::List(List {
                response,
                special_use_only: only.is_some(),
                pattern: reference + &pattern,
            })
        })
        .parse(input)
}

fn status_item(input: &[u8]) -> Parsed<'_, StatusItem> {
    alt((
        value(StatusItem::Messages, tag_no_case("MESSAGES")),
        value(StatusItem::Recent, tag_no_case("RECENT")),
        value(StatusItem::UidNext, tag_no_case("UIDNEXT")),
        value(StatusItem::UidValidity, tag_no_case("UIDVALIDITY")),
        value(StatusItem::Unseen, tag_no_case("UNSEEN")),
    ))
    .parse(input)
}

/// `append = "APPEND" SP mailbox [SP flag-list] [SP date-time] SP literal`
fn append(input: &[u8]) -> Parsed<'_, Authenticated> {
    let date = map_opt(delimited(tag(" \""), take(26_usize), char('"')), |it| {
        InternalDate::parse(std::str::from_utf8(it).ok()?)
    });
    (
        preceded(char(' '), text(astring)),
        opt(preceded(char(' '), flag_list)),
        opt(date),
        preceded(char(' '), literal),
    )
        .map(
            |(mailbox, flags, internal_date, message)| Authenticated::Append {
                mailbox,
                flags: flags.unwrap_or_default(),
                internal_date,
                message,
            },
        )
        .parse(input)
}

/// `search = "SEARCH" [SP "RETURN (" … ")"] [SP "CHARSET" SP astring] 1*(SP search-key)`
fn search(numbering: Numbering, input: &[u8]) -> Parsed<'_, Selected> {
    let option = alt((
        value(SearchReturn::Min, tag_no_case("MIN")),
        value(SearchReturn::Max, tag_no_case("MAX")),
        value(SearchReturn::All, tag_no_case("ALL")),
        value(SearchReturn::Count, tag_no_case("COUNT")),
    ));
    let options = separated_list0(char(' '), option);
    let returns = delimited(tag_no_case(" RETURN ("), options, char(')'));
    let charset = preceded(tag_no_case(" CHARSET "), astring);
    let key = preceded(char(' '), SearchKey::parse_all);
    (opt(returns), opt(charset), key)
        .map(|(returns, charset, key)| Selected::Search {
            numbering,
            returns,
            known_charset: charset.is_none_or(|it| {
                it.eq_ignore_ascii_case(b"UTF-8") || it.eq_ignore_ascii_case(b"US-ASCII")
            }),
            key,
        })
        .parse(input)
}

/// `"ALL" / "FULL" / "FAST" / fetch-att / "(" fetch-att *(SP fetch-att) ")"`
fn fetch_items(input: &[u8]) -> Parsed<'_, Vec<FetchItem>> {
    let fast = [FetchItem::Flags, FetchItem::InternalDate, FetchItem::Size];
    alt((
        value(fast.to_vec(), tag_no_case("FAST")),
        delimited(char('('), separated_list1(char(' '), fetch_item), char(')')),
        fetch_item.map(|item| vec![item]),
    ))
    .parse(input)
}

fn fetch_item(input: &[u8]) -> Parsed<'_, FetchItem> {
    alt((
        value(FetchItem::Uid, tag_no_case("UID")),
        value(FetchItem::Flags, tag_no_case("FLAGS")),
        value(FetchItem::InternalDate, tag_no_case("INTERNALDATE")),
        value(FetchItem::Size, tag_no_case("RFC822.SIZE")),
        value(
            whole("RFC822.HEADER", Section::Header, false),
            tag_no_case("RFC822.HEADER"),
        ),
        value(
            whole("RFC822.TEXT", Section::Text, true),
            tag_no_case("RFC822.TEXT"),
        ),
        value(whole("RFC822", Section::Whole, true), tag_no_case("RFC822")),
        body,
    ))
    .parse(input)
}

fn whole(label: &str, section: Section, sets_seen: bool) -> FetchItem {
    FetchItem::Body {
        label: label.to_owned(),
        section,
        sets_seen,
        partial: None,
    }
}

/// `"BODY" [".PEEK"] section ["<" number "." nz-number ">"]`
fn body(input: &[u8]) -> Parsed<'_, FetchItem> {
    let length = verify(u32, |&octets| octets > 0);
    let partial = delimited(char('<'), separated_pair(u32, char('.'), length), char('>'));
    let (input, _) = tag_no_case("BODY").parse(input)?;
    let (input, peek) = opt(tag_no_case(".PEEK")).parse(input)?;
    let (input, section) = delimited(char('['), section, char(']')).parse(input)?;
    let (input, partial) = opt(partial).parse(input)?;
    let origin = partial.map_or(String::new(), |(origin, _)| format!("<{origin}>"));
    let item = FetchItem::Body {
        label: format!("BODY[{}]{origin}", section.label()),
        section,
        sets_seen: peek.is_none(),
        partial,
    };
    Ok((input, item))
}

fn section(input: &[u8]) -> Parsed<'_, Section> {
    let fields = || {
        let name = text(verify(astring, |it: &[u8]| {
            it.iter().all(|&octet| is_atom_char(octet))
        }));
        delimited(tag(" ("), separated_list1(char(' '), name), char(')'))
    };
    alt((
        preceded(tag_no_case("HEADER.FIELDS.NOT"), fields()).map(Section::HeaderFieldsNot),
        preceded(tag_no_case("HEADER.FIELDS"), fields()).map(Section::HeaderFields),
        value(Section::Header, tag_no_case("HEADER")),
        value(Section::Text, tag_no_case("TEXT")),
        success(Section::Whole),
    ))
    .parse(input)
}

impl Section {
    fn label(&self) -> String {
        match self {
            Self::Whole => String::new(),
            Self::Header => "HEADER".to_owned(),
            Self::Text => "TEXT".to_owned(),
            Self::HeaderFields(names) => format!("HEADER.FIELDS ({})", names.join(" ")),
            Self::HeaderFieldsNot(names) => format!("HEADER.FIELDS.NOT ({})", names.join(" ")),
        }
    }
}

/// `store-att-flags = (["+" / "-"] "FLAGS" [".SILENT"]) SP (flag-list / (flag *(SP flag)))`
fn store_change(input: &[u8]) -> Parsed<'_, (FlagChange, bool)> {
    let change = alt((
        value(FlagChange::Add as fn(_) -> _, char('+')),
        value(FlagChange::Remove as fn(_) -> _, char('-')),
        success(FlagChange::Replace as fn(_) -> _),
    ));
    let flags = alt((flag_list, separated_list1(char(' '), flag)));
    (
        change,
        tag_no_case("FLAGS"),
        opt(tag_no_case(".SILENT")),
        preceded(char(' '), flags),
    )
        .map(|(change, _, silent, flags)| (change(flags), silent.is_some()))
        .parse(input)
}

/// `flag-list = "(" [flag *(SP flag)] ")"`
fn flag_list(input: &[u8]) -> Parsed<'_, Vec<Flag>> {
    delimited(char('('), separated_list0(char(' '), flag), char(')')).parse(input)
}

fn flag(input: &[u8]) -> Parsed<'_, Flag> {
    let system = nom::combinator::recognize((char('\\'), atom));
    let either = alt((system, atom));
    map_opt(map_res(either, std::str::from_utf8), Flag::new).parse(input)
}
