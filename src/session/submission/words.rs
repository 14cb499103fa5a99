//! The upstream's words, as the client hears them.

use super::LoggedIn;
use crate::smtp::reply::Reply;

/// A reply of the upstream for the client. That the one closes its connection does not close the other's.
pub(super) fn of(reply: &Reply, logged_in: &LoggedIn) -> Vec<u8> {
    let mut words = Vec::new();
    let code = match reply.code {
        421 => 451,
        code => code,
    };
    match is_fit_for_client(reply, logged_in) {
        true => reply.pass_on(code, &mut words),
        false => reply.pass_on_codes(code, &mut words),
    }
    words
}

/// Who sends without a password of its own must not find out the one it sends with: neither read it in a
/// text, nor see from a text that is withheld that the guess which it made the upstream repeat, as an
/// address, is part of it. So it gets none at all.
fn is_fit_for_client(reply: &Reply, logged_in: &LoggedIn) -> bool {
    let connection = logged_in.connection.as_ref();
    logged_in.by_auth && connection.is_none_or(|connection| !connection.repeats_credential(reply))
}
