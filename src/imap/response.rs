//! Responses (RFC 3501 §7): [`Response::parse`] understands one logical line.

use std::fmt;

use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::{take_while, take_while1};
use nom::character::complete::char;
use nom::combinator::{map, map_opt, opt, rest, value, verify};
use nom::multi::fold_many0;
use nom::sequence::{delimited, preceded, terminated};

use super::Garbled;
use super::capability::{Capabilities, capabilities};
use super::fetch::{self, Fetch, HIDDEN_KEYWORD};
use super::grammar::{
    Parsed, any_value, astring, atom, blanks, nstring, number, number64, parenthesized,
    stray_blanks, string, uid, uid_set, word,
};
use super::ids::{ModSeq, Uid, UidSet, UidValidity};

/// One response of the upstream.
#[derive(Debug, PartialEq, Eq)]
pub enum Response {
    /// `+ …`: the upstream waits for more of our command.
    Continuation(Vec<u8>),
    /// The end of the command with this tag.
    Tagged {
        /// As we sent it, if the upstream is sound.
        tag: Tag,
        /// OK, NO or BAD, and why.
        status: Status,
    },
    /// `* …`
    Untagged(Untagged),
}

/// The tag of a command: `g` and a number, counted per connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub u32);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// `resp-cond-state` and its kin: a condition, a code that programs read, a text that people read.
#[derive(Debug, PartialEq, Eq)]
pub struct Status {
    /// What happened.
    pub condition: Condition,
    /// `[…]`, where we know it.
    pub code: Option<Code>,
    /// Raw; harmless only after escaping.
    pub text: Vec<u8>,
}

/// How a command ended, or what the upstream announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Done.
    Ok,
    /// Refused, although it was understood.
    No,
    /// Not understood.
    Bad,
    /// The upstream is about to close.
    Bye,
    /// A greeting that says we are logged in already.
    PreAuth,
}

/// Response codes (RFC 3501 §7.1, RFC 5530, RFC 4315) that change what we do; all others are skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// The credential is wrong.
    AuthenticationFailed,
    /// The credential is right, its holder may not come in.
    AuthorizationFailed,
    /// The credential is right, but too old.
    Expired,
    /// A subsystem behind the upstream is down for now.
    Unavailable,
    /// The mailbox is locked by somebody else.
    InUse,
    /// The upstream insists on TLS.
    PrivacyRequired,
    /// Too many connections or too much traffic.
    Limit,
    /// Only the upstream's administrator can help.
    ContactAdmin,
    /// The holder of the credential may not do that.
    NoPermission,
    /// This will never work.
    Cannot,
    /// The upstream has met an error of its own.
    ServerBug,
    /// The upstream's data are damaged.
    Corruption,
    /// The target mailbox does not exist; CREATE may help.
    TryCreate,
    /// There is no such mailbox.
    NonExistent,
    /// The mailbox was opened for reading only.
    ReadOnly,
    /// `CAPABILITY …`
    Capability(Capabilities),
    /// `UIDVALIDITY n`
    UidValidity(UidValidity),
    /// `UIDNEXT n`: no message has this UID or a higher one yet.
    UidNext(Uid),
    /// `HIGHESTMODSEQ n` (RFC 7162)
    HighestModSeq(ModSeq),
    /// `PERMANENTFLAGS (…)`
    PermanentFlags(PermanentFlags),
    /// `MESSAGELIMIT n uid` (RFC 9738): the command went no further down than this UID.
    MessageLimit(Uid),
}

/// Which flags can be changed for good, as far as we would want to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PermanentFlags {
    /// `\Seen`
    pub seen: bool,
    /// `\Deleted`
    pub deleted: bool,
    /// [`HIDDEN_KEYWORD`], by name or by `\*`.
    pub hidden: bool,
}

/// Untagged responses that we act on.
#[derive(Debug, PartialEq, Eq)]
pub enum Untagged {
    /// OK, NO, BAD, BYE or PREAUTH.
    Status(Status),
    /// `CAPABILITY …`
    Capability(Capabilities),
    /// `FLAGS (…)`: whether [`HIDDEN_KEYWORD`] is among those that messages here may bear.
    Flags {
        /// It is.
        hidden: bool,
    },
    /// `n EXISTS`
    Exists(u32),
    /// `n EXPUNGE`: one message less.
    Expunge,
    /// `n FETCH (…)`
    Fetch(Fetch),
    /// `SEARCH …`, or the ALL of an ESEARCH (RFC 4731).
    Search(UidSet),
    /// `VANISHED …` (RFC 7162 §3.2.10), where QRESYNC was enabled.
    Vanished {
        /// These left before, and EXISTS does not count them any more.
        earlier: bool,
        /// Who is not there; maybe never was.
        uids: UidSet,
    },
    /// `LIST …` or `XLIST …`
    List(Listed),
    /// The prefix of the first personal namespace (RFC 2342), as on the wire.
    Namespace(Vec<u8>),
    /// `ENABLED …`
    Enabled(Capabilities),
    /// Anything else; it must not disturb us.
    Other,
}

/// One mailbox of a LIST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is used for (RFC 6154; XLIST of older servers).
    pub special_use: Option<SpecialUse>,
    /// Whether it can be selected, and so be moved to.
    pub selectable: bool,
    /// What separates the levels of the name.
    pub delimiter: Option<u8>,
    /// As on the wire, quoting undone.
    pub name: Vec<u8>,
}

/// Special uses that a delete policy may aim at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialUse {
    /// `\All`
    All,
    /// `\Archive`
    Archive,
    /// `\Trash`
    Trash,
    /// `\Sent`
    Sent,
}

impl Response {
    /// Understands one logical line, without its line end, literals spliced in.
    ///
    /// # Errors
    /// When it is no response at all, or a FETCH, SEARCH or VANISHED that cannot be read: to skip one
    /// of those could hide a message, or show one that is gone.
    pub fn parse(line: &[u8]) -> Result<Self, Garbled> {
        if let Some(text) = line.strip_prefix(b"+") {
            let text = text.strip_prefix(b" ").unwrap_or(text);
            return Ok(Self::Continuation(text.to_vec()));
        }
        if let Some(data) = line.strip_prefix(b"* ") {
            return untagged(data).map(Self::Untagged);
        }
        match tagged(line) {
            Ok((_, response)) => Ok(response),
            Err(_) => Err(Garbled("a line that is no IMAP response")),
        }
    }
}

/// `response-tagged = tag SP resp-cond-state`
fn tagged(line: &[u8]) -> Parsed<'_, Response> {
    let tag = map(preceded(char('g'), number), Tag);
    let condition = alt((
        value(Condition::Ok, word("OK")),
        value(Condition::No, word("NO")),
        value(Condition::Bad, word("BAD")),
    ));
    map(
        (terminated(tag, blanks), status(condition)),
        |(tag, status)| Response::Tagged { tag, status },
    )
    .parse(line)
}

/// What follows `* `; one blank too many must not hide a message.
fn untagged(data: &[u8]) -> Result<Untagged, Garbled> {
    let data = data.trim_ascii_start();
    let condition = alt((
        value(Condition::Ok, word("OK")),
        value(Condition::No, word("NO")),
        value(Condition::Bad, word("BAD")),
        value(Condition::Bye, word("BYE")),
        value(Condition::PreAuth, word("PREAUTH")),
    ));
    if let Ok((_, status)) = status(condition).parse(data) {
        return Ok(Untagged::Status(status));
    }
    if let Ok((data, (number, ()))) = (number, blanks).parse(data) {
        return numbered(number, data);
    }
    let Ok((rest, name)) = atom(data) else {
        return Ok(Untagged::Other);
    };
    let known = |parsed: Parsed<'_, Untagged>| parsed.map_or(Untagged::Other, |(_, known)| known);
    Ok(match name.to_ascii_uppercase().as_slice() {
        b"CAPABILITY" => known(map(capabilities, Untagged::Capability).parse(rest)),
        b"ENABLED" => known(map(capabilities, Untagged::Enabled).parse(rest)),
        b"LIST" | b"XLIST" => known(map(listed, Untagged::List).parse(rest)),
        b"NAMESPACE" => known(map(personal_namespace, Untagged::Namespace).parse(rest)),
        b"FLAGS" => known(preceded(blanks, flags).parse(rest)),
        b"SEARCH" => search(rest)?,
        b"ESEARCH" => extended_search(rest)?,
        b"VANISHED" => vanished(rest)?,
        _ => Untagged::Other,
    })
}

/// `message-data = nz-number SP ("EXPUNGE" / ("FETCH" SP msg-att))`, and EXISTS.
fn numbered(number: u32, data: &[u8]) -> Result<Untagged, Garbled> {
    if let Ok((rest, ((), ()))) = (value((), word("FETCH")), blanks).parse(data) {
        return match fetch::items(rest) {
            Ok((b"", items)) => Ok(Untagged::Fetch(Fetch {
                number: Some(number),
                ..items
            })),
            _ => Err(Garbled("a FETCH response that cannot be read")),
        };
    }
    match data.trim_ascii_end().to_ascii_uppercase().as_slice() {
        b"EXISTS" => Ok(Untagged::Exists(number)),
        b"EXPUNGE" => Ok(Untagged::Expunge),
        _ => Ok(Untagged::Other),
    }
}

/// `resp-cond-state`: the text may be missing, and may be anything.
fn status<'a>(
    condition: impl Parser<&'a [u8], Output = Condition, Error = nom::error::Error<&'a [u8]>>,
) -> impl Parser<&'a [u8], Output = Status, Error = nom::error::Error<&'a [u8]>> {
    let separated = alt((blanks, value((), nom::combinator::eof)));
    let bracketed = delimited(
        char('['),
        take_while1(|octet| octet != b']'),
        (char(']'), stray_blanks),
    );
    // A `]` may stand in a quoted string or a list of PERMANENTFLAGS; nothing that we read has one.
    map(
        (terminated(condition, separated), opt(bracketed), rest),
        |(condition, code, text): (_, Option<&[u8]>, &[u8])| Status {
            condition,
            code: code.and_then(response_code),
            text: text.to_vec(),
        },
    )
}

/// `resp-text-code`, without its brackets.
fn response_code(code: &[u8]) -> Option<Code> {
    let (arguments, name) = atom(code).ok()?;
    match name.to_ascii_uppercase().as_slice() {
        b"AUTHENTICATIONFAILED" => Some(Code::AuthenticationFailed),
        b"AUTHORIZATIONFAILED" => Some(Code::AuthorizationFailed),
        b"EXPIRED" => Some(Code::Expired),
        b"UNAVAILABLE" => Some(Code::Unavailable),
        b"INUSE" => Some(Code::InUse),
        b"PRIVACYREQUIRED" => Some(Code::PrivacyRequired),
        b"LIMIT" => Some(Code::Limit),
        b"CONTACTADMIN" => Some(Code::ContactAdmin),
        b"NOPERM" => Some(Code::NoPermission),
        b"CANNOT" => Some(Code::Cannot),
        b"SERVERBUG" => Some(Code::ServerBug),
        b"CORRUPTION" => Some(Code::Corruption),
        b"TRYCREATE" => Some(Code::TryCreate),
        b"NONEXISTENT" => Some(Code::NonExistent),
        b"READ-ONLY" => Some(Code::ReadOnly),
        b"CAPABILITY" => whole(capabilities, arguments).map(Code::Capability),
        b"UIDVALIDITY" => {
            let validity = map_opt(preceded(blanks, number), UidValidity::new);
            whole(validity, arguments).map(Code::UidValidity)
        }
        b"UIDNEXT" => whole(preceded(blanks, uid), arguments).map(Code::UidNext),
        b"HIGHESTMODSEQ" => {
            let highest = map_opt(preceded(blanks, number64), ModSeq::new);
            whole(highest, arguments).map(Code::HighestModSeq)
        }
        b"MESSAGELIMIT" => {
            let limit = preceded((blanks, number, blanks), uid);
            whole(limit, arguments).map(Code::MessageLimit)
        }
        b"PERMANENTFLAGS" => {
            whole(preceded(blanks, permanent_flags), arguments).map(Code::PermanentFlags)
        }
        _ => None,
    }
}

fn whole<'a, T>(
    parser: impl Parser<&'a [u8], Output = T, Error = nom::error::Error<&'a [u8]>>,
    input: &'a [u8],
) -> Option<T> {
    match terminated(parser, stray_blanks).parse(input) {
        Ok((b"", output)) => Some(output),
        _ => None,
    }
}

fn permanent_flags(input: &[u8]) -> Parsed<'_, PermanentFlags> {
    let mut flags = PermanentFlags::default();
    let (input, ()) = parenthesized(input, |flag| {
        flags.seen |= flag.eq_ignore_ascii_case(b"\\Seen");
        flags.deleted |= flag.eq_ignore_ascii_case(b"\\Deleted");
        flags.hidden |= flag == b"\\*" || flag.eq_ignore_ascii_case(HIDDEN_KEYWORD.as_bytes());
    })?;
    Ok((input, flags))
}

fn flags(input: &[u8]) -> Parsed<'_, Untagged> {
    let mut hidden = false;
    let (input, ()) = parenthesized(input, |flag| {
        hidden |= flag.eq_ignore_ascii_case(HIDDEN_KEYWORD.as_bytes());
    })?;
    Ok((input, Untagged::Flags { hidden }))
}

/// `mailbox-list = "(" [mbx-list-flags] ")" SP (DQUOTE QUOTED-CHAR DQUOTE / nil) SP mailbox`
fn listed(input: &[u8]) -> Parsed<'_, Listed> {
    let mut special_use = None;
    let mut selectable = true;
    let (input, ()) = preceded(stray_blanks, |input| {
        parenthesized(input, |attribute| {
            match attribute.to_ascii_lowercase().as_slice() {
                b"\\trash" => special_use = Some(SpecialUse::Trash),
                b"\\sent" => special_use = Some(SpecialUse::Sent),
                b"\\archive" => special_use = Some(SpecialUse::Archive),
                b"\\all" | b"\\allmail" => special_use = Some(SpecialUse::All),
                b"\\noselect" | b"\\nonexistent" => selectable = false,
                _ => {}
            }
        })
    })
    .parse(input)?;
    let (input, delimiter) = delimited(blanks, nstring, blanks).parse(input)?;
    // Some servers leave the quotes off a name with blanks; it ends with the line.
    let (input, name) =
        alt((terminated(string, stray_blanks), map(rest, <[u8]>::to_vec))).parse(input)?;
    let listed = Listed {
        special_use,
        selectable,
        delimiter: delimiter.and_then(|delimiter| delimiter.first().copied()),
        name,
    };
    Ok((input, listed))
}

/// `Namespace = nil / "(" 1*( "(" string SP (<"> QUOTED_CHAR <"> / nil) *(…) ")" ) ")"`: the first
/// prefix of the first of three.
fn personal_namespace(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    preceded((blanks, char('('), char('(')), astring).parse(input)
}

/// `"SEARCH" *(SP nz-number)`, and the MODSEQ that CONDSTORE adds.
fn search(input: &[u8]) -> Result<Untagged, Garbled> {
    let mut set = UidSet::default();
    let uids = fold_many0(
        preceded(blanks, uid),
        || (),
        |(), uid| set.insert_range(uid, uid),
    );
    let modseq = opt((
        blanks,
        char('('),
        take_while(|octet| octet != b')'),
        char(')'),
    ));
    let parsed = (uids, modseq, stray_blanks).parse(input);
    match parsed {
        Ok((b"", _)) => Ok(Untagged::Search(set)),
        _ => Err(Garbled("a SEARCH response that cannot be read")),
    }
}

/// `"ESEARCH" [search-correlator] [SP "UID"] *(SP search-return-data)` (RFC 4466 §2.6.2)
fn extended_search(input: &[u8]) -> Result<Untagged, Garbled> {
    let correlator = opt((
        blanks,
        delimited(char('('), take_while(|octet| octet != b')'), char(')')),
    ));
    let uid_word = opt((blanks, word("UID")));
    let other = verify(atom, |name: &[u8]| !name.eq_ignore_ascii_case(b"ALL"));
    let pair = alt((
        map(preceded((blanks, word("ALL"), blanks), uid_set), Some),
        value(None, (blanks, other, blanks, any_value)),
    ));
    let pairs = fold_many0(pair, UidSet::default, |all, found| found.unwrap_or(all));
    match (correlator, uid_word, pairs, stray_blanks).parse(input) {
        Ok((b"", (_, _, all, ()))) => Ok(Untagged::Search(all)),
        _ => Err(Garbled("an ESEARCH response that cannot be read")),
    }
}

/// `"VANISHED" SP ["(EARLIER)" SP] known-uids`
fn vanished(input: &[u8]) -> Result<Untagged, Garbled> {
    let earlier = map(opt((blanks, word("(EARLIER)"))), |earlier| {
        earlier.is_some()
    });
    match (earlier, blanks, uid_set, stray_blanks).parse(input) {
        Ok((b"", (earlier, (), uids, ()))) => Ok(Untagged::Vanished { earlier, uids }),
        _ => Err(Garbled("a VANISHED response that cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::capability::Capability;

    fn parse(line: &str) -> Response {
        Response::parse(line.as_bytes()).expect(line)
    }

    fn code(line: &str) -> Option<Code> {
        match parse(line) {
            Response::Tagged { status, .. } | Response::Untagged(Untagged::Status(status)) => {
                status.code
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    fn untagged_of(line: &str) -> Untagged {
        match parse(line) {
            Response::Untagged(untagged) => untagged,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn search_of(line: &str) -> String {
        match untagged_of(line) {
            Untagged::Search(set) => set.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn tagged_responses() {
        for (line, condition, text) in [
            ("g1 OK done", Condition::Ok, "done"),
            ("g1 OK", Condition::Ok, ""),
            ("g1 ok ", Condition::Ok, ""),
            ("g1 NO [X-UNKNOWN a b] no ", Condition::No, "no "),
            ("g1 BAD [", Condition::Bad, "["),
            (
                "g1 OK caf\u{e9} \u{1f4ee}",
                Condition::Ok,
                "caf\u{e9} \u{1f4ee}",
            ),
        ] {
            let Response::Tagged { tag, status } = parse(line) else {
                panic!("{line}");
            };
            assert_eq!((tag, status.condition), (Tag(1), condition), "{line}");
            assert_eq!(status.text, text.as_bytes(), "{line}");
        }
        for line in [
            "",
            " ",
            "OK",
            "a1 OK foreign tag",
            "g1",
            "g1OK",
            "g1 BYE",
            "*",
            "*OK x",
            "HTTP/1.1 400",
            "g99999999999 OK",
        ] {
            assert!(Response::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn response_codes() {
        let validity = UidValidity::new(9).expect("not 0");
        for (line, expected) in [
            (
                "g1 NO [AUTHENTICATIONFAILED] wrong",
                Some(Code::AuthenticationFailed),
            ),
            ("g1 NO [unavailable] later", Some(Code::Unavailable)),
            ("* OK [UIDVALIDITY 9] ", Some(Code::UidValidity(validity))),
            ("* OK [UIDVALIDITY 0]", None),
            ("* OK [UIDVALIDITY 4294967296]", None),
            ("* OK [UIDVALIDITY 9 x]", None),
            ("g1 OK [READ-ONLY] opened", Some(Code::ReadOnly)),
            ("g1 NO [TRYCREATE]", Some(Code::TryCreate)),
            (
                "g1 OK [MESSAGELIMIT 1000 23221] partial",
                Uid::new(23221).map(Code::MessageLimit),
            ),
            ("g1 OK [MESSAGELIMIT 1000]", None),
            ("g1 OK [COPYUID 1 1:3 4:6] moved", None),
            (
                "* OK [PERMANENTFLAGS (\\Answered \\Deleted \\*)] limited",
                Some(Code::PermanentFlags(PermanentFlags {
                    seen: false,
                    deleted: true,
                    hidden: true,
                })),
            ),
            (
                "* OK [PERMANENTFLAGS ()]",
                Some(Code::PermanentFlags(PermanentFlags::default())),
            ),
            ("* OK [unclosed", None),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
    }

    #[test]
    fn capabilities_and_what_rev2_implies() {
        let Untagged::Capability(rev1) =
            untagged_of("* CAPABILITY IMAP4rev1 AUTH=plain X literal+ UTF8=ACCEPT ")
        else {
            panic!("no capabilities");
        };
        assert!(
            rev1.has(Capability::AuthPlain)
                && rev1.has(Capability::LiteralPlus)
                && rev1.has(Capability::Utf8Accept)
        );
        assert!(!rev1.has(Capability::UidPlus));
        let Some(Code::Capability(rev2)) = code("* OK [CAPABILITY IMAP4rev2] hello") else {
            panic!("no capabilities");
        };
        assert!(
            rev2.has(Capability::UidPlus)
                && rev2.has(Capability::Move)
                && rev2.has(Capability::SaslIr)
        );
        assert!(!rev2.has(Capability::Imap4Rev1) && !rev2.has(Capability::SpecialUse));
    }

    #[test]
    fn searches_of_both_kinds() {
        for (line, set) in [
            ("* SEARCH", ""),
            ("* SEARCH ", ""),
            ("* SEARCH 4 2 3", "2:4"),
            ("* SEARCH 4 2 (MODSEQ 917162500)", "2,4"),
            ("* ESEARCH (TAG \"g7\") UID ALL 4,2:3", "2:4"),
            (
                "* ESEARCH (TAG \"g7\") UID COUNT 3 ALL 4,2:3 MODSEQ 5",
                "2:4",
            ),
            ("* ESEARCH (TAG \"g7\") UID", ""),
            ("* ESEARCH", ""),
        ] {
            assert_eq!(search_of(line), set, "{line}");
        }
        for line in [
            "* SEARCH 4 x",
            "* SEARCH 0",
            "* SEARCH 4294967296",
            "* ESEARCH UID ALL x",
        ] {
            assert!(Response::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn mailboxes() {
        for (line, special_use, delimiter, name) in [
            (
                "* LIST (\\HasNoChildren \\Trash) \"/\" Trash",
                Some(SpecialUse::Trash),
                Some(b'/'),
                "Trash",
            ),
            (
                "* LIST () \".\" \"INBOX.Old \\\"x\\\"\"",
                None,
                Some(b'.'),
                "INBOX.Old \"x\"",
            ),
            (
                "* LIST () NIL Deleted Messages",
                None,
                None,
                "Deleted Messages",
            ),
            ("* LIST () \"/\" {5}\r\na\"b c", None, Some(b'/'), "a\"b c"),
            (
                "* XLIST (\\HasNoChildren \\AllMail) \"/\" \"[Gmail]/All Mail\"",
                Some(SpecialUse::All),
                Some(b'/'),
                "[Gmail]/All Mail",
            ),
        ] {
            let Untagged::List(listed) = untagged_of(line) else {
                panic!("{line}");
            };
            assert_eq!(
                (listed.special_use, listed.delimiter),
                (special_use, delimiter),
                "{line}"
            );
            assert_eq!(listed.name, name.as_bytes(), "{line}");
            assert!(listed.selectable);
        }
        let Untagged::List(listed) = untagged_of("* LIST (\\Noselect) \"/\" \"[Gmail]\"") else {
            panic!("not listed");
        };
        assert!(!listed.selectable);
        assert_eq!(
            untagged_of("* NAMESPACE ((\"INBOX.\" \".\")) NIL NIL"),
            Untagged::Namespace(b"INBOX.".to_vec())
        );
        assert_eq!(untagged_of("* NAMESPACE NIL NIL NIL"), Untagged::Other);
    }

    #[test]
    fn who_vanished() {
        for (line, earlier, spelt) in [
            ("* VANISHED (EARLIER) 1:5,7", true, "1:5,7"),
            ("* vanished  405 ", false, "405"),
        ] {
            match untagged_of(line) {
                Untagged::Vanished {
                    earlier: said,
                    uids,
                } => {
                    assert_eq!((said, uids.to_string()), (earlier, spelt.to_owned()));
                }
                other => panic!("{line}: {other:?}"),
            }
        }
        for line in [
            "* VANISHED",
            "* VANISHED (EARLIER)",
            "* VANISHED 0",
            "* VANISHED 1:*",
        ] {
            assert!(Response::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn what_we_do_not_know_is_skipped() {
        for line in [
            "* 3 RECENT",
            "* STATUS INBOX (MESSAGES 2 MAILBOXID (F1))",
            "* ID (\"name\" \"x\")",
            "* X-SURPRISE \u{1}\u{fc}",
            "* LIST nonsense",
            "* ",
        ] {
            assert_eq!(untagged_of(line), Untagged::Other, "{line}");
        }
        assert_eq!(
            untagged_of("*  4294967295 EXISTS"),
            Untagged::Exists(u32::MAX)
        );
        for (line, hidden) in [
            ("* FLAGS (\\Answered)", false),
            ("* FLAGS (\\Answered $pop3deleted)", true),
        ] {
            assert_eq!(untagged_of(line), Untagged::Flags { hidden });
        }
        assert!(Response::parse(b"* 1 FETCH (UID").is_err());
        assert_eq!(parse("+"), Response::Continuation(Vec::new()));
        assert_eq!(
            parse("+ idling"),
            Response::Continuation(b"idling".to_vec())
        );
    }
}
