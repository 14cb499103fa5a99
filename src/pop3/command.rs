//! Commands of a client: [`Command::parse`] understands one line.

use std::num::NonZeroU32;

use nom::Parser;
use nom::bytes::complete::{take_while, take_while1};
use nom::combinator::{all_consuming, map_opt, opt};
use nom::sequence::{preceded, terminated};

use crate::secret::Secret;

/// Octets of a line before login: a token of 12 kB in an AUTH command passes (nginx/nginx#1590).
pub const AUTHORIZATION_LINE_OCTETS_MAX: usize = 12 * 1024;

/// Octets of a line after login: RFC 2449 §4 asks for 255.
pub const TRANSACTION_LINE_OCTETS_MAX: usize = 1024;

/// A message-number (RFC 1939 §5): from 1, counted in the maildrop of this session. Never an index,
/// never an IMAP sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageNumber(NonZeroU32);

impl MessageNumber {
    /// `None` for 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number itself, from 1.
    pub fn number(self) -> u32 {
        self.0.get()
    }
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the RFCs' own names")]
pub enum Command {
    Capa,
    User(Vec<u8>),
    Pass(Secret),
    /// AUTH without an argument: which mechanisms are there (Outlook, Thunderbird).
    AuthList,
    Auth {
        /// As typed.
        mechanism: Vec<u8>,
        /// In base64 as typed; `=` stands for an empty one (RFC 5034 §4).
        initial_response: Option<Secret>,
    },
    Stls,
    Utf8,
    Quit,
    Noop,
    Stat,
    List(Option<MessageNumber>),
    Retr(MessageNumber),
    Dele(MessageNumber),
    Rset,
    Top {
        number: MessageNumber,
        /// Of the body.
        lines: u64,
    },
    Uidl(Option<MessageNumber>),
    /// RFC 1225; old paths of Thunderbird and fetchmail ask for it.
    Last,
}

/// What was wrong with a line, told to the client in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// No such command.
    Unknown,
    /// A known command with arguments that it does not take.
    Arguments,
    /// A request of HTTP: somebody uses a browser to reach us.
    ForeignProtocol,
}

/// The closed set of commands, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the RFCs' own names")]
pub enum CommandName {
    Capa,
    User,
    Pass,
    Auth,
    Stls,
    Utf8,
    Quit,
    Noop,
    Stat,
    List,
    Retr,
    Dele,
    Rset,
    Top,
    Uidl,
    Last,
    Unknown,
}

impl CommandName {
    /// All of them, for metrics that start at zero.
    pub const ALL: [Self; 17] = [
        Self::Capa,
        Self::User,
        Self::Pass,
        Self::Auth,
        Self::Stls,
        Self::Utf8,
        Self::Quit,
        Self::Noop,
        Self::Stat,
        Self::List,
        Self::Retr,
        Self::Dele,
        Self::Rset,
        Self::Top,
        Self::Uidl,
        Self::Last,
        Self::Unknown,
    ];

    /// In lower case, for labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Capa => "capa",
            Self::User => "user",
            Self::Pass => "pass",
            Self::Auth => "auth",
            Self::Stls => "stls",
            Self::Utf8 => "utf8",
            Self::Quit => "quit",
            Self::Noop => "noop",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Retr => "retr",
            Self::Dele => "dele",
            Self::Rset => "rset",
            Self::Top => "top",
            Self::Uidl => "uidl",
            Self::Last => "last",
            Self::Unknown => "unknown",
        }
    }
}

impl Command {
    /// Understands one line without its line end: commands in any case, several blanks and trailing
    /// ones tolerated. Of PASS, everything behind the first blank is the password.
    ///
    /// # Errors
    /// A [`Mistake`] to be told to the client; nothing of the line may be passed on.
    pub fn parse(line: &[u8]) -> Result<Self, Mistake> {
        let verb_end = memchr::memchr(b' ', line).unwrap_or(line.len());
        let (verb, arguments) = line.split_at(verb_end);
        match verb.to_ascii_uppercase().as_slice() {
            b"CAPA" => none(arguments, Self::Capa),
            b"USER" => user(arguments),
            b"PASS" => match arguments.split_first() {
                Some((b' ', password)) => Ok(Self::Pass(Secret::new(password.to_vec()))),
                _ => Err(Mistake::Arguments),
            },
            b"AUTH" => auth(arguments),
            b"STLS" => none(arguments, Self::Stls),
            b"UTF8" => none(arguments, Self::Utf8),
            b"QUIT" => none(arguments, Self::Quit),
            b"NOOP" => none(arguments, Self::Noop),
            b"STAT" => none(arguments, Self::Stat),
            b"LIST" => maybe_number(arguments).map(Self::List),
            b"RETR" => number(arguments).map(Self::Retr),
            b"DELE" => number(arguments).map(Self::Dele),
            b"RSET" => none(arguments, Self::Rset),
            b"TOP" => top(arguments),
            b"UIDL" => maybe_number(arguments).map(Self::Uidl),
            b"LAST" => none(arguments, Self::Last),
            b"GET" | b"POST" | b"PUT" | b"HEAD" | b"OPTIONS" | b"CONNECT" | b"DELETE"
            | b"PATCH" | b"TRACE" => Err(Mistake::ForeignProtocol),
            _ => Err(Mistake::Unknown),
        }
    }

    /// Which command it is.
    pub fn name(&self) -> CommandName {
        match self {
            Self::Capa => CommandName::Capa,
            Self::User(_) => CommandName::User,
            Self::Pass(_) => CommandName::Pass,
            Self::AuthList | Self::Auth { .. } => CommandName::Auth,
            Self::Stls => CommandName::Stls,
            Self::Utf8 => CommandName::Utf8,
            Self::Quit => CommandName::Quit,
            Self::Noop => CommandName::Noop,
            Self::Stat => CommandName::Stat,
            Self::List(_) => CommandName::List,
            Self::Retr(_) => CommandName::Retr,
            Self::Dele(_) => CommandName::Dele,
            Self::Rset => CommandName::Rset,
            Self::Top { .. } => CommandName::Top,
            Self::Uidl(_) => CommandName::Uidl,
            Self::Last => CommandName::Last,
        }
    }
}

type Parsed<'a, T> = nom::IResult<&'a [u8], T>;

fn none(arguments: &[u8], command: Command) -> Result<Command, Mistake> {
    match arguments.trim_ascii().is_empty() {
        true => Ok(command),
        false => Err(Mistake::Arguments),
    }
}

/// The name may hold blanks, but neither begin nor end with one.
fn user(arguments: &[u8]) -> Result<Command, Mistake> {
    match arguments.trim_ascii() {
        b"" => Err(Mistake::Arguments),
        name => Ok(Command::User(name.to_vec())),
    }
}

/// `AUTH mechanism [initial-response]` (RFC 5034 §4)
fn auth(arguments: &[u8]) -> Result<Command, Mistake> {
    let mut words = arguments
        .split(|octet| *octet == b' ')
        .filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (None, _, _) => Ok(Command::AuthList),
        (Some(mechanism), initial_response, None) => Ok(Command::Auth {
            mechanism: mechanism.to_vec(),
            initial_response: initial_response.map(|response| Secret::new(response.to_vec())),
        }),
        _ => Err(Mistake::Arguments),
    }
}

fn top(arguments: &[u8]) -> Result<Command, Mistake> {
    let lines = preceded(blanks, decimal::<u64>);
    whole((argument, lines), arguments).map(|(number, lines)| Command::Top { number, lines })
}

fn number(arguments: &[u8]) -> Result<MessageNumber, Mistake> {
    whole(argument, arguments)
}

fn maybe_number(arguments: &[u8]) -> Result<Option<MessageNumber>, Mistake> {
    whole(opt(argument), arguments)
}

fn whole<'a, T>(
    parser: impl Parser<&'a [u8], Output = T, Error = nom::error::Error<&'a [u8]>>,
    arguments: &'a [u8],
) -> Result<T, Mistake> {
    let trailing = take_while(|octet: u8| octet == b' ' || octet == b'\t');
    match all_consuming(terminated(parser, trailing)).parse(arguments) {
        Ok((_, output)) => Ok(output),
        Err(_) => Err(Mistake::Arguments),
    }
}

fn argument(input: &[u8]) -> Parsed<'_, MessageNumber> {
    preceded(blanks, map_opt(decimal::<u32>, MessageNumber::new)).parse(input)
}

fn blanks(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(|octet| octet == b' ').parse(input)
}

/// Digits alone: no sign, no hexadecimal, no other script's digits.
fn decimal<T: std::str::FromStr>(input: &[u8]) -> Parsed<'_, T> {
    map_opt(take_while1(|octet: u8| octet.is_ascii_digit()), |digits| {
        std::str::from_utf8(digits).ok()?.parse().ok()
    })
    .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, Mistake> {
        Command::parse(line.as_bytes())
    }

    fn n(number: u32) -> MessageNumber {
        MessageNumber::new(number).expect("not 0")
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[test]
    fn commands_as_clients_write_them() {
        for (line, command) in [
            ("CAPA", Command::Capa),
            ("capa ", Command::Capa),
            ("USER joe", Command::User(b"joe".to_vec())),
            ("user  joe doe ", Command::User(b"joe doe".to_vec())),
            ("PASS  a b ", Command::Pass(secret(" a b "))),
            ("PASS ", Command::Pass(secret(""))),
            ("AUTH", Command::AuthList),
            (
                "auth plain",
                Command::Auth {
                    mechanism: b"plain".to_vec(),
                    initial_response: None,
                },
            ),
            (
                "AUTH PLAIN  = ",
                Command::Auth {
                    mechanism: b"PLAIN".to_vec(),
                    initial_response: Some(secret("=")),
                },
            ),
            ("STLS", Command::Stls),
            ("UTF8", Command::Utf8),
            ("QUIT", Command::Quit),
            ("NOOP", Command::Noop),
            ("Stat", Command::Stat),
            ("LIST", Command::List(None)),
            ("LIST   3 ", Command::List(Some(n(3)))),
            ("RETR 007", Command::Retr(n(7))),
            ("DELE 4294967295", Command::Dele(n(u32::MAX))),
            ("RSET", Command::Rset),
            (
                "TOP 1 0",
                Command::Top {
                    number: n(1),
                    lines: 0,
                },
            ),
            (
                "TOP  1  99999999 ",
                Command::Top {
                    number: n(1),
                    lines: 99_999_999,
                },
            ),
            ("UIDL 2", Command::Uidl(Some(n(2)))),
            ("LAST", Command::Last),
        ] {
            assert_eq!(parse(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn mistakes() {
        for line in [
            "",
            " ",
            "XTND XLST Message-Id",
            "APOP joe 0123",
            "USERjoe",
            "RETR\t1",
            "\u{fc}",
        ] {
            assert_eq!(parse(line), Err(Mistake::Unknown), "{line}");
        }
        assert_eq!(parse("GET / HTTP/1.1"), Err(Mistake::ForeignProtocol));
        for line in [
            "USER",
            "USER  ",
            "PASS",
            "RETR",
            "RETR ",
            "RETR 0",
            "RETR -1",
            "RETR +1",
            "RETR 1x",
            "RETR 0x1",
            "RETR 1 2",
            "RETR 1:2",
            "RETR *",
            "RETR 4294967296",
            "RETR 99999999999999999999999999",
            "RETR ١",
            "LIST 1,2",
            "UIDL 0",
            "DELE",
            "TOP 1",
            "TOP 1 -1",
            "TOP 1 2 3",
            "STAT 1",
            "QUIT now",
            "AUTH A B C",
        ] {
            assert_eq!(parse(line), Err(Mistake::Arguments), "{line}");
        }
    }
}
