//! The UPDATE state (RFC 1939 §6): what was marked is removed, and `+OK` said only when it is.

use tokio::time::Instant;
use tracing::warn;

use super::{LoggedIn, Record};
use crate::config::{MaildropSettings, MarkSeen};
use crate::failure::{Failure, FailureKind};
use crate::imap::command::StoredFlag;
use crate::imap::ids::UidSet;
use crate::imap::response::{Capability, SpecialUse};
use crate::maildrop::{Abilities, DeletePolicy, Removal, Update};
use crate::metrics::DeleteAction;
use crate::pop3::command::CommandName;
use crate::pop3::reply::{self, ResponseCode};
use crate::session::{Client, Gateway, SessionEnd};
use crate::upstream::{ImapClient, Selected, Target};

/// What mail programs call a trash folder when no attribute tells.
const TRASH_NAMES: &[&str] = &[
    "Trash",
    "Deleted Messages",
    "Deleted Items",
    "Deleted",
    "Bin",
    "Papierkorb",
];

/// What they call an archive.
const ARCHIVE_NAMES: &[&str] = &["Archive", "Archives", "All Mail"];

/// QUIT: applies the marks and answers.
pub(super) async fn run(
    client: &mut Client,
    gateway: &Gateway,
    logged_in: &mut LoggedIn,
    record: &mut Record,
) -> Result<(), SessionEnd> {
    let started = Instant::now();
    let update = logged_in.maildrop.update();
    let result = apply(&update, gateway, logged_in, record).await;
    gateway
        .metrics
        .pop3_command(CommandName::Quit, result.is_ok(), started.elapsed());
    let out = client.lines.output();
    match result {
        Ok(()) => {
            reply::ok(out, "bye");
            Ok(())
        }
        Err(failure) => {
            record.failed(&failure);
            let text = format_args!("some deleted messages not removed ({})", record.id);
            reply::err_with(out, ResponseCode::SysTemp, text);
            Err(SessionEnd::UpdateIncomplete(failure))
        }
    }
}

async fn apply(
    update: &Update,
    gateway: &Gateway,
    logged_in: &mut LoggedIn,
    record: &mut Record,
) -> Result<(), Failure> {
    if logged_in.settings.mark_seen == MarkSeen::Retrieved && !update.retrieved.is_empty() {
        mark_seen(&update.retrieved, logged_in, record).await?;
    }
    if update.deleted.is_empty() {
        return Ok(());
    }
    let result = remove(&update.deleted, gateway, logged_in).await;
    let upstream = &logged_in.key.upstream;
    match &result {
        Ok(action) => {
            record.deleted = update.deleted.len();
            gateway
                .metrics
                .messages_deleted(upstream, *action, update.deleted.len());
        }
        // How many of them are left is not always known; at worst all.
        Err(_) => {
            gateway
                .metrics
                .messages_deleted(upstream, DeleteAction::Refused, update.deleted.len());
        }
    }
    result.map(drop)
}

/// QUIT promises deletions, not flags: where they cannot be set, it is only noted.
async fn mark_seen(
    retrieved: &UidSet,
    logged_in: &mut LoggedIn,
    record: &mut Record,
) -> Result<(), Failure> {
    if logged_in.selected.read_only || !logged_in.selected.permanent_flags.seen {
        return Ok(());
    }
    match logged_in.imap.store(retrieved, StoredFlag::Seen).await {
        Err(failure) if failure.kind.leaves_upstream_usable() => {
            record.failed(&failure);
            Ok(())
        }
        result => result,
    }
}

/// How this session would delete; `None`: it cannot.
pub(super) fn removal(logged_in: &LoggedIn) -> Option<Removal> {
    logged_in
        .settings
        .on_delete
        .removal(abilities(&logged_in.imap, &logged_in.selected))
}

/// What can be done with the messages of a selected mailbox.
pub(in crate::session) fn abilities(imap: &ImapClient, selected: &Selected) -> Abilities {
    Abilities {
        expunge_own: imap.has(Capability::UidPlus),
        move_messages: imap.has(Capability::Move),
        deleted_flag: selected.permanent_flags.deleted,
        hidden_keyword: selected.permanent_flags.hidden,
        read_only: selected.read_only,
    }
}

/// Does to these messages, and to no others, what the policy says; and looks whether it was done.
async fn remove(
    set: &UidSet,
    gateway: &Gateway,
    logged_in: &mut LoggedIn,
) -> Result<DeleteAction, Failure> {
    let policy = logged_in.settings.on_delete.clone();
    let removal = removal(logged_in)
        .ok_or_else(|| FailureKind::UpstreamRefused.because("the mailbox is read-only"))?;
    if let Some(downgrade) = policy.downgrade(removal) {
        warn!(upstream = %logged_in.key.upstream, on_delete = %policy, "{downgrade}");
    }
    let (action, left) = match removal {
        Removal::Expunge => {
            logged_in.imap.store(set, StoredFlag::Deleted).await?;
            logged_in.imap.expunge(set).await?;
            (DeleteAction::Expunged, logged_in.imap.present(set).await?)
        }
        Removal::Flag => {
            logged_in.imap.store(set, StoredFlag::Deleted).await?;
            (DeleteAction::Flagged, logged_in.imap.undeleted(set).await?)
        }
        Removal::Move => {
            let target = target(logged_in).await?;
            logged_in.imap.move_to(set, &target.mailbox).await?;
            (DeleteAction::Moved, logged_in.imap.present(set).await?)
        }
        Removal::CopyThenExpunge => {
            let target = target(logged_in).await?;
            // Only what is safe elsewhere may be marked here.
            logged_in.imap.copy(set, &target.mailbox).await?;
            logged_in.imap.store(set, StoredFlag::Deleted).await?;
            logged_in.imap.expunge(set).await?;
            (DeleteAction::Moved, logged_in.imap.present(set).await?)
        }
        Removal::CopyThenFlag => {
            let target = target(logged_in).await?;
            logged_in.imap.copy(set, &target.mailbox).await?;
            logged_in.imap.store(set, StoredFlag::Deleted).await?;
            (DeleteAction::Moved, logged_in.imap.undeleted(set).await?)
        }
        Removal::HideByKeyword => {
            logged_in.imap.store(set, StoredFlag::Hidden).await?;
            (DeleteAction::Hidden, UidSet::default())
        }
        Removal::HideInMemory => {
            let validity = logged_in.selected.validity;
            gateway.memory.hide(&logged_in.key, validity, set.iter());
            (DeleteAction::Hidden, UidSet::default())
        }
    };
    match left.is_empty() {
        true => Ok(action),
        false => Err(FailureKind::UpstreamRefused.because(format!(
            "the upstream said OK, but {} of {} messages are still there",
            left.len(),
            set.len()
        ))),
    }
}

/// The folder that the policy moves to; it is there when this returns.
async fn target(logged_in: &mut LoggedIn) -> Result<Target, Failure> {
    let target = find_target(&mut logged_in.imap, &logged_in.settings).await?;
    if target.mailbox == logged_in.imap.mailbox(&logged_in.settings.folder) {
        return Err(FailureKind::Misconfigured
            .because("maildrop.on_delete would move messages into the folder that they are in"));
    }
    if !target.exists {
        logged_in.imap.create(&target.mailbox).await?;
    }
    Ok(target)
}

/// The folder that a policy moves to, which may be yet to be created.
pub(in crate::session) async fn find_target(
    imap: &mut ImapClient,
    settings: &MaildropSettings,
) -> Result<Target, Failure> {
    let folders = imap.folders().await?;
    let quirks = imap.quirks();
    Ok(match &settings.on_delete {
        DeletePolicy::Move(folder) => {
            let mailbox = imap.mailbox(folder);
            Target {
                exists: folders.has(&mailbox),
                mailbox,
            }
        }
        DeletePolicy::Archive => folders.find(
            &[SpecialUse::Archive, SpecialUse::All],
            quirks.archive_folder.as_deref(),
            ARCHIVE_NAMES,
        ),
        DeletePolicy::Trash | DeletePolicy::Expunge | DeletePolicy::Flag | DeletePolicy::Keep => {
            folders.find(
                &[SpecialUse::Trash],
                quirks.trash_folder.as_deref(),
                TRASH_NAMES,
            )
        }
    })
}
