//! Replies (RFC 5321 §4.2, RFC 3463): ours are written by [`say`], the upstream's are a [`Reply`], which
//! can be passed on without anything in it meaning something to the client.

use std::fmt::{self, Display};
use std::io::Write;

use super::Garbled;

/// Octets of a reply's line (RFC 5321 §4.5.3.1.5), line end included; more is cut off.
const LINE_OCTETS_MAX: usize = 512;

/// Lines of a reply that are passed on.
const LINES_PASSED_ON_MAX: usize = 20;

/// `class "." subject "." detail` (RFC 3463 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about.
    pub subject: u16,
    /// What of it.
    pub detail: u16,
}

impl EnhancedCode {
    /// Of a text that begins with one and a blank; and what follows.
    fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        let end = memchr::memchr(b' ', text).unwrap_or(text.len());
        let mut numbers = text[..end].split(|octet| *octet == b'.');
        let class = match numbers.next()? {
            b"2" => 2,
            b"4" => 4,
            b"5" => 5,
            _ => return None,
        };
        let code = Self {
            class,
            subject: up_to_three_digits(numbers.next()?)?,
            detail: up_to_three_digits(numbers.next()?)?,
        };
        let rest = text[end..].trim_ascii_start();
        numbers.next().is_none().then_some((code, rest))
    }
}

impl Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

fn up_to_three_digits(digits: &[u8]) -> Option<u16> {
    let sound = matches!(digits.len(), 1..=3) && digits.iter().all(u8::is_ascii_digit);
    let text = sound.then(|| std::str::from_utf8(digits).ok())??;
    text.parse().ok()
}

/// What the first digit of a code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 2yz
    Done,
    /// 3yz
    GoOn,
    /// 4yz
    NotNow,
    /// 5yz
    Never,
}

/// A whole reply of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// From 200 to 599.
    pub code: u16,
    /// Raw; harmless only after [`Reply::pass_on`] or escaping. At least one.
    pub lines: Vec<Vec<u8>>,
}

/// One line of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyLine<'a> {
    /// From 200 to 599.
    pub code: u16,
    /// Whether the reply ends with it.
    pub is_last: bool,
    /// Raw.
    pub text: &'a [u8],
}

impl<'a> ReplyLine<'a> {
    /// `Reply-code [ SP textstring ]` or `Reply-code "-" [ textstring ]`
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(line: &'a [u8]) -> Result<Self, Garbled> {
        let (digits, text) = line
            .split_at_checked(3)
            .ok_or(Garbled("a line that is no reply"))?;
        let code = up_to_three_digits(digits)
            .filter(|code| matches!(code, 200..=599))
            .ok_or(Garbled("a reply without a code"))?;
        let (is_last, text) = match text.split_first() {
            None => (true, text),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(Garbled("neither blank nor hyphen behind the code")),
        };
        Ok(Self {
            code,
            is_last,
            text,
        })
    }
}

impl Reply {
    /// What the first digit says.
    pub fn class(&self) -> Class {
        match self.code {
            ..300 => Class::Done,
            300..400 => Class::GoOn,
            400..500 => Class::NotNow,
            500.. => Class::Never,
        }
    }

    /// The enhanced code, if there is one that fits the code.
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        let (code, _) = EnhancedCode::parse(self.lines.first()?)?;
        (u16::from(code.class) == self.code / 100).then_some(code)
    }

    /// Its lines as one text, for a log or a decision; raw. What [`Self::pass_on`] leaves out is missing here, too.
    pub fn text(&self) -> Vec<u8> {
        let lines = self.lines.iter().take(LINES_PASSED_ON_MAX);
        let passed_on = lines.map(|line| {
            let text = EnhancedCode::parse(line).map_or(line.as_slice(), |(_, text)| text);
            let left_out = text.len().saturating_sub(LINE_OCTETS_MAX);
            &line[..line.len() - left_out]
        });
        passed_on.collect::<Vec<_>>().join(&b' ')
    }

    /// Appends it as a reply of ours with this code: with an enhanced code in every line, and no octet
    /// that is not printable ASCII.
    pub fn pass_on(&self, code: u16, out: &mut Vec<u8>) {
        let enhanced = self.enhanced_or_general(code);
        let lines = &self.lines[..self.lines.len().min(LINES_PASSED_ON_MAX)];
        for (number, line) in lines.iter().enumerate() {
            let text = EnhancedCode::parse(line).map_or(line.as_slice(), |(_, text)| text);
            let is_last = number + 1 == lines.len();
            let line_start = out.len();
            let separator = if is_last { ' ' } else { '-' };
            // Writing into a vector cannot fail.
            let _ = write!(out, "{code}{separator}{enhanced} ");
            out.extend(text.iter().map(|octet| match octet {
                b' '..=b'~' => *octet,
                _ => b'?',
            }));
            out.truncate(line_start + LINE_OCTETS_MAX - 2);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Appends the same without its text.
    pub fn pass_on_codes(&self, code: u16, out: &mut Vec<u8>) {
        let text = match self.class() {
            Class::Done | Class::GoOn => "the mail server says yes",
            Class::NotNow => "the mail server refuses for now",
            Class::Never => "the mail server refuses",
        };
        line(
            out,
            format_args!("{code} {} {text}", self.enhanced_or_general(code)),
        );
    }

    fn enhanced_or_general(&self, code: u16) -> EnhancedCode {
        self.enhanced().unwrap_or(EnhancedCode {
            class: match code {
                ..300 => 2,
                300..500 => 4,
                500.. => 5,
            },
            subject: 0,
            detail: 0,
        })
    }
}

/// Appends `code enhanced-code text`. The text is ours, never from the wire.
pub fn say(out: &mut Vec<u8>, code: u16, enhanced: &str, text: impl Display) {
    line(out, format_args!("{code} {enhanced} {text}"));
}

/// Appends one line; of greetings and of EHLO, which have no enhanced codes (RFC 2034 §4).
pub fn line(out: &mut Vec<u8>, text: impl Display) {
    // Writing into a vector cannot fail.
    let _ = write!(out, "{text}\r\n");
}

/// Appends `334 challenge`: the client is to go on with its AUTH (RFC 4954 §4).
pub fn continuation(out: &mut Vec<u8>, challenge: &str) {
    line(out, format_args!("334 {challenge}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(lines: &[&str]) -> Reply {
        let parsed: Vec<_> = lines
            .iter()
            .map(|line| ReplyLine::parse(line.as_bytes()).expect(line))
            .collect();
        Reply {
            code: parsed[0].code,
            lines: parsed.iter().map(|line| line.text.to_vec()).collect(),
        }
    }

    fn passed_on(lines: &[&str], code: u16) -> String {
        let mut out = Vec::new();
        reply(lines).pass_on(code, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn the_text_is_what_is_passed_on() {
        let blanks = " ".repeat(4000);
        let behind_blanks = format!("550 5.1.1{blanks}secret");
        assert!(passed_on(&[&behind_blanks], 550).contains("secret"));
        assert!(reply(&[&behind_blanks]).text().ends_with(b"secret"));
        let long = format!("550 5.1.1 {}", "x".repeat(4000));
        let text = reply(&[long.as_str(); 100]).text();
        let line = "5.1.1 ".len() + LINE_OCTETS_MAX;
        assert_eq!(text.len(), LINES_PASSED_ON_MAX * (line + 1) - 1);
    }

    #[test]
    fn lines() {
        for (line, code, is_last, text) in [
            ("250", 250, true, ""),
            ("250 ", 250, true, ""),
            ("250 2.0.0 Ok", 250, true, "2.0.0 Ok"),
            ("550-no", 550, false, "no"),
        ] {
            let text = text.as_bytes();
            assert_eq!(
                ReplyLine::parse(line.as_bytes()),
                Ok(ReplyLine {
                    code,
                    is_last,
                    text
                }),
                "{line}"
            );
        }
        for line in [
            "", "25", "25x ok", "199 x", "600 x", "250x", "+OK", "2500 x", "² 5",
        ] {
            assert!(ReplyLine::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_passed_on_is_harmless_and_keeps_its_codes() {
        for (lines, code, expected) in [
            (&["550 5.1.1 nobody"][..], 550, "550 5.1.1 nobody\r\n"),
            (&["550 nobody"], 550, "550 5.0.0 nobody\r\n"),
            // A class that contradicts the code is not one.
            (&["450 5.1.1 x"], 450, "450 4.0.0 x\r\n"),
            (&["421 4.7.0 bye"], 451, "451 4.7.0 bye\r\n"),
            (
                &["550-5.7.1 one", "550-5.7.1", "550 5.7.1 two"],
                550,
                "550-5.7.1 one\r\n550-5.7.1 \r\n550 5.7.1 two\r\n",
            ),
            (&["554 5.6.0 a\r\x07\u{fc}"], 554, "554 5.6.0 a????\r\n"),
            (&["250 2.0.0.0 x"], 250, "250 2.0.0 2.0.0.0 x\r\n"),
        ] {
            assert_eq!(passed_on(lines, code), expected);
        }
        let long = format!("550 5.0.0 {}", "x".repeat(10_000));
        assert_eq!(passed_on(&[&long], 550).len(), 512);
        let many = vec!["250-x"; 1000];
        let all = passed_on(&many, 250);
        assert_eq!(all.lines().count(), LINES_PASSED_ON_MAX);
        assert!(all.ends_with("\r\n250 2.0.0 x\r\n"));
    }
}
