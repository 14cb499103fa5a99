//! [`MailboxName`]: modified UTF-7 (RFC 3501 §5.1.3), or UTF-8 where that is spoken.

use super::capability::{Capabilities, Capability};

/// A mailbox name as the wire has it: modified UTF-7 (RFC 3501 §5.1.3), or UTF-8 once that is enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxName(Vec<u8>);

impl MailboxName {
    /// A name that the upstream itself sent.
    pub fn from_wire(name: Vec<u8>) -> Self {
        // The one name that is compared without regard to case (RFC 3501 §5.1).
        match name.eq_ignore_ascii_case(b"INBOX") {
            true => Self(b"INBOX".to_vec()),
            false => Self(name),
        }
    }

    /// A name from the config as an upstream with these capabilities spells it, once UTF-8 has been
    /// enabled or not.
    pub fn spelt_at(capabilities: Capabilities, name: &str, utf8: bool) -> Self {
        let only_rev2 =
            capabilities.has(Capability::Imap4Rev2) && !capabilities.has(Capability::Imap4Rev1);
        Self::encode(name, utf8 || only_rev2)
    }

    /// A name from the config.
    pub fn encode(name: &str, utf8: bool) -> Self {
        Self::from_wire(match utf8 {
            true => name.as_bytes().to_vec(),
            false => modified_utf7(name),
        })
    }

    /// The octets on the wire, before quoting.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// RFC 3501 §5.1.3: base64 of UTF-16 with `,` for `/` and no padding, between `&` and `-`.
fn modified_utf7(name: &str) -> Vec<u8> {
    use base64::Engine;
    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD;
    let mut encoded = Vec::with_capacity(name.len());
    let mut shifted: Vec<u8> = Vec::new();
    let shift_out = |shifted: &mut Vec<u8>, encoded: &mut Vec<u8>| {
        if !shifted.is_empty() {
            let run = base64.encode(std::mem::take(shifted)).replace('/', ",");
            encoded.extend_from_slice(format!("&{run}-").as_bytes());
        }
    };
    for character in name.chars() {
        match character {
            ' '..='~' => {
                shift_out(&mut shifted, &mut encoded);
                encoded.push(character as u8);
                if character == '&' {
                    encoded.push(b'-');
                }
            }
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    shifted.extend_from_slice(&unit.to_be_bytes());
                }
            }
        }
    }
    shift_out(&mut shifted, &mut encoded);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailbox_names_in_modified_utf7() {
        for (name, encoded) in [
            ("INBOX", "INBOX"),
            ("a&b", "a&-b"),
            ("Entwürfe", "Entw&APw-rfe"),
            ("台北日本語", "&U,BTF2XlZyyKng-"),
            ("x\u{1f4ee}", "x&2D3c7g-"),
        ] {
            assert_eq!(
                MailboxName::encode(name, false).as_bytes(),
                encoded.as_bytes()
            );
            assert_eq!(MailboxName::encode(name, true).as_bytes(), name.as_bytes());
        }
    }
}
