//! What a client proves itself with, and what is made of it for the upstream: the same, or nothing.
//!
//! The input: a letter for the mechanism (`p`lain, `x`oauth2, `o`authbearer, `l`ogin), then the message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate::sasl::{self, Credential, Mechanism, Proof};
use popgate::secret::Secret;

fuzz_target!(|input: &[u8]| {
    let Some((letter, message)) = input.split_first() else {
        return;
    };
    check_base64(message);
    let credential = match letter {
        b'p' => from_response(Mechanism::Plain, message),
        b'x' => from_response(Mechanism::Xoauth2, message),
        b'o' => from_response(Mechanism::OauthBearer, message),
        _ => {
            let blank = message.iter().position(|octet| *octet == b' ');
            let (login, password) = message.split_at(blank.unwrap_or(message.len()));
            Credential::password(login, Secret::new(password.to_vec())).ok()
        }
    };
    if let Some(credential) = credential {
        check_harmless(&credential);
        check_passed_on(&credential);
    }
});

fn check_base64(message: &[u8]) {
    let encoded = sasl::encode(message);
    let decoded = sasl::decode(encoded.expose()).expect("our own base64");
    assert_eq!(decoded.expose(), message);
    // There is one spelling of each message (RFC 4648 §3.5), so no two responses mean the same.
    if let Ok(decoded) = sasl::decode(message) {
        assert_eq!(sasl::encode(decoded.expose()).expose(), message);
    }
}

fn check_harmless(credential: &Credential) {
    let (Proof::Password(secret) | Proof::BearerToken(secret)) = credential.proof();
    let authorize_as = credential.authorize_as().unwrap_or_default();
    for text in [credential.login(), authorize_as, secret.expose()] {
        assert!(!text.iter().any(|octet| matches!(octet, 0 | b'\r' | b'\n')));
    }
    assert!(!credential.login().is_empty());
}

/// In whichever mechanism it is passed on, the upstream understands what we understood.
fn check_passed_on(credential: &Credential) {
    let mechanisms: &[Mechanism] = match credential.proof() {
        Proof::Password(_) => &[Mechanism::Plain],
        Proof::BearerToken(_) => &[Mechanism::Xoauth2, Mechanism::OauthBearer],
    };
    for mechanism in mechanisms {
        let response = credential
            .response(*mechanism, "imap.example.com", 993)
            .expect("a mechanism of one response");
        let message = sasl::decode(response.expose()).expect("our own base64");
        assert_eq!(
            from_response(*mechanism, message.expose()).as_ref(),
            Some(credential),
            "{mechanism:?} of {:?}",
            message.expose().escape_ascii().to_string()
        );
    }
}

fn from_response(mechanism: Mechanism, message: &[u8]) -> Option<Credential> {
    Credential::from_response(mechanism, &Secret::new(message.to_vec())).ok()
}
