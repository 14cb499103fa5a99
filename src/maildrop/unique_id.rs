//! `UniqueId` (RFC 1939 §7, UIDL) and its formats.

/// How UIDL names a message. `u` is the UID, `v` the UIDVALIDITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueIdFormat {
    /// `%08x%08x` of u and v: Dovecot's default.
    Dovecot,
    /// `%u`, decimal: old Cyrus and Courier.
    Uid,
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
                    "{text:?} is none of dovecot, uid, cyrus, courier, uw, gmail, emailid"
                ));
            }
        })
    }
}
