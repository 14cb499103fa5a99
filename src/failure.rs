//! [`Failure`]: everything that can go wrong upstream or with us, and the one table that says what a
//! client is told, what is counted, and how loud the log is.
//!
//! Clients get fixed texts; the cause goes into the log.

use std::fmt::{self, Write};

use tracing::Level;

use crate::imap::Garbled;
use crate::line_stream::LineError;
use crate::pop3::reply::{self, ResponseCode};
use crate::smtp;

/// A kind of failure, and what is known of its cause.
#[derive(Debug)]
pub struct Failure {
    /// Decides what everybody is told.
    pub kind: FailureKind,
    /// For the log: ours, with text of the upstream escaped.
    pub cause: String,
}

/// Whose side it is on, then what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The upstream refused the credential.
    AuthRejected,
    /// The upstream could not decide about the credential just now.
    AuthUnavailable,
    /// Somebody else has the maildrop, and it cannot be shared.
    MaildropInUse,
    /// The same credential was accepted a moment ago, and `pop3.login_delay` forbids that.
    LoginTooSoon,
    /// Too many wrong passwords came from this address.
    TooManyGuesses,
    /// DNS, connect, TLS, or a greeting of BYE.
    UpstreamUnreachable,
    /// EOF, reset, BYE or silence in mid-session.
    UpstreamLost,
    /// The upstream broke the grammar.
    UpstreamGarbled,
    /// NO to a sound command.
    UpstreamRefused,
    /// BAD: the upstream says that we broke the grammar.
    OurMistake,
    /// No common mechanism, a bad certificate, a folder that is not there.
    Misconfigured,
    /// One of our own limits is reached.
    Overloaded,
    /// We are draining.
    ShuttingDown,
}

/// One row of the table.
struct Row {
    code: ResponseCode,
    /// The code and the enhanced code of SMTP: 4yz, so that a message stays in the outbox, unless the
    /// user has to act.
    smtp: (u16, &'static str),
    text: &'static str,
    label: &'static str,
    level: Level,
}

impl FailureKind {
    /// All of them, for metrics that start at zero.
    pub const ALL: [Self; 13] = [
        Self::AuthRejected,
        Self::AuthUnavailable,
        Self::MaildropInUse,
        Self::LoginTooSoon,
        Self::TooManyGuesses,
        Self::UpstreamUnreachable,
        Self::UpstreamLost,
        Self::UpstreamGarbled,
        Self::UpstreamRefused,
        Self::OurMistake,
        Self::Misconfigured,
        Self::Overloaded,
        Self::ShuttingDown,
    ];

    #[rustfmt::skip]
    fn row(self) -> Row {
        use ResponseCode::{Auth, InUse, LoginDelay, SysPerm, SysTemp};
        let row = |code, smtp, text, label, level| Row { code, smtp, text, label, level };
        match self {
            Self::AuthRejected => row(Auth, (535, "5.7.8"), "the mail server refused this login", "auth_rejected", Level::INFO),
            Self::AuthUnavailable => row(SysTemp, (454, "4.7.0"), "the mail server cannot check logins now; try again later", "auth_unavailable", Level::WARN),
            Self::MaildropInUse => row(InUse, (451, "4.3.0"), "the maildrop is open in another session", "maildrop_in_use", Level::INFO),
            Self::LoginTooSoon => row(LoginDelay, (451, "4.7.0"), "too soon after the last login; try again later", "login_too_soon", Level::INFO),
            Self::TooManyGuesses => row(SysTemp, (454, "4.7.0"), "too many wrong passwords; try again later", "too_many_guesses", Level::INFO),
            Self::UpstreamUnreachable => row(SysTemp, (451, "4.4.1"), "the mail server cannot be reached; try again later", "upstream_unreachable", Level::WARN),
            Self::UpstreamLost => row(SysTemp, (451, "4.4.2"), "the connection to the mail server was lost; try again later", "upstream_lost", Level::WARN),
            Self::UpstreamGarbled => row(SysTemp, (451, "4.3.0"), "the mail server sent something incomprehensible", "upstream_garbled", Level::ERROR),
            Self::UpstreamRefused => row(SysTemp, (451, "4.3.0"), "the mail server refused; try again later", "upstream_refused", Level::WARN),
            Self::OurMistake => row(SysPerm, (451, "4.3.5"), "the mail server did not understand this gateway", "our_mistake", Level::ERROR),
            Self::Misconfigured => row(SysPerm, (451, "4.3.5"), "this gateway is not set up for this login; tell its operator", "misconfigured", Level::ERROR),
            Self::Overloaded => row(SysTemp, (421, "4.3.2"), "too many connections; try again later", "overloaded", Level::WARN),
            Self::ShuttingDown => row(SysTemp, (421, "4.3.2"), "the gateway is restarting; try again later", "shutting_down", Level::INFO),
        }
    }

    /// The metric label.
    pub fn label(self) -> &'static str {
        self.row().label
    }

    /// How loud the log is about it.
    pub fn level(self) -> Level {
        self.row().level
    }

    /// Appends the POP3 reply; `reference` is what the client's user can quote to the operator.
    pub fn reply(self, out: &mut Vec<u8>, reference: impl fmt::Display) {
        let row = self.row();
        reply::err_with(out, row.code, format_args!("{} ({reference})", row.text));
    }

    /// Appends the SMTP reply, likewise.
    pub fn smtp_reply(self, out: &mut Vec<u8>, reference: impl fmt::Display) {
        let row = self.row();
        let (code, enhanced) = row.smtp;
        smtp::reply::say(
            out,
            code,
            enhanced,
            format_args!("{} ({reference})", row.text),
        );
    }

    /// Whether the SMTP reply says that the connection ends (RFC 5321 §3.8).
    pub fn closes_smtp(self) -> bool {
        self.row().smtp.0 == 421
    }

    /// Whether the upstream connection can still be used after it.
    pub fn leaves_upstream_usable(self) -> bool {
        matches!(
            self,
            Self::UpstreamRefused | Self::OurMistake | Self::Misconfigured
        )
    }

    /// A failure of this kind.
    pub fn because(self, cause: impl Into<String>) -> Failure {
        Failure {
            kind: self,
            cause: cause.into(),
        }
    }
}

/// On one line, and without what a terminal obeys: others have a say in what libraries tell, such as whoever
/// made the certificate that names a host.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.label())?;
        self.cause.chars().try_for_each(|letter| match letter {
            // Where these are, something may be quoted or escaped already.
            '"' | '\'' | '\\' => f.write_char(letter),
            _ => write!(f, "{}", letter.escape_debug()),
        })
    }
}

impl From<Garbled> for Failure {
    fn from(Garbled(what): Garbled) -> Self {
        FailureKind::UpstreamGarbled.because(what)
    }
}

impl From<smtp::Garbled> for Failure {
    fn from(smtp::Garbled(what): smtp::Garbled) -> Self {
        FailureKind::UpstreamGarbled.because(what)
    }
}

impl std::error::Error for Failure {}

/// For a connection to the upstream that was in use.
impl From<LineError> for Failure {
    fn from(error: LineError) -> Self {
        match error {
            LineError::Closed => {
                FailureKind::UpstreamLost.because("the upstream closed the connection")
            }
            LineError::Stalled => {
                FailureKind::UpstreamLost.because("the upstream was silent for timeouts.upstream")
            }
            LineError::Transport(error) => FailureKind::UpstreamLost.because(error.to_string()),
            LineError::TooLong => {
                FailureKind::UpstreamGarbled.because("the upstream sent an endless line")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_is_said_only_of_a_refused_credential() {
        for kind in FailureKind::ALL {
            let mut out = Vec::new();
            kind.reply(&mut out, "7f3a");
            let reply = String::from_utf8(out).expect("ours");
            assert_eq!(
                reply.contains("[AUTH]"),
                kind == FailureKind::AuthRejected,
                "{reply}"
            );
            assert!(
                reply.len() <= 512 && reply.ends_with(" (7f3a)\r\n"),
                "{reply}"
            );
        }
    }

    #[test]
    fn a_cause_is_one_line_of_the_log_whoever_wrote_it() {
        let cause =
            "imap.example.com: \"x\r\n2026-01-01 INFO forged\x1b[2J\u{9b}\u{2028}\u{202e}\\0\"";
        let told = FailureKind::Misconfigured.because(cause).to_string();
        let expected = "misconfigured: imap.example.com: \"x\\r\\n2026-01-01 INFO forged\\u{1b}[2J\\u{9b}\\u{2028}\\u{202e}\\0\"";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_message_stays_in_the_outbox_unless_the_credential_is_refused() {
        for kind in FailureKind::ALL {
            let mut out = Vec::new();
            kind.smtp_reply(&mut out, "7f3a");
            let reply = String::from_utf8(out).expect("ours");
            let class = match kind {
                FailureKind::AuthRejected => "5",
                _ => "4",
            };
            let (code, enhanced) = (&reply[..1], &reply[4..5]);
            assert_eq!((code, enhanced), (class, class), "{reply}");
            assert_eq!(reply.starts_with("421 "), kind.closes_smtp(), "{reply}");
        }
    }
}
