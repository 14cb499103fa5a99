//! Commands: [`Command::parse`] understands one line of a client; [`write_mail`] and [`write_rcpt`] say
//! to an upstream what a client has said, with nothing in it that could become a second command.

use super::envelope::{self, ForwardPath, Mailbox, Parameter, Parameters, ReversePath, decimal};
use crate::secret::Secret;

/// Octets of a line before login, and of every line of an AUTH exchange (RFC 4954 §4).
pub const AUTHENTICATION_LINE_OCTETS_MAX: usize = 12_288;

/// Octets of a command after login: RFC 5321 §4.5.3.1.4 asks for 512, and its extensions for 1,500 more.
pub const COMMAND_LINE_OCTETS_MAX: usize = 4096;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the RFCs' own names")]
pub enum Command {
    /// How the client calls itself, which proves nothing.
    Ehlo(Vec<u8>),
    Helo(Vec<u8>),
    StartTls,
    Auth {
        /// As typed.
        mechanism: Vec<u8>,
        /// In base64 as typed; `=` stands for an empty one (RFC 4954 §4).
        initial_response: Option<Secret>,
    },
    Mail(ReversePath, Parameters),
    Rcpt(ForwardPath, Parameters),
    Data,
    Bdat {
        /// Of the chunk that follows.
        octets: u64,
        is_last: bool,
    },
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
}

/// What was wrong with a line, told to the client in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// No such command.
    Unknown,
    /// A command of SMTP that a submission service has no use for.
    NotImplemented,
    /// A known command with arguments that it does not take.
    Arguments,
    /// BDAT of which nobody knows how many octets follow: what comes next is not to be understood.
    Bdat,
    /// A request of HTTP: somebody uses a browser to reach us.
    ForeignProtocol,
}

/// The closed set of commands, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the RFCs' own names")]
pub enum CommandName {
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    Unknown,
}

impl CommandName {
    /// All of them, for metrics that start at zero.
    pub const ALL: [Self; 14] = [
        Self::Ehlo,
        Self::Helo,
        Self::StartTls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Bdat,
        Self::Rset,
        Self::Noop,
        Self::Vrfy,
        Self::Help,
        Self::Quit,
        Self::Unknown,
    ];

    /// In lower case, for labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ehlo => "ehlo",
            Self::Helo => "helo",
            Self::StartTls => "starttls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Bdat => "bdat",
            Self::Rset => "rset",
            Self::Noop => "noop",
            Self::Vrfy => "vrfy",
            Self::Help => "help",
            Self::Quit => "quit",
            Self::Unknown => "unknown",
        }
    }
}

impl Command {
    /// Understands one line without its line end: commands in any case, several blanks and trailing
    /// ones tolerated, as well as what [`envelope`] says of paths.
    ///
    /// # Errors
    /// A [`Mistake`] to be told to the client; nothing of the line may be passed on.
    pub fn parse(line: &[u8]) -> Result<Self, Mistake> {
        let verb_end = line
            .iter()
            .position(|octet| matches!(octet, b' ' | b'\t'))
            .unwrap_or(line.len());
        let (verb, arguments) = line.split_at(verb_end);
        match verb.to_ascii_uppercase().as_slice() {
            b"EHLO" => name(arguments).map(Self::Ehlo),
            b"HELO" => name(arguments).map(Self::Helo),
            b"STARTTLS" => none(arguments, Self::StartTls),
            b"AUTH" => auth(arguments),
            b"MAIL" => behind(arguments, b"FROM:")
                .and_then(envelope::reverse_path)
                .map(|(path, parameters)| Self::Mail(path, parameters))
                .ok_or(Mistake::Arguments),
            b"RCPT" => behind(arguments, b"TO:")
                .and_then(envelope::forward_path)
                .map(|(path, parameters)| Self::Rcpt(path, parameters))
                .ok_or(Mistake::Arguments),
            b"DATA" => none(arguments, Self::Data),
            b"BDAT" => bdat(arguments).ok_or(Mistake::Bdat),
            b"RSET" => none(arguments, Self::Rset),
            b"NOOP" => Ok(Self::Noop),
            b"VRFY" => Ok(Self::Vrfy),
            b"HELP" => Ok(Self::Help),
            b"QUIT" => none(arguments, Self::Quit),
            b"EXPN" | b"TURN" | b"ETRN" | b"SEND" | b"SOML" | b"SAML" | b"BURL" | b"XCLIENT"
            | b"XFORWARD" => Err(Mistake::NotImplemented),
            b"GET" | b"POST" | b"PUT" | b"HEAD" | b"OPTIONS" | b"CONNECT" | b"DELETE"
            | b"PATCH" | b"TRACE" => Err(Mistake::ForeignProtocol),
            _ => Err(Mistake::Unknown),
        }
    }

    /// Which command it is.
    pub fn name(&self) -> CommandName {
        match self {
            Self::Ehlo(_) => CommandName::Ehlo,
            Self::Helo(_) => CommandName::Helo,
            Self::StartTls => CommandName::StartTls,
            Self::Auth { .. } => CommandName::Auth,
            Self::Mail(..) => CommandName::Mail,
            Self::Rcpt(..) => CommandName::Rcpt,
            Self::Data => CommandName::Data,
            Self::Bdat { .. } => CommandName::Bdat,
            Self::Rset => CommandName::Rset,
            Self::Noop => CommandName::Noop,
            Self::Vrfy => CommandName::Vrfy,
            Self::Help => CommandName::Help,
            Self::Quit => CommandName::Quit,
        }
    }
}

/// Appends `MAIL FROM:<…>` with these parameters.
pub fn write_mail<'a>(
    from: &ReversePath,
    parameters: impl Iterator<Item = &'a Parameter>,
    out: &mut Vec<u8>,
) {
    let mailbox = from.mailbox().map_or(&b""[..], Mailbox::as_bytes);
    write_path(b"MAIL FROM:<", mailbox, parameters, out);
}

/// Appends `RCPT TO:<…>` with these parameters.
pub fn write_rcpt<'a>(
    to: &ForwardPath,
    parameters: impl Iterator<Item = &'a Parameter>,
    out: &mut Vec<u8>,
) {
    write_path(b"RCPT TO:<", to.mailbox().as_bytes(), parameters, out);
}

fn write_path<'a>(
    verb: &[u8],
    mailbox: &[u8],
    parameters: impl Iterator<Item = &'a Parameter>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(verb);
    out.extend_from_slice(mailbox);
    out.push(b'>');
    for parameter in parameters {
        out.push(b' ');
        parameter.write(out);
    }
    out.extend_from_slice(b"\r\n");
}

fn none(arguments: &[u8], command: Command) -> Result<Command, Mistake> {
    match arguments.trim_ascii().is_empty() {
        true => Ok(command),
        false => Err(Mistake::Arguments),
    }
}

/// Anything that is one word: devices say names with underscores, and addresses without brackets.
fn name(arguments: &[u8]) -> Result<Vec<u8>, Mistake> {
    let name = arguments.trim_ascii();
    match !name.is_empty() && name.iter().all(u8::is_ascii_graphic) {
        true => Ok(name.to_vec()),
        false => Err(Mistake::Arguments),
    }
}

/// `AUTH mechanism [initial-response]` (RFC 4954 §4)
fn auth(arguments: &[u8]) -> Result<Command, Mistake> {
    let mut words = words(arguments);
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial_response, None) => Ok(Command::Auth {
            mechanism: mechanism.to_vec(),
            initial_response: initial_response.map(|response| Secret::new(response.to_vec())),
        }),
        _ => Err(Mistake::Arguments),
    }
}

/// `BDAT chunk-size [SP "LAST"]` (RFC 3030 §2)
fn bdat(arguments: &[u8]) -> Option<Command> {
    let mut words = words(arguments);
    let octets = decimal(words.next()?)?;
    let is_last = match words.next() {
        None => false,
        Some(last) => last.eq_ignore_ascii_case(b"LAST").then_some(true)?,
    };
    let is_all = words.next().is_none();
    is_all.then_some(Command::Bdat { octets, is_last })
}

/// What follows a keyword that a colon ends, in any case.
fn behind<'a>(arguments: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = arguments
        .trim_ascii_start()
        .split_at_checked(keyword.len())?;
    found.eq_ignore_ascii_case(keyword).then_some(rest)
}

fn words(arguments: &[u8]) -> impl Iterator<Item = &[u8]> {
    arguments
        .split(|octet| matches!(octet, b' ' | b'\t'))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, Mistake> {
        Command::parse(line.as_bytes())
    }

    fn auth(mechanism: &str, initial_response: Option<&str>) -> Command {
        Command::Auth {
            mechanism: mechanism.as_bytes().to_vec(),
            initial_response: initial_response.map(|text| Secret::new(text.as_bytes().to_vec())),
        }
    }

    #[test]
    fn commands_as_clients_write_them() {
        for (line, command) in [
            (
                "EHLO mail.example.org",
                Command::Ehlo(b"mail.example.org".to_vec()),
            ),
            ("ehlo  KM_C250i ", Command::Ehlo(b"KM_C250i".to_vec())),
            ("HELO 192.168.7.9", Command::Helo(b"192.168.7.9".to_vec())),
            ("STARTTLS", Command::StartTls),
            ("auth login", auth("login", None)),
            ("AUTH PLAIN  =", auth("PLAIN", Some("="))),
            ("DATA ", Command::Data),
            (
                "BDAT 0 last",
                Command::Bdat {
                    octets: 0,
                    is_last: true,
                },
            ),
            (
                "bdat  86 ",
                Command::Bdat {
                    octets: 86,
                    is_last: false,
                },
            ),
            ("RSET", Command::Rset),
            ("NOOP whatever", Command::Noop),
            ("VRFY joe", Command::Vrfy),
            ("HELP MAIL", Command::Help),
            ("quit", Command::Quit),
        ] {
            assert_eq!(parse(line), Ok(command), "{line}");
        }
        for line in [
            "MAIL FROM:<joe@example.org> SIZE=10",
            "mail from: <joe@example.org> size=10",
            "MAIL FROM:joe@example.org SIZE=10",
            "MAIL  From: joe@example.org  SIZE=10 ",
        ] {
            let Ok(Command::Mail(path, parameters)) = parse(line) else {
                panic!("{line}");
            };
            let mailbox = path.mailbox().expect(line).as_bytes();
            assert_eq!(mailbox, b"joe@example.org", "{line}");
            let size = parameters.find("SIZE").expect(line);
            assert_eq!(size.value(), Some(&b"10"[..]), "{line}");
        }
    }

    #[test]
    fn mistakes() {
        for (lines, mistake) in [
            (
                &["", " ", "STAT", "MAILFROM:<x>", "XYZZY", "\u{fc}"][..],
                Mistake::Unknown,
            ),
            (
                &["ETRN x", "xclient ADDR=1.2.3.4", "EXPN list"],
                Mistake::NotImplemented,
            ),
            (&["GET / HTTP/1.1"], Mistake::ForeignProtocol),
            (
                &[
                    "BDAT",
                    "BDAT x",
                    "BDAT -1",
                    "BDAT 1 2",
                    "BDAT 1 LAST x",
                    "BDAT +1",
                ],
                Mistake::Bdat,
            ),
            (
                &[
                    "EHLO",
                    "EHLO a b",
                    "HELO \u{fc}",
                    "STARTTLS now",
                    "AUTH",
                    "AUTH PLAIN a b",
                    "MAIL",
                    "MAIL FROM",
                    "MAIL FROM:",
                    "MAIL FROM <joe@example.org>",
                    "MAIL TO:<joe@example.org>",
                    "RCPT TO:<>",
                    "RCPT FROM:<joe@example.org>",
                    "DATA x",
                    "RSET x",
                    "QUIT now",
                ],
                Mistake::Arguments,
            ),
        ] {
            for line in lines {
                assert_eq!(parse(line), Err(mistake), "{line}");
            }
        }
    }
}
