//! The lexical rules that responses share (RFC 3501 §9), tolerant where real servers are.

use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case, take, take_while, take_while1};
use nom::character::complete::char;
use nom::combinator::{map, map_opt, map_res, opt, recognize, value};
use nom::multi::{fold_many0, separated_list1};
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};

use super::ids::{Uid, UidSet};

pub(super) type Parsed<'a, T> = IResult<&'a [u8], T>;

/// How deep lists may nest in an item that we skip; BODYSTRUCTURE of real mail stays below 20.
const NESTING_MAX: usize = 64;

/// `number`: unsigned 32 bits.
pub(super) fn number(input: &[u8]) -> Parsed<'_, u32> {
    decimal(input)
}

/// `number64` (RFC 9051), and RFC822.SIZE of servers that do not stop at 32 bits.
pub(super) fn number64(input: &[u8]) -> Parsed<'_, u64> {
    decimal(input)
}

fn decimal<T: std::str::FromStr>(input: &[u8]) -> Parsed<'_, T> {
    map_opt(take_while1(|octet: u8| octet.is_ascii_digit()), |digits| {
        std::str::from_utf8(digits).ok()?.parse().ok()
    })
    .parse(input)
}

/// `nz-number` as a UID.
pub(super) fn uid(input: &[u8]) -> Parsed<'_, Uid> {
    map_opt(number, Uid::new).parse(input)
}

/// `uid-set = (uniqueid / uid-range) *("," uid-set)` (RFC 4315 §4).
pub(super) fn uid_set(input: &[u8]) -> Parsed<'_, UidSet> {
    let range = (uid, opt(preceded(char(':'), uid)));
    map(separated_list1(char(','), range), |ranges| {
        let mut set = UidSet::default();
        for (first, last) in ranges {
            set.insert_range(first, last.unwrap_or(first));
        }
        set
    })
    .parse(input)
}

/// A keyword of the grammar, in any case.
pub(super) fn word<'a>(
    text: &'static str,
) -> impl Parser<&'a [u8], Output = &'a [u8], Error = nom::error::Error<&'a [u8]>> {
    tag_no_case(text.as_bytes())
}

/// One or more blanks, where the RFC has exactly one.
pub(super) fn blanks(input: &[u8]) -> Parsed<'_, ()> {
    value((), take_while1(|octet| octet == b' ')).parse(input)
}

/// Blanks where the RFC has none.
pub(super) fn stray_blanks(input: &[u8]) -> Parsed<'_, ()> {
    value((), take_while(|octet| octet == b' ')).parse(input)
}

/// `1*ATOM-CHAR`, and beyond that what servers put into flags and names: `]`, `%`, `*`, `\`, 8-bit.
pub(super) fn atom(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(|octet: u8| {
        octet > b' ' && octet != 0x7f && !matches!(octet, b'(' | b')' | b'{' | b'"')
    })
    .parse(input)
}

/// `astring`, with quoting undone.
pub(super) fn astring(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    alt((string, map(atom, <[u8]>::to_vec))).parse(input)
}

/// `nstring`, with quoting undone.
pub(super) fn nstring(input: &[u8]) -> Parsed<'_, Option<Vec<u8>>> {
    alt((map(string, Some), value(None, tag_no_case(&b"NIL"[..])))).parse(input)
}

/// `string = quoted / literal`.
pub(super) fn string(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    alt((quoted, map(literal, <[u8]>::to_vec))).parse(input)
}

fn quoted(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    let plain = map(
        take_while1(|octet| !matches!(octet, b'"' | b'\\')),
        |run: &[u8]| run,
    );
    let escaped = preceded(char('\\'), take(1usize));
    delimited(
        char('"'),
        fold_many0(alt((plain, escaped)), Vec::new, |mut text, run| {
            text.extend_from_slice(run);
            text
        }),
        char('"'),
    )
    .parse(input)
}

/// `literal`, `literal8`: [`super::framing`] has put the octets behind the line's end.
fn literal(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (input, octets) = delimited(
        (opt(char('~')), char('{')),
        map_res(number, usize::try_from),
        (opt(char('+')), tag(&b"}\r\n"[..])),
    )
    .parse(input)?;
    take(octets).parse(input)
}

/// Any value of an item that we do not know, skipped with bounded recursion.
pub(super) fn any_value(input: &[u8]) -> Parsed<'_, ()> {
    any_value_within(input, NESTING_MAX)
}

fn any_value_within(input: &[u8], nesting: usize) -> Parsed<'_, ()> {
    let Some(nesting) = nesting.checked_sub(1) else {
        return Err(nom::Err::Failure(nom::error::Error::new(
            input,
            nom::error::ErrorKind::TooLarge,
        )));
    };
    let list = delimited(
        char('('),
        fold_many0(
            alt((blanks, move |input| any_value_within(input, nesting))),
            || (),
            |(), ()| (),
        ),
        char(')'),
    );
    alt((list, value((), quoted), value((), literal), value((), atom))).parse(input)
}

/// The name of a FETCH item or response code: an atom up to a bracket, with its section if it has one.
pub(super) fn item_name(input: &[u8]) -> Parsed<'_, &[u8]> {
    let name = take_while1(|octet: u8| {
        octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_')
    });
    let section = delimited(char('['), take_while(|octet| octet != b']'), char(']'));
    let origin = delimited(char('<'), number, char('>'));
    recognize((name, opt(section), opt(origin))).parse(input)
}

/// `"(" [flag *(SP flag)] ")"`, each handed to `each`.
pub(super) fn parenthesized<'a>(input: &'a [u8], mut each: impl FnMut(&'a [u8])) -> Parsed<'a, ()> {
    delimited(
        (char('('), stray_blanks),
        fold_many0(terminated(atom, stray_blanks), || (), |(), word| each(word)),
        char(')'),
    )
    .parse(input)
}
