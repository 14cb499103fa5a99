//! The mailboxes of an account, and which of them mail is moved to (RFC 6154).

use super::ImapClient;
use crate::failure::Failure;
use crate::imap::capability::Capability;
use crate::imap::command::{Command, CommandName, ListVariant};
use crate::imap::mailbox_name::MailboxName;
use crate::imap::response::{Condition, Listed, SpecialUse, Status, Untagged};

/// Octets of the names that a LIST may return; what exceeds them is ignored.
const MAILBOX_NAMES_OCTETS_MAX: usize = 1024 * 1024;

/// The mailboxes of an account.
#[derive(Debug, Default)]
pub struct Folders {
    listed: Vec<Listed>,
    /// Where a new folder would go.
    personal_prefix: Vec<u8>,
}

/// A folder that messages can be moved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name on the wire.
    pub mailbox: MailboxName,
    /// Whether LIST has shown it.
    pub exists: bool,
}

impl ImapClient {
    /// The mailboxes of the account, and where a new one would go.
    ///
    /// # Errors
    /// When the upstream refuses or is lost.
    pub async fn folders(&mut self) -> Result<Folders, Failure> {
        // RFC 6154 §2 lets a server show special uses in every LIST; to ask for them takes
        // LIST-EXTENDED, without which RETURN has been answered with BAD.
        let variant = match self.has(Capability::SpecialUse) {
            true if self.has(Capability::ListExtended) => ListVariant::SpecialUse,
            false if self.has(Capability::XList) => ListVariant::XList,
            true | false => ListVariant::Plain,
        };
        let mut folders = Folders::default();
        let mut status = self.list(variant, &mut folders).await?;
        if status.condition != Condition::Ok && variant != ListVariant::Plain {
            status = self.list(ListVariant::Plain, &mut folders).await?;
        }
        self.expect_ok(CommandName::List, status)?;
        if self.has(Capability::Namespace) {
            self.run(Command::namespace(), |untagged| {
                if let Untagged::Namespace(prefix) = untagged {
                    folders.personal_prefix = prefix;
                }
            })
            .await?;
        }
        Ok(folders)
    }

    async fn list(
        &mut self,
        variant: ListVariant,
        folders: &mut Folders,
    ) -> Result<Status, Failure> {
        let mut octets = 0;
        self.run(Command::list(variant), |untagged| {
            if let Untagged::List(listed) = untagged {
                // A name costs some memory even when it is empty.
                octets += listed.name.len() + size_of::<Listed>();
                if octets <= MAILBOX_NAMES_OCTETS_MAX {
                    folders.listed.push(listed);
                }
            }
        })
        .await
    }
}

impl Folders {
    /// The folder with one of these special uses, else with one of these names, else the first of the
    /// names as a folder to be created.
    pub fn find(&self, uses: &[SpecialUse], names: &[&str]) -> Target {
        let selectable = || self.listed.iter().filter(|listed| listed.selectable);
        let by_use = uses
            .iter()
            .find_map(|wanted| selectable().find(|listed| listed.special_use == Some(*wanted)));
        let by_name = || {
            names.iter().map(|name| name.as_bytes()).find_map(|name| {
                selectable().find(|listed| last_component(listed).eq_ignore_ascii_case(name))
            })
        };
        let name = match by_use.or_else(by_name) {
            Some(listed) => listed.name.clone(),
            None => {
                let mut name = self.personal_prefix.clone();
                name.extend_from_slice(names.first().copied().unwrap_or_default().as_bytes());
                name
            }
        };
        let mailbox = MailboxName::from_wire(name);
        Target {
            exists: self.has(&mailbox),
            mailbox,
        }
    }

    /// Whether there is a folder of this name.
    pub fn has(&self, mailbox: &MailboxName) -> bool {
        let names = self.listed.iter().map(|listed| listed.name.clone());
        names
            .map(MailboxName::from_wire)
            .any(|name| name == *mailbox)
    }
}

/// `INBOX.Trash` is a trash folder as well as `Trash`; a folder `Projects/Trash` is somebody's own.
fn last_component(listed: &Listed) -> &[u8] {
    match listed.delimiter {
        Some(delimiter)
            if listed.name.len() > 6 && listed.name[..5].eq_ignore_ascii_case(b"INBOX") =>
        {
            match listed.name[5] == delimiter {
                true => &listed.name[6..],
                false => &listed.name,
            }
        }
        _ => &listed.name,
    }
}
