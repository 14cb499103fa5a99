//! The words of IMAP's grammar: atoms, strings, literals (RFC 3501 §9, RFC 7888).

use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case, take, take_while1};
use nom::character::complete::{char, u32};
use nom::combinator::{map_res, opt, value, verify};
use nom::error::{Error, ErrorKind};
use nom::multi::fold_many0;
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

pub(super) type Parsed<'a, T> = IResult<&'a [u8], T>;

/// Octets that are UTF-8 as a String.
pub(super) fn text<'a, P, O>(
    parser: P,
) -> impl Parser<&'a [u8], Output = String, Error = Error<&'a [u8]>>
where
    P: Parser<&'a [u8], Output = O, Error = Error<&'a [u8]>>,
    O: Into<Vec<u8>>,
{
    map_res(parser, |octets| String::from_utf8(octets.into()))
}

/// `atom = 1*ATOM-CHAR`
pub(super) fn atom(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(is_atom_char).parse(input)
}

/// `astring = 1*ASTRING-CHAR / string`
pub(super) fn astring(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    let atom = take_while1(is_astring_char).map(<[u8]>::to_vec);
    alt((atom, string)).parse(input)
}

/// `1*list-char`
pub(super) fn list_atom(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    take_while1(|octet| is_astring_char(octet) || matches!(octet, b'*' | b'%'))
        .map(<[u8]>::to_vec)
        .parse(input)
}

/// `nstring = string / nil`
pub(super) fn nstring(input: &[u8]) -> Parsed<'_, ()> {
    alt((value((), tag_no_case("NIL")), value((), string))).parse(input)
}

/// `string = quoted / literal`
pub(super) fn string(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    alt((quoted, literal)).parse(input)
}

/// `quoted = DQUOTE *QUOTED-CHAR DQUOTE`; UTF-8 is let through, as most servers do.
fn quoted(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    let plain = take_while1(|octet| !matches!(octet, b'"' | b'\\' | b'\r' | b'\n' | 0));
    let escaped = preceded(char('\\'), alt((tag("\""), tag("\\"))));
    let contents = fold_many0(
        alt((plain, escaped)),
        Vec::new,
        |mut octets, part: &[u8]| {
            octets.extend_from_slice(part);
            octets
        },
    );
    delimited(char('"'), contents, char('"')).parse(input)
}

/// `literal = "{" number ["+"] "}" CRLF *CHAR8`; NUL is no CHAR8.
pub(super) fn literal(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    let (input, octets) = delimited(char('{'), u32, (opt(char('+')), tag("}\r\n"))).parse(input)?;
    verify(take(octets), |it: &[u8]| memchr::memchr(0, it).is_none())
        .map(<[u8]>::to_vec)
        .parse(input)
}

pub(super) fn is_atom_char(octet: u8) -> bool {
    octet.is_ascii_graphic() && !b"(){%*\"\\]".contains(&octet)
}

pub(super) fn is_astring_char(octet: u8) -> bool {
    is_atom_char(octet) || octet == b']'
}

/// For what is no word at all.
pub(super) fn fail<T>(input: &[u8]) -> Parsed<'_, T> {
    Err(nom::Err::Error(Error::new(input, ErrorKind::Fail)))
}
