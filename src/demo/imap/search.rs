//! `search-key` of RFC 3501 §6.4.4, as far as the sample goes: no search in Date: fields.

use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::take_while1;
use nom::character::complete::{char, u32};
use nom::combinator::{map_opt, opt};
use nom::multi::separated_list1;
use nom::sequence::{delimited, preceded};

use super::sequence_set::SequenceSet;
use super::view::Numbered;
use super::words::{Parsed, astring, atom, fail, text};
use crate::demo::date::Day;
use crate::demo::mailbox::{Flag, SampleMessage};
use crate::demo::rfc822;

/// How deep keys may be nested: "NOT NOT NOT …" must not exhaust the stack.
const DEPTH_MAX: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SearchKey {
    All,
    Flagged(Flag),
    Numbers(SequenceSet),
    Uids(SequenceSet),
    Larger(u32),
    Smaller(u32),
    Since(Day),
    Before(Day),
    On(Day),
    Header { name: String, value: Vec<u8> },
    Body(Vec<u8>),
    Text(Vec<u8>),
    Not(Box<SearchKey>),
    Or(Box<SearchKey>, Box<SearchKey>),
    And(Vec<SearchKey>),
}

impl SearchKey {
    /// `search-key *(SP search-key)`: a message must match all of them.
    pub(super) fn parse_all(input: &[u8]) -> Parsed<'_, Self> {
        all_of(0, input)
    }

    /// Whether one of its sets has a sequence number that there is not.
    pub(super) fn exceeds(&self, exists: u32) -> bool {
        match self {
            Self::Numbers(set) => set.resolve(exists).highest() > exists,
            Self::Not(key) => key.exceeds(exists),
            Self::Or(a, b) => a.exceeds(exists) || b.exceeds(exists),
            Self::And(keys) => keys.iter().any(|key| key.exceeds(exists)),
            Self::All | Self::Flagged(_) | Self::Uids(_) | Self::Larger(_) | Self::Smaller(_) => {
                false
            }
            Self::Since(_) | Self::Before(_) | Self::On(_) => false,
            Self::Header { .. } | Self::Body(_) | Self::Text(_) => false,
        }
    }

    /// Whether a message is wanted.
    pub(super) fn matches(&self, message: &SampleMessage, at: Numbered, last: Last) -> bool {
        let day = message.internal_date().day();
        let octets = message.octets();
        match self {
            Self::All => true,
            Self::Flagged(flag) => message.flags().contains(flag),
            Self::Numbers(set) => set.resolve(last.number).contains(at.number),
            Self::Uids(set) => set.resolve(last.uid).contains(at.uid),
            Self::Larger(size) => octets.len() > *size as usize,
            Self::Smaller(size) => octets.len() < *size as usize,
            Self::Since(first) => day >= *first,
            Self::Before(first) => day < *first,
            Self::On(only) => day == *only,
            Self::Header { name, value } => rfc822::fields(rfc822::split(octets).0)
                .filter(|field| rfc822::name(field).eq_ignore_ascii_case(name.as_bytes()))
                .any(|field| contains(rfc822::value(field), value)),
            Self::Body(value) => contains(rfc822::split(octets).1, value),
            Self::Text(value) => contains(octets, value),
            Self::Not(key) => !key.matches(message, at, last),
            Self::Or(a, b) => a.matches(message, at, last) || b.matches(message, at, last),
            Self::And(keys) => keys.iter().all(|key| key.matches(message, at, last)),
        }
    }
}

/// What `*` means in either numbering.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) number: u32,
    pub(super) uid: u32,
}

fn all_of(depth: usize, input: &[u8]) -> Parsed<'_, SearchKey> {
    let (rest, mut keys) = separated_list1(char(' '), |it| search_key(depth, it)).parse(input)?;
    let key = match keys.len() {
        1 => keys.remove(0),
        _ => SearchKey::And(keys),
    };
    Ok((rest, key))
}

fn search_key(depth: usize, input: &[u8]) -> Parsed<'_, SearchKey> {
    if depth > DEPTH_MAX {
        return fail(input);
    }
    let nested = delimited(char('('), |it| all_of(depth + 1, it), char(')'));
    let numbers = SequenceSet::parse.map(SearchKey::Numbers);
    alt((nested, numbers, |it| named_key(depth, it))).parse(input)
}

fn named_key(depth: usize, input: &[u8]) -> Parsed<'_, SearchKey> {
    let (input, name) = take_while1(|octet: u8| octet.is_ascii_alphabetic()).parse(input)?;
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    let key = |it| preceded(char(' '), |it| search_key(depth + 1, it)).parse(it);
    match name.as_str() {
        "ALL" | "OLD" => Ok((input, SearchKey::All)),
        // No message is ever \Recent.
        "NEW" | "RECENT" => Ok((input, not(SearchKey::All))),
        "NOT" => key.map(not).parse(input),
        "OR" => (key, key)
            .map(|(a, b)| SearchKey::Or(Box::new(a), Box::new(b)))
            .parse(input),
        "UID" => preceded(char(' '), SequenceSet::parse)
            .map(SearchKey::Uids)
            .parse(input),
        "KEYWORD" => keyword.parse(input),
        "UNKEYWORD" => keyword.map(not).parse(input),
        "LARGER" => preceded(char(' '), u32).map(SearchKey::Larger).parse(input),
        "SMALLER" => preceded(char(' '), u32)
            .map(SearchKey::Smaller)
            .parse(input),
        "SINCE" => date.map(SearchKey::Since).parse(input),
        "BEFORE" => date.map(SearchKey::Before).parse(input),
        "ON" => date.map(SearchKey::On).parse(input),
        "HEADER" => (preceded(char(' '), text(astring)), value)
            .map(|(name, value)| SearchKey::Header { name, value })
            .parse(input),
        "SUBJECT" | "FROM" | "TO" | "CC" | "BCC" => value
            .map(|value| SearchKey::Header {
                name: name.clone(),
                value,
            })
            .parse(input),
        "BODY" => value.map(SearchKey::Body).parse(input),
        "TEXT" => value.map(SearchKey::Text).parse(input),
        _ => system_flag(&name, input),
    }
}

/// `"ANSWERED" / "UNANSWERED" / …`
fn system_flag<'a>(name: &str, input: &'a [u8]) -> Parsed<'a, SearchKey> {
    let flagged = |name: &str| Flag::new(&format!("\\{name}")).map(SearchKey::Flagged);
    let key = flagged(name).or_else(|| flagged(name.strip_prefix("UN")?).map(not));
    key.map_or_else(|| fail(input), |key| Ok((input, key)))
}

fn not(key: SearchKey) -> SearchKey {
    SearchKey::Not(Box::new(key))
}

fn keyword(input: &[u8]) -> Parsed<'_, SearchKey> {
    map_opt(preceded(char(' '), text(atom)), |it| Flag::new(&it))
        .map(SearchKey::Flagged)
        .parse(input)
}

fn value(input: &[u8]) -> Parsed<'_, Vec<u8>> {
    preceded(char(' '), astring).parse(input)
}

/// `date = date-text / DQUOTE date-text DQUOTE`
fn date(input: &[u8]) -> Parsed<'_, Day> {
    let octets = take_while1(|octet: u8| octet.is_ascii_alphanumeric() || octet == b'-');
    let quote = || opt(char('"'));
    map_opt(
        preceded(char(' '), delimited(quote(), text(octets), quote())),
        |it| Day::parse(&it),
    )
    .parse(input)
}

/// RFC 3501 §6.4.4: case does not matter; the empty string is in everything.
fn contains(octets: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty()
        || octets
            .windows(wanted.len())
            .any(|window| window.eq_ignore_ascii_case(wanted))
}
