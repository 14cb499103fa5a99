//! Whatever is in a login, a password or a mailbox name, the upstream reads exactly one command.
//!
//! The input: a digit for the kind of literals, then login, password and mailbox, parted by NUL.
#![no_main]

use imap_codec::CommandCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::command::CommandBody;
use imap_codec::imap_types::core::AString;
use imap_codec::imap_types::mailbox::Mailbox;
use libfuzzer_sys::fuzz_target;
use popgate::imap::capability::{Capabilities, Capability};
use popgate::imap::command::{Command, Literals};
use popgate::imap::ids::{Uid, UidSet};
use popgate::imap::mailbox_name::MailboxName;
use popgate::imap::response::Tag;
use popgate::sasl::{Credential, Mechanism};
use popgate::secret::Secret;

fuzz_target!(|input: &[u8]| {
    let Some((digit, texts)) = input.split_first() else {
        return;
    };
    let literals = match digit {
        b'0' => Literals::Synchronizing,
        b'1' => Literals::Minus,
        _ => Literals::Plus,
    };
    let mut texts = texts.splitn(3, |octet| *octet == 0);
    let (Some(login), Some(password), Some(mailbox)) = (texts.next(), texts.next(), texts.next())
    else {
        return;
    };
    check_login(login, password, literals);
    check_authenticate(login, password);
    if !mailbox.contains(&0) {
        check_mailbox(&MailboxName::from_wire(mailbox.to_vec()), literals);
    }
    if let Ok(name) = std::str::from_utf8(mailbox) {
        check_encoded(name, literals);
    }
});

fn check_login(login: &[u8], password: &[u8], literals: Literals) {
    let secret = Secret::new(password.to_vec());
    let command = Command::login(login, &secret, literals);
    decoded(&command, |body| match body {
        CommandBody::Login {
            username,
            password: read,
        } => {
            assert_eq!(octets(username), login);
            assert_eq!(octets(read.declassify()), password);
        }
        other => panic!("{other:?}"),
    });
}

fn check_authenticate(login: &[u8], password: &[u8]) {
    let Ok(credential) = Credential::password(login, Secret::new(password.to_vec())) else {
        return;
    };
    let response = credential.response(Mechanism::Plain, "imap.example.com", 993);
    let command = Command::authenticate("PLAIN", response.as_ref());
    let message = [b"\0", login, b"\0", password].concat();
    decoded(&command, |body| match body {
        CommandBody::Authenticate {
            initial_response: Some(read),
            ..
        } => assert_eq!(read.declassify().as_ref(), message),
        other => panic!("{other:?}"),
    });
}

fn check_mailbox(mailbox: &MailboxName, literals: Literals) {
    let named = |read: &Mailbox<'_>| match read {
        Mailbox::Inbox => assert!(mailbox.as_bytes().eq_ignore_ascii_case(b"INBOX")),
        Mailbox::Other(other) => assert_eq!(other.as_ref(), mailbox.as_bytes()),
    };
    let set: UidSet = [1, 2, 9].into_iter().filter_map(Uid::new).collect();
    for command in [
        Command::select(mailbox, capable(literals)),
        Command::create(mailbox, literals),
        Command::copy(&set, mailbox, literals),
        Command::move_to(&set, mailbox, literals),
    ] {
        decoded(&command, |body| match body {
            CommandBody::Select { mailbox, .. } | CommandBody::Create { mailbox } => named(mailbox),
            CommandBody::Copy {
                mailbox,
                uid: true,
                sequence_set,
            }
            | CommandBody::Move {
                mailbox,
                uid: true,
                sequence_set,
            } => {
                named(mailbox);
                assert_eq!(sequence_set.0.as_ref().len(), 2);
            }
            other => panic!("{other:?}"),
        });
    }
}

/// Of an upstream that takes such literals.
fn capable(literals: Literals) -> Capabilities {
    let mut capabilities = Capabilities::default();
    match literals {
        Literals::Synchronizing => {}
        Literals::Minus => capabilities.insert(Capability::LiteralMinus),
        Literals::Plus => capabilities.insert(Capability::LiteralPlus),
    }
    capabilities
}

fn check_encoded(name: &str, literals: Literals) {
    if name.contains('\0') {
        return;
    }
    // The one name that has no case of its own (RFC 3501 §5.1).
    let name = match name.eq_ignore_ascii_case("INBOX") {
        true => "INBOX",
        false => name,
    };
    let as_is = MailboxName::encode(name, true);
    assert_eq!(as_is.as_bytes(), name.as_bytes());
    let encoded = MailboxName::encode(name, false);
    assert!(
        encoded
            .as_bytes()
            .iter()
            .all(|octet| matches!(octet, b' '..=b'~'))
    );
    assert_eq!(utf7_undone(encoded.as_bytes()).as_deref(), Some(name));
    check_mailbox(&encoded, literals);
}

/// The upstream's reading, part by part, as it would come over the wire.
fn decoded(command: &Command, check: impl FnOnce(&CommandBody<'_>)) {
    let parts: Vec<Vec<u8>> = command.parts(Tag(7)).map(|part| part.to_vec()).collect();
    let (last, before) = parts.split_last().expect("at least one part");
    for part in before {
        assert!(part.ends_with(b"}\r\n"), "a pause behind something else");
    }
    assert!(last.ends_with(b"\r\n"));
    let wire = parts.concat();
    let shown = || wire.escape_ascii().to_string();
    match CommandCodec::default().decode(&wire) {
        Ok((b"", command)) => {
            assert_eq!(command.tag.as_ref(), "g7");
            check(&command.body);
        }
        Ok((rest, _)) => panic!("{} octets too many in {}", rest.len(), shown()),
        Err(error) => panic!("{error:?} of {}", shown()),
    }
}

fn octets<'a>(text: &'a AString<'a>) -> &'a [u8] {
    text.as_ref()
}

/// RFC 3501 §5.1.3 the other way, bit by bit.
fn utf7_undone(encoded: &[u8]) -> Option<String> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";
    let mut name = String::new();
    let mut rest = encoded;
    while let Some((octet, after)) = rest.split_first() {
        rest = after;
        if *octet != b'&' {
            name.push(char::from(*octet));
            continue;
        }
        let dash = rest.iter().position(|octet| *octet == b'-')?;
        let (shifted, after) = rest.split_at(dash);
        rest = &after[1..];
        if shifted.is_empty() {
            name.push('&');
            continue;
        }
        let mut bits = Vec::new();
        for digit in shifted {
            let value = DIGITS.iter().position(|known| known == digit)?;
            bits.extend((0..6).rev().map(|bit| (value >> bit) & 1));
        }
        let (units, padding) = bits.as_chunks::<16>();
        if padding.len() >= 6 || padding.contains(&1) {
            return None;
        }
        let units = units
            .iter()
            .map(|bits| bits.iter().fold(0u16, |unit, bit| unit << 1 | *bit as u16));
        name.extend(
            char::decode_utf16(units)
                .collect::<Result<Vec<_>, _>>()
                .ok()?,
        );
    }
    Some(name)
}
