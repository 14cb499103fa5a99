//! FETCH responses (RFC 3501 §7.4.2) and their data items, in any order.

use nom::branch::alt;
use nom::bytes::complete::{take_while, take_while_m_n};
use nom::character::complete::char;
use nom::combinator::{map, map_opt, opt};
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};

use super::Garbled;
use super::grammar::{
    Parsed, any_value, blanks, item_name, nstring, number, number64, parenthesized, stray_blanks,
    uid, word,
};
use super::ids::Uid;

/// The keyword by which `keep` hides a message from POP3; the name that Dovecot's documentation
/// gives to its own `pop3_deleted_flag`, so that either program can follow the other.
pub const HIDDEN_KEYWORD: &str = "$POP3Deleted";

/// What one FETCH response said. It allocates nothing unless a string was asked for, because a
/// listing reads one per message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fetch {
    /// The sequence number of the message, in a whole response.
    pub number: Option<u32>,
    /// `UID`.
    pub uid: Option<Uid>,
    /// `RFC822.SIZE`; 0 where that was no sensible number.
    pub octets: Option<u64>,
    /// `FLAGS`.
    pub flags: Option<Flags>,
    /// `X-GM-MSGID` (Gmail).
    pub gmail_message_id: Option<u64>,
    /// `EMAILID` (RFC 8474).
    pub email_id: Option<String>,
    /// `BODY[…]` that came as a quoted string, as NIL, or as a literal spliced into the line.
    pub body: Option<Body>,
}

/// The flags that matter to a POP3 view.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    /// `\Seen`
    pub seen: bool,
    /// `\Deleted`
    pub deleted: bool,
    /// [`HIDDEN_KEYWORD`]
    pub hidden: bool,
}

/// `BODY[section]<origin>` with its content.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    /// Which octets these are.
    pub place: BodyPlace,
    /// `None` is NIL: the server has no body to show.
    pub content: Option<Vec<u8>>,
}

/// Which octets of a message a body item carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyPlace {
    /// Whether the section is the empty one, that is the whole message; we ask for no other.
    pub whole_message: bool,
    /// `<origin>` of a partial fetch, in octets.
    pub origin: Option<u32>,
}

/// A FETCH response up to the literal of its body, which is to be streamed.
#[derive(Debug, PartialEq, Eq)]
pub struct BodyHead {
    /// The items before the body.
    pub items: Fetch,
    /// Which octets follow.
    pub place: BodyPlace,
    /// How many octets follow.
    pub octets: u64,
}

/// `"(" msg-att *(SP msg-att) ")"`, the rest of the line behind `* n FETCH `.
pub(super) fn items(input: &[u8]) -> Parsed<'_, Fetch> {
    let (input, _) = (char('('), stray_blanks).parse(input)?;
    let (input, fetch) = item_run(input, Fetch::default())?;
    let (input, _) = (char(')'), stray_blanks).parse(input)?;
    Ok((input, fetch))
}

/// `* n FETCH (… BODY[…] {octets}`, when [`super::framing`] has found it at the end of a line.
pub(super) fn body_head(line: &[u8]) -> Option<BodyHead> {
    let number = delimited((word("*"), blanks), number, blanks);
    let behind = (word("FETCH"), blanks, char('('), stray_blanks);
    let (input, number) = terminated(number, behind).parse(line).ok()?;
    let before = Fetch {
        number: Some(number),
        ..Fetch::default()
    };
    let (input, items) = item_run(input, before).ok()?;
    let (input, place) = preceded(stray_blanks, body_place).parse(input).ok()?;
    let (rest, octets) = delimited(
        (blanks, opt(char('~')), char('{')),
        number64,
        (opt(char('+')), char('}')),
    )
    .parse(input)
    .ok()?;
    rest.is_empty().then_some(BodyHead {
        items,
        place,
        octets,
    })
}

/// The items behind a streamed body, up to and with the closing parenthesis.
///
/// # Errors
/// When it is not `*(SP msg-att) ")"`.
pub fn body_tail(line: &[u8], before: Fetch) -> Result<Fetch, Garbled> {
    let tail = |input| -> IResult<_, _> {
        let (input, _) = stray_blanks(input)?;
        let (input, fetch) = item_run(input, before)?;
        let (input, _) = (char(')'), stray_blanks).parse(input)?;
        Ok((input, fetch))
    };
    match tail(line) {
        Ok((b"", fetch)) => Ok(fetch),
        _ => Err(Garbled("a FETCH response that does not end after its body")),
    }
}

/// As many items as there are; stops, without error, at what is none.
fn item_run(mut input: &[u8], mut fetch: Fetch) -> Parsed<'_, Fetch> {
    while let Ok((rest, item)) = item(input) {
        input = rest;
        match item {
            Item::Uid(uid) => fetch.uid = Some(uid),
            Item::Octets(octets) => fetch.octets = Some(octets),
            Item::Flags(flags) => fetch.flags = Some(flags),
            Item::GmailMessageId(id) => fetch.gmail_message_id = Some(id),
            Item::EmailId(id) => fetch.email_id = Some(id),
            Item::Body(body) => fetch.body = Some(body),
            Item::Other => {}
        }
    }
    Ok((input, fetch))
}

enum Item {
    Uid(Uid),
    Octets(u64),
    Flags(Flags),
    GmailMessageId(u64),
    EmailId(String),
    Body(Body),
    Other,
}

/// `msg-att-static / msg-att-dynamic`, and the blank behind it.
fn item(input: &[u8]) -> Parsed<'_, Item> {
    let known = alt((
        map(preceded((word("UID"), blanks), uid), Item::Uid),
        map(
            preceded((word("RFC822.SIZE"), blanks), number64),
            Item::Octets,
        ),
        map(preceded((word("FLAGS"), blanks), flags), Item::Flags),
        map(
            preceded((word("X-GM-MSGID"), blanks), number64),
            Item::GmailMessageId,
        ),
        map(
            preceded((word("EMAILID"), blanks), object_id),
            Item::EmailId,
        ),
        map((body_place, blanks, nstring), |(place, (), content)| {
            Item::Body(Body { place, content })
        }),
    ));
    let no_size = map(preceded((word("RFC822.SIZE"), blanks), any_value), |_| {
        Item::Octets(0)
    });
    let other = map((item_name, blanks, any_value), |_| Item::Other);
    // An item ends at a blank or at the list's end; otherwise `UID 12x` would be a UID.
    let (rest, item) = alt((
        terminated_item(known),
        terminated_item(no_size),
        terminated_item(other),
    ))
    .parse(input)?;
    Ok((rest, item))
}

fn terminated_item<'a>(
    mut parser: impl Parser<&'a [u8], Output = Item, Error = nom::error::Error<&'a [u8]>>,
) -> impl FnMut(&'a [u8]) -> Parsed<'a, Item> {
    move |input| {
        let (rest, item) = parser.parse(input)?;
        match rest.first() {
            Some(b' ' | b')') | None => {
                let (rest, ()) = stray_blanks(rest)?;
                Ok((rest, item))
            }
            Some(_) => Err(nom::Err::Error(nom::error::Error::new(
                rest,
                nom::error::ErrorKind::Space,
            ))),
        }
    }
}

/// `"BODY" section ["<" number ">"]`
fn body_place(input: &[u8]) -> Parsed<'_, BodyPlace> {
    let section = delimited(char('['), take_while(|octet| octet != b']'), char(']'));
    let origin = delimited(char('<'), number, char('>'));
    map(
        preceded(word("BODY"), (section, opt(origin))),
        |(section, origin): (&[u8], _)| BodyPlace {
            whole_message: section.is_empty(),
            origin,
        },
    )
    .parse(input)
}

fn flags(input: &[u8]) -> Parsed<'_, Flags> {
    let mut flags = Flags::default();
    let (input, ()) = parenthesized(input, |flag| {
        flags.seen |= flag.eq_ignore_ascii_case(b"\\Seen");
        flags.deleted |= flag.eq_ignore_ascii_case(b"\\Deleted");
        flags.hidden |= flag.eq_ignore_ascii_case(HIDDEN_KEYWORD.as_bytes());
    })?;
    Ok((input, flags))
}

/// `"(" objectid ")"`, `objectid = 1*255(ALPHA / DIGIT / "_" / "-")` (RFC 8474 §4).
fn object_id(input: &[u8]) -> Parsed<'_, String> {
    let id = take_while_m_n(1, 255, |octet: u8| {
        octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-')
    });
    map_opt(delimited(char('('), id, char(')')), |id: &[u8]| {
        String::from_utf8(id.to_vec()).ok()
    })
    .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(line: &str) -> Option<Fetch> {
        match items(line.as_bytes()) {
            Ok((b"", fetch)) => Some(fetch),
            _ => None,
        }
    }

    fn uid_7() -> Option<Uid> {
        Uid::new(7)
    }

    #[test]
    fn items_come_in_any_order_and_the_unknown_is_skipped() {
        let expected = Fetch {
            uid: uid_7(),
            octets: Some(5000),
            flags: Some(Flags {
                seen: true,
                ..Flags::default()
            }),
            ..Fetch::default()
        };
        for line in [
            "(UID 7 RFC822.SIZE 5000 FLAGS (\\Seen))",
            "(FLAGS (\\Seen) RFC822.SIZE 5000 UID 7)",
            "(uid 7 flags (\\seen $Forwarded a]b) rfc822.size 5000)",
            // imap.qq.com, 2020: a blank before the parenthesis.
            "(UID 7 RFC822.SIZE 5000 FLAGS ( \\Seen  \\Recent ) ) ",
            "(UID 7 MODSEQ (12) EMAILID-X (a) RFC822.SIZE 5000 FLAGS (\\Seen))",
            "(UID 7 X-GM-LABELS (\"\\\\Inbox\" {3}\r\na)b) RFC822.SIZE 5000 FLAGS (\\Seen))",
            "(UID 7 ENVELOPE (NIL (((\"x\"))) NIL) RFC822.SIZE 5000 FLAGS (\\Seen) SAVEDATE NIL)",
        ] {
            assert_eq!(fetch(line).as_ref(), Some(&expected), "{line}");
        }
    }

    #[test]
    fn odd_values() {
        assert_eq!(fetch("()"), Some(Fetch::default()));
        assert_eq!(
            fetch("(RFC822.SIZE 5000000000)").and_then(|f| f.octets),
            Some(5_000_000_000)
        );
        assert_eq!(
            fetch("(RFC822.SIZE -1 UID 7)"),
            Some(Fetch {
                uid: uid_7(),
                octets: Some(0),
                ..Fetch::default()
            })
        );
        assert_eq!(
            fetch("(EMAILID (M-1_z))")
                .and_then(|f| f.email_id)
                .as_deref(),
            Some("M-1_z")
        );
        assert_eq!(
            fetch("(X-GM-MSGID 1278455344230334865)").and_then(|f| f.gmail_message_id),
            Some(1_278_455_344_230_334_865)
        );
        assert_eq!(fetch("(UID 0)").and_then(|f| f.uid), None);
        assert_eq!(fetch("(UID 7"), None);
        assert_eq!(
            fetch(&format!("(X {}{})", "(".repeat(99), ")".repeat(99))),
            None
        );
    }

    #[test]
    fn bodies_on_the_line() {
        let whole = BodyPlace {
            whole_message: true,
            origin: None,
        };
        assert_eq!(
            fetch("(BODY[] NIL)").and_then(|f| f.body),
            Some(Body {
                place: whole,
                content: None
            })
        );
        assert_eq!(
            fetch("(BODY[] \"a\\\"b\" UID 7)").and_then(|f| f.body),
            Some(Body {
                place: whole,
                content: Some(b"a\"b".to_vec())
            })
        );
        assert_eq!(
            fetch("(BODY[HEADER]<12> \"\")").and_then(|f| f.body),
            Some(Body {
                place: BodyPlace {
                    whole_message: false,
                    origin: Some(12)
                },
                content: Some(Vec::new())
            })
        );
    }

    #[test]
    fn a_streamed_body_splits_the_response() {
        let head = body_head(b"* 12 FETCH (UID 7 BODY[]<0> {48213}").expect("a head");
        assert_eq!((head.items.uid, head.octets), (uid_7(), 48213));
        assert_eq!(
            head.place,
            BodyPlace {
                whole_message: true,
                origin: Some(0)
            }
        );
        assert!(body_head(b"* 12 FETCH (BODY[] ~{1}").is_some());
        assert!(body_head(b"* 12 FETCH (X {1}").is_none());
        assert!(body_head(b"* OK FETCH (BODY[] {1}").is_none());

        assert_eq!(body_tail(b")", Fetch::default()), Ok(Fetch::default()));
        assert_eq!(
            body_tail(b" UID 7 FLAGS ())", Fetch::default()).map(|f| f.uid),
            Ok(uid_7())
        );
        assert!(body_tail(b" UID 7", Fetch::default()).is_err());
        assert!(body_tail(b") x", Fetch::default()).is_err());
    }
}
