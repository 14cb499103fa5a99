//! What EHLO lists (RFC 5321 §4.1.1.1): [`Extensions`].

use super::envelope::decimal;

/// What an upstream says that it can do, as far as it changes what we do or offer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    flags: u32,
    /// The largest message that it takes; `None` if it does not say.
    size: Option<u64>,
}

/// Keywords of EHLO, those of AUTH one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// RFC 3207
    StartTls,
    /// RFC 2920
    Pipelining,
    /// RFC 1870
    Size,
    /// RFC 6152
    EightBitMime,
    /// RFC 6531
    SmtpUtf8,
    /// RFC 3461
    Dsn,
    /// RFC 8689
    RequireTls,
    /// RFC 2034
    EnhancedStatusCodes,
    /// RFC 3030
    Chunking,
    /// AUTH PLAIN
    AuthPlain,
    /// AUTH LOGIN
    AuthLogin,
    /// AUTH XOAUTH2
    AuthXoauth2,
    /// AUTH OAUTHBEARER
    AuthOauthBearer,
}

const KEYWORDS: &[(&str, Extension)] = &[
    ("STARTTLS", Extension::StartTls),
    ("PIPELINING", Extension::Pipelining),
    ("SIZE", Extension::Size),
    ("8BITMIME", Extension::EightBitMime),
    ("SMTPUTF8", Extension::SmtpUtf8),
    ("DSN", Extension::Dsn),
    ("REQUIRETLS", Extension::RequireTls),
    ("ENHANCEDSTATUSCODES", Extension::EnhancedStatusCodes),
    ("CHUNKING", Extension::Chunking),
];

const MECHANISMS: &[(&str, Extension)] = &[
    ("PLAIN", Extension::AuthPlain),
    ("LOGIN", Extension::AuthLogin),
    ("XOAUTH2", Extension::AuthXoauth2),
    ("OAUTHBEARER", Extension::AuthOauthBearer),
];

impl Extensions {
    /// Understands the lines behind the first of a reply to EHLO; what we do not know is skipped.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut extensions = Self::default();
        for line in lines {
            extensions.add(line);
        }
        extensions
    }

    /// `ehlo-keyword *( SP ehlo-param )`; `AUTH=` is how servers of the last century wrote it, and some
    /// of this one still do besides.
    fn add(&mut self, line: &[u8]) {
        let mut words = line
            .split(|octet| matches!(octet, b' ' | b'\t' | b'='))
            .filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else {
            return;
        };
        if keyword.eq_ignore_ascii_case(b"AUTH") {
            for mechanism in words {
                self.insert_known(MECHANISMS, mechanism);
            }
            return;
        }
        self.insert_known(KEYWORDS, keyword);
        if keyword.eq_ignore_ascii_case(b"SIZE") {
            // 0 is no limit (RFC 1870 §3).
            self.size = words.next().and_then(decimal).filter(|octets| *octets > 0);
        }
    }

    fn insert_known(&mut self, known: &[(&str, Extension)], word: &[u8]) {
        let found = known
            .iter()
            .find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
        if let Some((_, extension)) = found {
            self.insert(*extension);
        }
    }

    /// Whether it is offered.
    pub fn has(self, extension: Extension) -> bool {
        self.flags & (1 << extension as u32) != 0
    }

    fn insert(&mut self, extension: Extension) {
        self.flags |= 1 << extension as u32;
    }

    /// The largest message that is taken, if that is said.
    pub fn size(self) -> Option<u64> {
        self.size
    }

    /// What two upstreams both can.
    #[must_use]
    pub fn both(self, other: Self) -> Self {
        Self {
            flags: self.flags & other.flags,
            size: match (self.size, other.size) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
        }
    }

    /// Their names, for a person to read.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = KEYWORDS.iter().chain(MECHANISMS);
        all.filter(move |(_, extension)| self.has(*extension))
            .map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Extensions {
        Extensions::parse(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn keywords_in_any_case_and_old_spellings() {
        let extensions = parse(&[
            "PIPELINING",
            "size 35882577",
            "8BITMIME",
            "AUTH=LOGIN",
            "AUTH  PLAIN XOAUTH2 PLAIN-CLIENTTOKEN",
            "X-UNKNOWN a b",
            "",
        ]);
        assert_eq!(
            extensions.names().collect::<Vec<_>>(),
            [
                "PIPELINING",
                "SIZE",
                "8BITMIME",
                "PLAIN",
                "LOGIN",
                "XOAUTH2"
            ]
        );
        assert_eq!(extensions.size(), Some(35_882_577));
        for unlimited in ["SIZE", "SIZE 0", "SIZE x"] {
            assert_eq!(parse(&[unlimited]).size(), None);
            assert!(parse(&[unlimited]).has(Extension::Size));
        }
    }

    #[test]
    fn what_both_can() {
        let both = parse(&["SIZE 10", "DSN", "SMTPUTF8"]).both(parse(&["DSN", "SIZE", "8BITMIME"]));
        assert_eq!(both.names().collect::<Vec<_>>(), ["SIZE", "DSN"]);
        assert_eq!(both.size(), Some(10));
    }
}
