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

/// Looks at a logical line (without its line end) for a literal at its end.
///
/// # Errors
/// When the literal is longer than what we accept.
pub fn ending(line: &[u8]) -> Result<Ending, Garbled> {
    let Some(octets) = announced(line) else {
        return Ok(Ending::Complete);
    };
    let octets = octets.ok_or(Garbled("a literal whose length is no number of 32 bits"))?;
    if let Some(head) = fetch::body_head(line) {
        return Ok(Ending::Body(head));
    }
    match usize::try_from(octets) {
        Ok(octets) if line.len() + octets <= RESPONSE_OCTETS_MAX => Ok(Ending::Literal { octets }),
        _ => Err(Garbled("a literal longer than a response may be")),
    }
}

/// Adds a literal to its logical line, in the spelling that the grammar expects.
pub fn splice(line: &mut Vec<u8>, literal: &[u8]) {
    line.extend_from_slice(b"\r\n");
    line.extend_from_slice(literal);
}

/// `"{" number ["+"] "}"` at the end of an untagged response that carries data. The text of a status
/// response is for people and may end in anything.
fn announced(line: &[u8]) -> Option<Option<u64>> {
    let before_brace = line.strip_suffix(b"}")?;
    let brace = memchr::memrchr(b'{', before_brace)?;
    let number = &before_brace[brace + 1..];
    let number = number.strip_suffix(b"+").unwrap_or(number);
    let is_data = line.starts_with(b"* ") && !is_status(&line[2..]);
    // An atom that happens to contain braces, as in a flag, is no literal.
    let at_word_start = matches!(line[..brace].last(), Some(b' ' | b'(' | b'~'));
    (is_data && at_word_start).then(|| {
        let digits = std::str::from_utf8(number).ok()?;
        let octets: u64 = digits.parse().ok()?;
        let spelt_plainly = digits.bytes().all(|digit| digit.is_ascii_digit());
        (spelt_plainly && octets <= BODY_OCTETS_MAX).then_some(octets)
    })
}

fn is_status(response: &[u8]) -> bool {
    let word = response.split(|octet| *octet == b' ').next().unwrap_or(b"");
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
            ("A1 OK done {3}", None),
            ("+ {3}", None),
            ("* FLAGS (a{3}", None),
            ("* LIST () \"/\" a", None),
            ("", None),
            ("}", None),
        ] {
            let expected = octets.map_or(Ending::Complete, |octets| Ending::Literal { octets });
            match ending(line.as_bytes()) {
                Ok(Ending::Body(_)) if line.contains("BODY[") => {}
                other => assert_eq!(other, Ok(expected), "{line}"),
            }
        }
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
            assert!(ending(line.as_bytes()).is_err(), "{line}");
        }
    }
}
