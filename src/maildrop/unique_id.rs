//! `UniqueId` (RFC 1939 §7, UIDL) and its formats.

use std::collections::HashSet;
use std::fmt;

use super::Listing;
use crate::imap::ids::{Uid, UidSet, UidValidity};

/// RFC 1939 §7
const UNIQUE_ID_OCTETS_MAX: usize = 70;

/// How UIDL names a message. `u` is the UID, `v` the UIDVALIDITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueIdFormat {
    /// `%08x%08x` of u and v: Dovecot's default.
    Dovecot,
    /// `%u`, decimal: old Cyrus and Courier. Begins anew when UIDVALIDITY changes, so that an id may
    /// come to name another message.
    Uid,
    /// The same under this UIDVALIDITY; under any other, `v.u`.
    UidUnder(UidValidity),
    /// `v.u`, decimal: Cyrus since 2.1.4.
    Cyrus,
    /// `v-u`, decimal: Courier.
    Courier,
    /// `%08x%08x` of v and u: UW.
    Uw,
    /// `GmailId` and the hexadecimal X-GM-MSGID: Gmail's own POP3.
    Gmail,
    /// The EMAILID of RFC 8474.
    EmailId,
}

impl std::str::FromStr for UniqueIdFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(pinned) = text.strip_prefix("uid:") {
            return pinned
                .parse()
                .ok()
                .and_then(UidValidity::new)
                .map(Self::UidUnder)
                .ok_or_else(|| {
                    format!("{text:?} names no UIDVALIDITY; write it like \"uid:1700000000\"")
                });
        }
        Ok(match text {
            "dovecot" => Self::Dovecot,
            "uid" => Self::Uid,
            "cyrus" => Self::Cyrus,
            "courier" => Self::Courier,
            "uw" => Self::Uw,
            "gmail" => Self::Gmail,
            "emailid" => Self::EmailId,
            _ => {
                return Err(format!(
                    "{text:?} is none of dovecot, uid:UIDVALIDITY, uid, cyrus, courier, uw, gmail, emailid"
                ));
            }
        })
    }
}

/// A unique-id: 1 to 70 octets from 0x21 to 0x7E, on its way into a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueId<'a> {
    /// Made of UID and UIDVALIDITY.
    Numbers(UniqueIdFormat, Uid, UidValidity),
    /// Given by the upstream.
    Name(&'a str),
}

impl fmt::Display for UniqueId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Numbers(format, uid, validity) => {
                let (u, v) = (uid.number(), validity.number());
                match format {
                    UniqueIdFormat::Dovecot => write!(f, "{u:08x}{v:08x}"),
                    UniqueIdFormat::Uid => write!(f, "{u}"),
                    UniqueIdFormat::UidUnder(pinned) if pinned == validity => write!(f, "{u}"),
                    UniqueIdFormat::Courier => write!(f, "{v}-{u}"),
                    UniqueIdFormat::Uw => write!(f, "{v:08x}{u:08x}"),
                    // Also for what has no name of its own: an OBJECTID and a bare UID have no dot, so
                    // they never meet.
                    UniqueIdFormat::Cyrus
                    | UniqueIdFormat::UidUnder(_)
                    | UniqueIdFormat::Gmail
                    | UniqueIdFormat::EmailId => write!(f, "{v}.{u}"),
                }
            }
        }
    }
}

/// The unique-ids of a maildrop.
#[derive(Debug)]
pub struct UniqueIds {
    format: UniqueIdFormat,
    validity: UidValidity,
    /// Whether the upstream's names are used,
    named: bool,
    /// and the messages whose name is none that POP3 could use.
    unnamed: UidSet,
}

impl UniqueIds {
    /// Made of UID and UIDVALIDITY.
    pub fn from_uids(format: UniqueIdFormat, validity: UidValidity) -> Self {
        Self {
            format,
            validity,
            named: false,
            unnamed: UidSet::default(),
        }
    }

    /// Given by the upstream. A message without a name, with an overlong one, or with one that an
    /// earlier message bears (RFC 8474 §4 permits copies) is named by UIDVALIDITY and UID instead. The
    /// listing is that of the whole mailbox, whatever a maildrop shows of it.
    pub fn from_names(format: UniqueIdFormat, validity: UidValidity, listing: &Listing) -> Self {
        let mut taken = HashSet::new();
        let mut is_unnamed = |place: usize| {
            !listing.name(place).is_some_and(|name| {
                name.len() <= UNIQUE_ID_OCTETS_MAX
                    && name.bytes().all(|octet| octet.is_ascii_graphic())
                    && taken.insert(name)
            })
        };
        let places = listing.uids().enumerate();
        let unnamed = places.filter(|(place, _)| is_unnamed(*place));
        Self {
            format,
            validity,
            named: true,
            unnamed: unnamed.map(|(_, uid)| uid).collect(),
        }
    }

    /// Of the message at this place of the listing, with this UID.
    pub(super) fn of<'a>(&self, listing: &'a Listing, place: usize, uid: Uid) -> UniqueId<'a> {
        let named = self.named && !self.unnamed.contains(uid);
        match listing.name(place).filter(|_| named) {
            Some(name) => UniqueId::Name(name),
            None => UniqueId::Numbers(self.format, uid, self.validity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maildrop::{ListingBuilder, Told};

    fn uid(number: u32) -> Uid {
        Uid::new(number).expect("not 0")
    }

    #[test]
    fn formats() {
        let validity = UidValidity::new(1_700_000_000).expect("not 0");
        for (format, spelt) in [
            ("dovecot", "0000038b6553f100"),
            ("uid", "907"),
            ("uid:1700000000", "907"),
            ("uid:1700000001", "1700000000.907"),
            ("cyrus", "1700000000.907"),
            ("courier", "1700000000-907"),
            ("uw", "6553f1000000038b"),
        ] {
            let format = format.parse().expect(format);
            let ids = UniqueIds::from_uids(format, validity);
            let listing = Listing::default();
            assert_eq!(ids.of(&listing, 0, uid(907)).to_string(), spelt);
        }
        for none in ["uid:", "uid:0", "uid:x", "uid:4294967296", "UID", ""] {
            assert!(none.parse::<UniqueIdFormat>().is_err(), "{none}");
        }
    }

    #[test]
    fn names_of_the_upstream_are_unique_or_not_used() {
        let validity = UidValidity::new(7).expect("not 0");
        let mut builder = ListingBuilder::default();
        let overlong = "x".repeat(71);
        for (number, name) in (1..).zip(["M1", "M1", "", "M 4", &overlong]) {
            let name = (!name.is_empty()).then(|| name.into());
            let octets = Some(1);
            let told = Told {
                octets,
                name,
                ..Told::default()
            };
            builder.add(uid(number), told);
        }
        let (listing, _) = builder.build();
        let ids = UniqueIds::from_names(UniqueIdFormat::EmailId, validity, &listing);
        let spelt: Vec<String> = (1..=5)
            .map(|number| ids.of(&listing, number - 1, uid(number as u32)).to_string())
            .collect();
        assert_eq!(spelt, ["M1", "7.2", "7.3", "7.4", "7.5"]);
    }
}
