//! `provider = "…"`: what is known about the big mail providers.

use serde::Deserialize;

use super::{Endpoint, EndpointSecurity, Quirks, Service, WARM_CONNECTIONS};

/// A provider with a preset.
///
/// A preset fills in what a session cannot find out by itself: the address, and what capabilities do
/// not say. Everything else is detected at each login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Provider {
    /// Gmail and Google Workspace. UIDPLUS, MOVE, CONDSTORE, SPECIAL-USE. App password, XOAUTH2 or
    /// OAUTHBEARER; 15 connections an account, a daily volume. Folder names follow the account's
    /// language, which SPECIAL-USE sees through.
    Gmail,
    /// Exchange Online and Outlook.com. UIDPLUS, MOVE after login; no CONDSTORE, SPECIAL-USE or
    /// keywords; sizes are approximate; FETCH items come in any order. Several commands under way at
    /// once have ended in "User is authenticated but not connected".
    Outlook,
    /// iCloud. UIDPLUS, CONDSTORE, QRESYNC; no MOVE, no SPECIAL-USE. App-specific password, never OAuth.
    Icloud,
    /// Yahoo and AOL. UIDPLUS, MOVE, SPECIAL-USE, OBJECTID; no CONDSTORE. App password; rate limits.
    Yahoo,
    /// Fastmail (Cyrus). UIDPLUS, MOVE, CONDSTORE, QRESYNC, SPECIAL-USE, OBJECTID. App password.
    Fastmail,
    /// Zoho. UIDPLUS, MOVE, CONDSTORE; XLIST instead of SPECIAL-USE. App password. Paid accounts of
    /// a domain are at `imappro.zoho.com`, other regions at `imap.zoho.eu` and so on.
    Zoho,
    /// Proton Bridge on this machine; STARTTLS with a certificate of its own, which `ca_file` must
    /// name. UIDVALIDITY may change.
    ProtonBridge,
    /// NetEase 163; 126 and yeah.net are at `imap.126.com` and `imap.yeah.net`. UIDPLUS, SPECIAL-USE;
    /// no MOVE. ID must follow the login or SELECT fails with "Unsafe Login". Authorisation code.
    Netease,
    /// Yandex. UIDPLUS, MOVE; XLIST instead of SPECIAL-USE.
    Yandex,
    /// GMX; Web.de is at `imap.web.de`. An empty ID is rejected.
    Gmx,
}

impl Provider {
    /// Where its IMAP service is.
    pub(super) fn imap(self) -> Endpoint {
        let (host, port, security) = match self {
            Self::Gmail => ("imap.gmail.com", 993, EndpointSecurity::Implicit),
            Self::Outlook => ("outlook.office365.com", 993, EndpointSecurity::Implicit),
            Self::Icloud => ("imap.mail.me.com", 993, EndpointSecurity::Implicit),
            Self::Yahoo => ("imap.mail.yahoo.com", 993, EndpointSecurity::Implicit),
            Self::Fastmail => ("imap.fastmail.com", 993, EndpointSecurity::Implicit),
            Self::Zoho => ("imap.zoho.com", 993, EndpointSecurity::Implicit),
            Self::ProtonBridge => ("127.0.0.1", 1143, EndpointSecurity::StartTls),
            Self::Netease => ("imap.163.com", 993, EndpointSecurity::Implicit),
            Self::Yandex => ("imap.yandex.com", 993, EndpointSecurity::Implicit),
            Self::Gmx => ("imap.gmx.net", 993, EndpointSecurity::Implicit),
        };
        Endpoint {
            service: Service::Imap,
            host: host.to_owned(),
            port,
            security,
        }
    }

    /// Where its submission service is.
    pub(super) fn submission(self) -> Endpoint {
        let (host, port, security) = match self {
            Self::Gmail => ("smtp.gmail.com", 465, EndpointSecurity::Implicit),
            Self::Outlook => ("smtp.office365.com", 587, EndpointSecurity::StartTls),
            Self::Icloud => ("smtp.mail.me.com", 587, EndpointSecurity::StartTls),
            Self::Yahoo => ("smtp.mail.yahoo.com", 465, EndpointSecurity::Implicit),
            Self::Fastmail => ("smtp.fastmail.com", 465, EndpointSecurity::Implicit),
            Self::Zoho => ("smtp.zoho.com", 465, EndpointSecurity::Implicit),
            Self::ProtonBridge => ("127.0.0.1", 1025, EndpointSecurity::StartTls),
            Self::Netease => ("smtp.163.com", 465, EndpointSecurity::Implicit),
            Self::Yandex => ("smtp.yandex.com", 465, EndpointSecurity::Implicit),
            Self::Gmx => ("mail.gmx.net", 465, EndpointSecurity::Implicit),
        };
        Endpoint {
            service: Service::Submission,
            host: host.to_owned(),
            port,
            security,
        }
    }

    /// How many connections may wait there for the next login: none where they are known to be dear.
    pub(super) fn warm_connections(self) -> usize {
        match self {
            Self::Outlook | Self::Yahoo | Self::Netease => 0,
            Self::Gmail
            | Self::Icloud
            | Self::Fastmail
            | Self::Zoho
            | Self::ProtonBridge
            | Self::Yandex
            | Self::Gmx => WARM_CONNECTIONS,
        }
    }

    /// What it needs beyond what its capabilities say.
    pub(super) fn quirks(self) -> Quirks {
        let (trash_folder, archive_folder) = match self {
            Self::Gmail => (Some("[Gmail]/Trash"), Some("[Gmail]/All Mail")),
            Self::Outlook => (Some("Deleted"), Some("Archive")),
            Self::Icloud => (Some("Deleted Messages"), Some("Archive")),
            Self::ProtonBridge => (Some("Trash"), Some("Archive")),
            Self::Zoho | Self::Yandex => (Some("Trash"), None),
            Self::Yahoo | Self::Fastmail | Self::Netease | Self::Gmx => (None, None),
        };
        let sent_folder = match self {
            Self::Gmail => Some("[Gmail]/Sent Mail"),
            Self::Outlook => Some("Sent Items"),
            Self::Icloud => Some("Sent Messages"),
            Self::ProtonBridge | Self::Zoho | Self::Yandex => Some("Sent"),
            Self::Yahoo | Self::Fastmail | Self::Netease | Self::Gmx => None,
        };
        let keeps_sent_copies = matches!(
            self,
            Self::Gmail | Self::Outlook | Self::Zoho | Self::ProtonBridge
        );
        Quirks {
            one_command_at_a_time: self == Self::Outlook,
            trash_folder: trash_folder.map(str::to_owned),
            archive_folder: archive_folder.map(str::to_owned),
            sent_folder: sent_folder.map(str::to_owned),
            keeps_sent_copies,
        }
    }
}
