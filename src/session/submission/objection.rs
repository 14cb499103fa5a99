//! Why a MAIL or RCPT is not passed on.

use super::{Session, content};
use crate::smtp::envelope::{
    ForwardPath, Need, Parameter, ParameterMistake, Parameters, ReversePath, decimal, need_of_mail,
    need_of_rcpt,
};
use crate::smtp::extension::Extension;

/// Code, enhanced code, text.
pub(super) type Objection = (u16, &'static str, &'static str);

/// To a command of a transaction that was lost with the upstream; the cause has been told before.
pub(super) const LOST: Objection = (
    451,
    "4.4.2",
    "the connection to the mail server was lost; try again later",
);

/// To one of a transaction whose message was refused for now, or whose client could not be logged in for now.
pub(super) const POSTPONED: Objection = (
    451,
    "4.5.0",
    "this message cannot be sent now; try again later",
);

/// To one of a transaction whose message was refused.
pub(super) const REFUSED: Objection = (
    503,
    "5.5.1",
    "this message was refused; begin again with MAIL",
);

/// What is to be said to the rest of a message that was refused in these words.
pub(super) fn to_more(words: &[u8]) -> Objection {
    match words.starts_with(b"4") {
        true => POSTPONED,
        false => REFUSED,
    }
}

const UTF8_UNANNOUNCED: Objection = (553, "5.6.7", "that address needs SMTPUTF8");

const UNSUPPORTED_PARAMETER: Objection = (555, "5.5.4", "a parameter that is not supported here");

const WRONG_VALUE: Objection = (501, "5.5.4", "a parameter with a wrong value");

/// What there is against MAIL.
pub(super) fn to_mail(
    from: &ReversePath,
    parameters: &Parameters,
    session: &Session<'_>,
) -> Option<Objection> {
    let is_utf8 = parameters.find("SMTPUTF8").is_some();
    let needs = |parameter: &Parameter| to_parameter(parameter, need_of_mail, is_utf8, session);
    if let Some(objection) = parameters.iter().find_map(needs) {
        return Some(objection);
    }
    let octets = parameters.find("SIZE").and_then(Parameter::value);
    if octets.and_then(decimal) > Some(session.logged_in.message_octets_max(session.gateway)) {
        return Some(content::TOO_LARGE);
    }
    let mailbox = from.mailbox()?;
    if !mailbox.is_ascii() && !is_utf8 {
        return Some(UTF8_UNANNOUNCED);
    }
    let policy = &session.logged_in.upstream.settings().sender;
    match policy.permits(
        mailbox.as_bytes(),
        session.logged_in.credential.mailbox_owner(),
    ) {
        true => None,
        false => Some((550, "5.7.1", "this login may not send as that sender")),
    }
}

/// What there is against RCPT.
pub(super) fn to_rcpt(
    to: &ForwardPath,
    parameters: &Parameters,
    is_utf8: bool,
    session: &Session<'_>,
) -> Option<Objection> {
    if !is_utf8 && !to.mailbox().is_ascii() {
        return Some(UTF8_UNANNOUNCED);
    }
    let needs = |parameter: &Parameter| to_parameter(parameter, need_of_rcpt, is_utf8, session);
    parameters.iter().find_map(needs)
}

fn to_parameter(
    parameter: &Parameter,
    need_of: fn(&Parameter) -> Result<Need, ParameterMistake>,
    is_utf8: bool,
    session: &Session<'_>,
) -> Option<Objection> {
    match need_of(parameter) {
        Err(ParameterMistake::Unknown) => Some(UNSUPPORTED_PARAMETER),
        Err(ParameterMistake::Value) => Some(WRONG_VALUE),
        Ok(_) if !is_utf8 && !parameter.is_ascii() => Some(WRONG_VALUE),
        // We announce SIZE ourselves.
        Ok(Need::Extension(Extension::Size) | Need::Nothing | Need::NotForUpstreams) => None,
        Ok(Need::Extension(extension)) => match session.logged_in.can(extension, session.client) {
            true => None,
            false => Some(UNSUPPORTED_PARAMETER),
        },
    }
}
