//! Where a response ends: lines, and the literals that lines announce (RFC 3501 §4.3).
//!
//! Octets are found here before [`super::response`] understands them. Small literals are spliced
//! into their logical line; the literal of a message body is announced and left to be streamed, so
//! that a body is never held whole.

use super::Garbled;
use super::fetch::{self, BodyHead};

/// Octets of one line of the upstream, its literals apart. A FETCH of a listing takes 60.
pub const LINE_OCTETS_MAX: usize = 64 * 1024;

/// Octets of one response together with the literals spliced into it.
pub const RESPONSE_OCTETS_MAX: usize = 128 * 1024;

/// Literals of one response; a LIST or an ENVELOPE of real mail has a few.
pub const LITERALS_MAX: usize = 64;

/// Octets of a streamed body: what RFC 3501's `number` can count.
pub const BODY_OCTETS_MAX: u64 = u32::MAX as u64;

/// What the end of a line says about what follows it.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// The response is complete.
    Complete,
    /// So many octets belong to the response, then its next line.
    Literal {
        /// At most [`RESPONSE_OCTETS_MAX`].
        octets: usize,
    },
    /// The octets of a message body, then the response's next line.
    Body(BodyHead),
}

/// What the first line of a response (without its line end) says.
///
/// # Errors
/// When it announces a literal longer than what we accept.
pub fn ending_of_first(line: &[u8]) -> Result<Ending, Garbled> {
    // The text of a status response is for people and may end in anything.
    match line.starts_with(b"* ") && !is_status(&line[2..]) {
        true => ending_of_next(line, 0),
        false => Ok(Ending::Complete),
    }
}

/// What a further line says: the one that begins at `line_start` of the logical line. What stands
/// before it may be the octets of a literal, which announce nothing.
///
/// # Errors
/// When it announces a literal longer than what we accept.
pub fn ending_of_next(logical: &[u8], line_start: usize) -> Result<Ending, Garbled> {
    let line = &logical[line_start.min(logical.len())..];
    let Some((before, octets)) = announced(line) else {
        return Ok(Ending::Complete);
    };
    let octets = octets.ok_or(Garbled("a literal whose length is no number of 32 bits"))?;
    if names_body(before)
        && let Some(head) = fetch::body_head(logical)
    {
        return Ok(Ending::Body(head));
    }
    match usize::try_from(octets) {
        Ok(octets) if logical.len() + octets <= RESPONSE_OCTETS_MAX => {
            Ok(Ending::Literal { octets })
        }
        _ => Err(Garbled("a literal longer than a response may be")),
    }
}

/// Makes room for a literal behind its announcement, in the spelling that the grammar expects.
pub fn splice(logical: &mut Vec<u8>) {
    logical.extend_from_slice(b"\r\n");
}

/// `"{" number ["+"] "}"` at the end of a line: what stands before it, and the number if it is one.
fn announced(line: &[u8]) -> Option<(&[u8], Option<u64>)> {
    let before_brace = line.strip_suffix(b"}")?;
    let brace = memchr::memrchr(b'{', before_brace)?;
    let number = &before_brace[brace + 1..];
    let number = number.strip_suffix(b"+").unwrap_or(number);
    // An atom that happens to contain braces, as in a flag, is no literal.
    if !matches!(line[..brace].last(), Some(b' ' | b'(' | b'~')) {
        return None;
    }
    let octets = std::str::from_utf8(number)
        .ok()
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .filter(|octets| *octets <= BODY_OCTETS_MAX);
    Some((&line[..brace], octets))
}

/// Whether a line's end can be `BODY[…] ` or `BODY[…]<…> `: to parse the whole of a response for each
/// of its literals would take quadratic time.
fn names_body(before_literal: &[u8]) -> bool {
    let name = before_literal.strip_suffix(b"~").unwrap_or(before_literal);
    matches!(name.trim_ascii_end().last(), Some(b']' | b'>'))
}

fn is_status(response: &[u8]) -> bool {
    let mut words = response.split(|octet| *octet == b' ');
    let word = words.find(|word| !word.is_empty()).unwrap_or(b"");
    [&b"OK"[..], b"NO", b"BAD", b"BYE", b"PREAUTH"]
        .iter()
        .any(|status| word.eq_ignore_ascii_case(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_found_where_the_grammar_has_them() {
        for (line, octets) in [
            ("* LIST () \"/\" {3}", Some(3)),
            ("* LIST () \"/\" {3+}", Some(3)),
            ("* 1 FETCH (X ({0}", Some(0)),
            ("* 1 FETCH (BODY[TEXT] ~{12}", None),
            ("* OK see section {3}", None),
            ("* bye {3}", None),
            ("*  NO {3}", None),
            ("A1 OK done {3}", None),
            ("+ {3}", None),
            ("* FLAGS (a{3}", None),
            ("* LIST () \"/\" a", None),
            ("", None),
            ("}", None),
        ] {
            let expected = octets.map_or(Ending::Complete, |octets| Ending::Literal { octets });
            match ending_of_first(line.as_bytes()) {
                Ok(Ending::Body(_)) if line.contains("BODY[") => {}
                other => assert_eq!(other, Ok(expected), "{line}"),
            }
        }
    }

    #[test]
    fn the_octets_of_a_literal_announce_nothing() {
        let logical = b"* LIST () \"/\" {9}\r\nfoo {100}";
        assert_eq!(ending_of_next(logical, logical.len()), Ok(Ending::Complete));
        let logical = b"* 1 FETCH (X {3}\r\na)b BODY[] {5}";
        assert!(matches!(ending_of_next(logical, 21), Ok(Ending::Body(_))));
    }

    #[test]
    fn absurd_lengths_are_refused_before_anything_is_allocated() {
        for line in [
            "* 1 FETCH (BODY[] {99999999999}",
            "* 1 FETCH (BODY[] {-1}",
            "* 1 FETCH (BODY[] {}",
            "* LIST () \"/\" {x}",
            "* LIST () \"/\" {200000}",
            "* LIST () \"/\" {99999999999999999999999999}",
        ] {
            assert!(ending_of_first(line.as_bytes()).is_err(), "{line}");
        }
    }
}
