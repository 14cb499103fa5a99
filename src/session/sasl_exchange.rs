//! The challenges and responses of one AUTH. POP3 (RFC 5034 §4) and SMTP (RFC 4954 §4) share them but for
//! the line that asks.

use super::{Client, SessionEnd};
use crate::sasl::{self, Credential, Mechanism};
use crate::secret::Secret;

/// The challenges of LOGIN: `Username:` and `Password:`.
const LOGIN_CHALLENGES: [&str; 2] = ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"];

/// Octets of a response (RFC 4954 §4): a token of 12 kB passes (nginx/nginx#1590).
const RESPONSE_OCTETS_MAX: usize = 12 * 1024;

/// How a protocol asks for the next response.
pub(super) type Ask = fn(&mut Vec<u8>, &str);

/// What the client proves itself with; `None` when it cancelled, or broke the mechanism's grammar.
pub(super) async fn exchange(
    mechanism: Mechanism,
    initial_response: Option<Secret>,
    client: &mut Client,
    ask: Ask,
) -> Result<Option<Credential>, SessionEnd> {
    let first_challenge = match mechanism {
        Mechanism::Login => LOGIN_CHALLENGES[0],
        Mechanism::Plain | Mechanism::Xoauth2 | Mechanism::OauthBearer => "",
    };
    let first = match initial_response {
        // "=" is how an empty initial response is written.
        Some(response) if response.expose() == b"=" => Some(Secret::new(Vec::new())),
        Some(response) => sasl::decode(response.expose()).ok(),
        None => response_to(first_challenge, client, ask).await?,
    };
    let Some(first) = first else {
        return Ok(None);
    };
    if mechanism != Mechanism::Login {
        return Ok(Credential::from_response(mechanism, &first).ok());
    }
    let Some(password) = response_to(LOGIN_CHALLENGES[1], client, ask).await? else {
        return Ok(None);
    };
    Ok(Credential::password(first.expose(), password).ok())
}

async fn response_to(
    challenge: &str,
    client: &mut Client,
    ask: Ask,
) -> Result<Option<Secret>, SessionEnd> {
    ask(client.lines.output(), challenge);
    let line = client.lines.line(RESPONSE_OCTETS_MAX).await?;
    match line.trim_ascii() {
        b"*" => Ok(None),
        response => Ok(sasl::decode(response).ok()),
    }
}
