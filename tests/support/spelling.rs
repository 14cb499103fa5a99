//! How a transcript spells octets, and how octets are shown to a person.
//!
//! - `\r` `\n` `\t` `\0` `\xHH` `\\` are single octets; any other backslash is one itself, so that
//!   `\Deleted` needs no care.
//! - A single backslash at the end of the line: no line end. Otherwise CRLF follows.
//! - `{"x"*100000}` repeats, `{base64 "\0joe\0secret"}` encodes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The octets of one line of a transcript.
pub(crate) fn octets(text: &str) -> Result<Vec<u8>, String> {
    let (text, has_line_end) = match text.strip_suffix('\\') {
        Some(text) if !text.ends_with('\\') => (text, false),
        _ => (text, true),
    };
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some(brace) = rest.find(['{', '\\']) {
        octets.extend_from_slice(&rest.as_bytes()[..brace]);
        rest = match rest[brace..].starts_with('{') {
            true => expand(&rest[brace..], &mut octets)?,
            false => escape(&rest[brace..], &mut octets)?,
        };
    }
    octets.extend_from_slice(rest.as_bytes());
    if has_line_end {
        octets.extend_from_slice(b"\r\n");
    }
    Ok(octets)
}

/// `{"text"*times}`, `{base64 "text"}`; any other brace is a brace.
fn expand<'a>(text: &'a str, octets: &mut Vec<u8>) -> Result<&'a str, String> {
    let (is_base64, quoted) = match (text.strip_prefix("{base64 \""), text.strip_prefix("{\"")) {
        (Some(quoted), _) => (true, quoted),
        (None, Some(quoted)) => (false, quoted),
        (None, None) => {
            octets.push(b'{');
            return Ok(&text[1..]);
        }
    };
    let (inner, behind) = quoted.split_once('"').ok_or("a quote without its end")?;
    let (argument, rest) = behind.split_once('}').ok_or("a brace without its end")?;
    let mut plain = Vec::new();
    let mut unread = inner;
    while let Some(backslash) = unread.find('\\') {
        plain.extend_from_slice(&unread.as_bytes()[..backslash]);
        unread = escape(&unread[backslash..], &mut plain)?;
    }
    plain.extend_from_slice(unread.as_bytes());
    if is_base64 {
        octets.extend_from_slice(STANDARD.encode(&plain).as_bytes());
    } else {
        let times = argument.strip_prefix('*').ok_or("a repetition without *")?;
        let times: usize = times.parse().map_err(|_| "a repetition without a number")?;
        octets.extend_from_slice(&plain.repeat(times));
    }
    Ok(rest)
}

fn escape<'a>(text: &'a str, octets: &mut Vec<u8>) -> Result<&'a str, String> {
    let short = match text.as_bytes().get(1) {
        Some(b'r') => b'\r',
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'0') => 0,
        Some(b'\\') => b'\\',
        Some(b'x') => {
            let digits = text.get(2..4).ok_or("\\x wants two digits")?;
            let octet = u8::from_str_radix(digits, 16).map_err(|_| "\\x wants two digits")?;
            octets.push(octet);
            return Ok(&text[4..]);
        }
        _ => {
            octets.push(b'\\');
            return Ok(&text[1..]);
        }
    };
    octets.push(short);
    Ok(&text[2..])
}

/// Lines of a person's patience.
const SHOWN_LINES_MAX: usize = 24;

/// Octets as lines for a person; long lines and long texts are shortened.
pub(crate) fn shown(octets: &[u8]) -> String {
    if octets.is_empty() {
        return "        (nothing)\n".to_owned();
    }
    let mut text = String::new();
    let mut lines = octets.split_inclusive(|octet| *octet == b'\n');
    for line in lines.by_ref().take(SHOWN_LINES_MAX) {
        let line = match line.strip_suffix(b"\r\n") {
            Some(line) => line.escape_ascii().to_string(),
            None => format!("{}\\", line.escape_ascii()),
        };
        text.push_str("        ");
        match line.len() > 300 {
            true => text.push_str(&format!("{}… ({} octets)", &line[..300], line.len())),
            false => text.push_str(&line),
        }
        text.push('\n');
    }
    match lines.count() {
        0 => text,
        more => format!("{text}        … and {more} lines\n"),
    }
}

/// Two texts that differ, from a little before where they do.
pub(crate) fn difference(expected: &[u8], found: &[u8]) -> (String, String) {
    let same = expected
        .iter()
        .zip(found)
        .take_while(|(one, other)| one == other);
    let same = &expected[..same.count()];
    let line_starts = memchr::memrchr_iter(b'\n', same).map(|newline| newline + 1);
    let start = line_starts.take(4).last().unwrap_or(0);
    (shown(&expected[start..]), shown(&found[start..]))
}

/// What a client got, with every session reference `(89abcdef)` as `(…)`.
pub(crate) fn without_references(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut rest = octets;
    while let Some(place) = memchr::memchr(b'(', rest) {
        let (before, found) = rest.split_at(place);
        out.extend_from_slice(before);
        let is_reference =
            found.get(9) == Some(&b')') && found[1..9].iter().all(u8::is_ascii_hexdigit);
        if is_reference {
            out.extend_from_slice("(…)".as_bytes());
            rest = &found[10..];
        } else {
            out.push(b'(');
            rest = &found[1..];
        }
    }
    out.extend_from_slice(rest);
    out
}

/// The lines that have their end, with it. (Splitting at a closure takes long over 200 kB.)
pub(crate) fn complete_lines(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', octets).map(move |newline| {
        let line = &octets[start..=newline];
        start = newline + 1;
        line
    })
}
