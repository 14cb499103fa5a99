//! What an upstream can do (RFC 3501 §7.2.1): [`Capabilities`].

use nom::Parser;
use nom::multi::fold_many0;
use nom::sequence::preceded;

use super::grammar::{Parsed, atom, blanks};

/// What an upstream says that it can do, as far as we would use it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    flags: u32,
    append_limit: Option<u64>,
}

/// Names in CAPABILITY that change what we do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// RFC 3501
    Imap4Rev1,
    /// RFC 9051
    Imap4Rev2,
    /// RFC 3501 §6.2.1
    StartTls,
    /// LOGIN is refused here.
    LoginDisabled,
    /// RFC 4959
    SaslIr,
    /// RFC 7888: non-synchronizing literals of any size.
    LiteralPlus,
    /// RFC 7888: of up to 4096 octets.
    LiteralMinus,
    /// RFC 4315
    UidPlus,
    /// RFC 6851
    Move,
    /// RFC 6154
    SpecialUse,
    /// RFC 5258: LIST with options.
    ListExtended,
    /// The forerunner of SPECIAL-USE.
    XList,
    /// RFC 2971
    Id,
    /// RFC 5161
    Enable,
    /// RFC 9755
    Utf8Accept,
    /// RFC 2342
    Namespace,
    /// RFC 8474
    ObjectId,
    /// Gmail
    GmailExtensions,
    /// RFC 4731
    ExtendedSearch,
    /// RFC 7162
    CondStore,
    /// RFC 7162 §3.2
    QResync,
    /// RFC 5032: searches by age.
    Within,
    /// AUTH=PLAIN
    AuthPlain,
    /// AUTH=LOGIN
    AuthLogin,
    /// AUTH=XOAUTH2
    AuthXoauth2,
    /// AUTH=OAUTHBEARER
    AuthOauthBearer,
}

const CAPABILITY_NAMES: &[(&str, Capability)] = &[
    ("IMAP4rev1", Capability::Imap4Rev1),
    ("IMAP4rev2", Capability::Imap4Rev2),
    ("STARTTLS", Capability::StartTls),
    ("LOGINDISABLED", Capability::LoginDisabled),
    ("SASL-IR", Capability::SaslIr),
    ("LITERAL+", Capability::LiteralPlus),
    ("LITERAL-", Capability::LiteralMinus),
    ("UIDPLUS", Capability::UidPlus),
    ("MOVE", Capability::Move),
    ("SPECIAL-USE", Capability::SpecialUse),
    ("LIST-EXTENDED", Capability::ListExtended),
    ("XLIST", Capability::XList),
    ("ID", Capability::Id),
    ("ENABLE", Capability::Enable),
    ("UTF8=ACCEPT", Capability::Utf8Accept),
    ("UTF8=ONLY", Capability::Utf8Accept),
    ("NAMESPACE", Capability::Namespace),
    ("OBJECTID", Capability::ObjectId),
    ("X-GM-EXT-1", Capability::GmailExtensions),
    ("ESEARCH", Capability::ExtendedSearch),
    ("CONDSTORE", Capability::CondStore),
    ("QRESYNC", Capability::QResync),
    ("WITHIN", Capability::Within),
    ("AUTH=PLAIN", Capability::AuthPlain),
    ("AUTH=LOGIN", Capability::AuthLogin),
    ("AUTH=XOAUTH2", Capability::AuthXoauth2),
    ("AUTH=OAUTHBEARER", Capability::AuthOauthBearer),
];

/// What RFC 9051 made part of the base protocol (its appendix E).
const REV2_BASE: &[Capability] = &[
    Capability::Namespace,
    Capability::UidPlus,
    Capability::Enable,
    Capability::ExtendedSearch,
    Capability::SaslIr,
    Capability::ListExtended,
    Capability::Move,
    Capability::LiteralMinus,
];

impl Capabilities {
    /// Whether the upstream offers this, by name or as part of IMAP4rev2.
    pub fn has(self, capability: Capability) -> bool {
        self.flags & (1 << capability as u32) != 0
    }

    /// Adds one, and what it implies.
    pub fn insert(&mut self, capability: Capability) {
        self.flags |= 1 << capability as u32;
        if capability == Capability::Imap4Rev2 {
            for implied in REV2_BASE {
                self.insert(*implied);
            }
        }
    }

    /// Octets of a message that APPEND takes (RFC 7889), if that is said for all mailboxes.
    pub fn append_limit(self) -> Option<u64> {
        self.append_limit
    }

    /// Their names, as in CAPABILITY, for a person to read.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CAPABILITY_NAMES
            .iter()
            .filter(move |(_, capability)| self.has(*capability))
            .map(|(name, _)| *name)
    }
}

pub(super) fn capabilities(input: &[u8]) -> Parsed<'_, Capabilities> {
    fold_many0(
        preceded(blanks, atom),
        Capabilities::default,
        |mut capabilities, name| {
            let known = CAPABILITY_NAMES
                .iter()
                .find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
            if let Some((_, capability)) = known {
                capabilities.insert(*capability);
            }
            if let Some((b"APPENDLIMIT=", digits)) = name.split_at_checked(12) {
                let digits = std::str::from_utf8(digits).ok();
                capabilities.append_limit = digits.and_then(|digits| digits.parse().ok());
            }
            capabilities
        },
    )
    .parse(input)
}
