//! [`Setting`]: one value and what it can be read as; every refusal says what would be right.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use config::{Value, ValueKind};
use globset::{GlobBuilder, GlobMatcher};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;

use super::report::{Place, nearest};
use crate::maildrop::MESSAGES_MAX;

/// Longer is a mistake, and the sum of such a time and now must not overflow.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// More would not be faster, and some providers count them.
const WARM_CONNECTIONS_MAX: usize = 16;

/// Far beyond every machine, and within what a semaphore can count.
const COUNT_MAX: i128 = u32::MAX as i128;

/// One value.
pub(super) struct Setting {
    /// Where it was written.
    pub(super) place: Place,
    /// What a relative path in the config file starts from.
    pub(super) folder: Option<PathBuf>,
    /// The value itself.
    pub(super) kind: ValueKind,
}

impl Setting {
    /// Text, possibly empty.
    pub(super) fn text(&self) -> Result<&str, String> {
        match &self.kind {
            ValueKind::String(text) => Ok(text),
            kind => Err(format!("is {}; write text in quotes", described(kind))),
        }
    }

    /// Variables and flags carry text only, which may stand for a number, a switch or a list.
    fn untyped(&self) -> Option<&str> {
        match (&self.place, &self.kind) {
            (Place::Variable(_) | Place::Flag(_), ValueKind::String(text)) => Some(text.trim()),
            _ => None,
        }
    }

    /// Whether it is a list, or the text of a variable that can only be one of networks.
    pub(super) fn is_list(&self) -> bool {
        let listed = |text: &str| text.contains([',', '/']);
        matches!(self.kind, ValueKind::Array(_)) || self.untyped().is_some_and(listed)
    }

    /// A list; from a variable one that is separated by commas, where nothing at all is no element.
    pub(super) fn elements(&self) -> Result<Vec<Value>, String> {
        match (&self.kind, self.untyped()) {
            (ValueKind::Array(elements), _) => Ok(elements.clone()),
            (_, Some("")) => Ok(Vec::new()),
            (_, Some(text)) => Ok(text
                .split(',')
                .map(|element| Value::new(self.place.to_origin().as_ref(), element.trim()))
                .collect()),
            (ValueKind::String(text), None) => {
                Err(format!("{text:?} is not a list; write [{text:?}]"))
            }
            (kind, None) => Err(format!(
                "is {}; write a list, as in [\"…\"]",
                described(kind)
            )),
        }
    }

    /// `true` or `false`.
    pub(super) fn switch(&self) -> Result<bool, String> {
        match (&self.kind, self.untyped()) {
            (ValueKind::Boolean(switch), _) => Ok(*switch),
            (_, Some("true")) => Ok(true),
            (_, Some("false")) => Ok(false),
            (kind, _) => Err(format!("is {}; write true or false", described(kind))),
        }
    }

    fn number(&self) -> Result<i128, String> {
        match (&self.kind, self.untyped().map(i128::from_str)) {
            (ValueKind::I128(number), _) => Ok(*number),
            (_, Some(Ok(number))) => Ok(number),
            (kind, _) => Err(format!("is {}; write a whole number", described(kind))),
        }
    }

    /// A whole number from 1 on.
    pub(super) fn count(&self) -> Result<usize, String> {
        let number = self.number()?;
        match usize::try_from(number) {
            Ok(count @ 1..) if number <= COUNT_MAX => Ok(count),
            Ok(1..) => Err(format!("is more than {COUNT_MAX}; write a smaller number")),
            Ok(0) | Err(_) => Err(format!("is {number}; write a number from 1 on")),
        }
    }

    /// A small number, also none.
    pub(super) fn warm_connections(&self) -> Result<usize, String> {
        let number = self.number()?;
        match usize::try_from(number) {
            Ok(count @ 0..=WARM_CONNECTIONS_MAX) => Ok(count),
            _ => Err(format!(
                "is {number}; write a number from 0 to {WARM_CONNECTIONS_MAX}"
            )),
        }
    }

    /// How many messages a maildrop may have.
    pub(super) fn messages(&self) -> Result<u32, String> {
        let number = self.number()?;
        match u32::try_from(number) {
            Ok(messages @ 1..=MESSAGES_MAX) => Ok(messages),
            _ => Err(format!(
                "is {number}; write a number of messages from 1 to {MESSAGES_MAX}"
            )),
        }
    }

    /// A time that is longer than none.
    pub(super) fn duration(&self) -> Result<Duration, String> {
        match self.duration_or_none()? {
            Duration::ZERO => Err(format!(
                "{:?} is no time at all; write \"30s\" or more",
                self.text()?
            )),
            duration => Ok(duration),
        }
    }

    /// A time, also none.
    pub(super) fn duration_or_none(&self) -> Result<Duration, String> {
        let text = match &self.kind {
            ValueKind::I128(number) => {
                return Err(format!(
                    "{number} has no unit; write \"{number}s\" for seconds"
                ));
            }
            _ => self.text()?,
        };
        match humantime::parse_duration(text) {
            Ok(duration) if duration > DURATION_MAX => {
                Err(format!("{text:?} is more than a year; write less"))
            }
            Ok(duration) => Ok(duration),
            Err(_) if text.parse::<u64>().is_ok() => Err(format!(
                "{text:?} has no unit; write \"{text}s\" for seconds"
            )),
            Err(_) => Err(format!(
                "{text:?} is not a duration; write it like \"30s\", \"10m\" or \"14d\""
            )),
        }
    }

    /// A number of octets, also none.
    pub(super) fn octets(&self) -> Result<u64, String> {
        let text = match &self.kind {
            ValueKind::I128(number) => {
                return u64::try_from(*number)
                    .map_err(|_| format!("is {number}; write a number of octets from 0 on"));
            }
            _ => self.text()?,
        };
        text.parse()
            .map(|size: bytesize::ByteSize| size.as_u64())
            .map_err(|_| {
                format!("{text:?} is not a size; write it like \"256KiB\", or octets as a number")
            })
    }

    /// A path; a relative one in the config file is relative to the file's folder.
    pub(super) fn path(&self) -> Result<PathBuf, String> {
        match (self.text()?, &self.place, &self.folder) {
            ("", ..) => Err("is empty; write the path of a file".to_owned()),
            (path, Place::Line(_), Some(folder)) => Ok(folder.join(path)),
            (path, ..) => Ok(PathBuf::from(path)),
        }
    }

    /// An IP address and a port.
    pub(super) fn address(&self) -> Result<SocketAddr, String> {
        let text = self.text()?;
        text.parse().map_err(|_| {
            let remedy = match text.rsplit_once(':') {
                Some(("", port)) if is_port(port) => {
                    format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\"")
                }
                Some(("localhost", port)) if is_port(port) => format!("write \"127.0.0.1:{port}\""),
                Some(("*", port)) if is_port(port) => {
                    format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\"")
                }
                _ if is_port(text) => format!("write \"127.0.0.1:{text}\" or \"0.0.0.0:{text}\""),
                _ => "write it like \"127.0.0.1:1110\" or \"[::1]:1110\"".to_owned(),
            };
            format!("{text:?} is not an IP address and a port; {remedy}")
        })
    }

    /// A network.
    pub(super) fn network(&self) -> Result<IpNet, String> {
        let text = self.text()?;
        text.parse().map_err(|_| match text.parse::<IpAddr>() {
            Ok(address) => {
                let network = IpNet::from(address);
                format!("{text:?} is an address; write \"{network}\"")
            }
            Err(_) => {
                format!("{text:?} is not a network; write it like \"10.0.0.0/8\" or \"fd00::/8\"")
            }
        })
    }

    /// A pattern for logins, which are compared without regard to case.
    pub(super) fn glob(&self) -> Result<GlobMatcher, String> {
        match self.text()? {
            "" => Err("matches no login; write \"*\" for all of them".to_owned()),
            text => GlobBuilder::new(text)
                .case_insensitive(true)
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|error| {
                    let reason = error.kind();
                    format!("{text:?} is not a pattern ({reason}); write it like \"*@example.org\"")
                }),
        }
    }

    /// Characters that stand for `@` in a login.
    pub(super) fn delimiters(&self) -> Result<Vec<u8>, String> {
        let text = self.text()?;
        for (place, character) in text.char_indices() {
            let remedy = match character {
                '@' => "leave it out, it needs nothing to stand for it",
                // Where a login has several delimiters, the domain is behind the last.
                '.' | '-' => "leave it out, domains hold it too",
                _ if !character.is_ascii_punctuation() => {
                    "write punctuation of ASCII, as in \"%#:\""
                }
                _ if text[..place].contains(character) => "write it once",
                _ => continue,
            };
            return Err(format!("{character:?} is no login delimiter; {remedy}"));
        }
        Ok(text.as_bytes().to_vec())
    }

    /// The name of an IMAP mailbox.
    pub(super) fn folder(&self) -> Result<String, String> {
        match self.text()? {
            "" => Err("is empty; write the name of a folder, as in \"INBOX\"".to_owned()),
            text if text.contains(char::is_control) => Err(format!(
                "{text:?} contains a control character; write the folder's name"
            )),
            text => Ok(text.to_owned()),
        }
    }

    /// One of a closed set of words.
    pub(super) fn word<T: DeserializeOwned>(&self) -> Result<T, String> {
        let text = self.text()?;
        T::deserialize(StrDeserializer::<NotAWord>::new(text)).map_err(|NotAWord(what)| what)
    }

    /// Text that its type knows how to read.
    pub(super) fn parsed<T: FromStr<Err = String>>(&self) -> Result<T, String> {
        self.text()?.parse()
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

fn described(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => {
            "a number"
        }
        ValueKind::Float(_) => "a fraction",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a section",
        ValueKind::Array(_) => "a list",
    }
}

/// What serde says of a word that is no variant of an enum, in an operator's words.
#[derive(Debug)]
struct NotAWord(String);

impl fmt::Display for NotAWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAWord {}

impl serde::de::Error for NotAWord {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> Self {
        Self(match nearest(word, expected) {
            Some(meant) => format!("{word:?} is not known; did you mean {meant:?}?"),
            None => format!("{word:?} is none of {}", expected.join(", ")),
        })
    }
}
