//! The UPDATE state (RFC 1939 §6): what was marked is removed, and `+OK` said only when it is.

use tokio::time::Instant;
use tracing::warn;

use super::{LoggedIn, Record};
use crate::config::{MaildropSettings, MarkSeen, Quirks};
use crate::failure::{Failure, FailureKind};
use crate::imap::capability::Capability;
use crate::imap::command::{FlagChange, SearchedState, StoredFlag, UIDS_MAX};
use crate::imap::ids::UidSet;
use crate::imap::response::SpecialUse;
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
const ARCHIVE_NAMES: &[&str] = &["Archive", "Archives"];

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
            record.failed(&failure, gateway);
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
    if logged_in.settings().mark_seen == MarkSeen::Retrieved {
        match mark_seen(&update.retrieved, logged_in).await {
            // QUIT promises deletions, not flags: what keeps nothing from being removed is only noted.
            Err(failure) if update.deleted.is_empty() || failure.kind.leaves_upstream_usable() => {
                record.failed(&failure, gateway);
            }
            result => result?,
        }
    }
    if update.deleted.is_empty() {
        return Ok(());
    }
    let removal = removal(logged_in)
        .ok_or_else(|| FailureKind::UpstreamRefused.because("the mailbox is read-only"))?;
    let policy = &logged_in.settings().on_delete;
    if let Some(downgrade) = policy.downgrade(removal) {
        warn!(upstream = %logged_in.key.upstream, on_delete = %policy, "{downgrade}");
    }
    let result = remove(&update.deleted, removal, gateway, logged_in, record).await;
    let refused = update.deleted.len() - record.deleted;
    let upstream = &logged_in.key.upstream;
    gateway
        .metrics
        .messages_deleted(upstream, DeleteAction::Refused, refused);
    result
}

/// Marks what was retrieved in full, where the mailbox takes marks.
async fn mark_seen(retrieved: &UidSet, logged_in: &mut LoggedIn) -> Result<(), Failure> {
    if logged_in.selected.read_only || !logged_in.selected.permanent_flags.seen {
        return Ok(());
    }
    for part in retrieved.split(UIDS_MAX) {
        logged_in
            .imap
            .store(&part, FlagChange::Set, StoredFlag::Seen)
            .await?;
    }
    Ok(())
}

/// How this session would delete; `None`: it cannot.
pub(super) fn removal(logged_in: &LoggedIn) -> Option<Removal> {
    logged_in
        .settings()
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

/// Does to these messages, and to no others, what the policy says, part by part, so that what is done
/// stays done when a later part fails.
async fn remove(
    set: &UidSet,
    removal: Removal,
    gateway: &Gateway,
    logged_in: &mut LoggedIn,
    record: &mut Record,
) -> Result<(), Failure> {
    let (action, target) = match removal {
        Removal::Expunge => (DeleteAction::Expunged, None),
        Removal::Flag => (DeleteAction::Flagged, None),
        Removal::HideByKeyword | Removal::HideInMemory => (DeleteAction::Hidden, None),
        Removal::Move | Removal::CopyThenExpunge | Removal::CopyThenFlag => {
            (DeleteAction::Moved, Some(target(logged_in).await?.mailbox))
        }
    };
    for part in set.split(UIDS_MAX) {
        if let Some(target) = &target {
            match removal {
                Removal::Move => logged_in.imap.move_to(&part, target).await?,
                // Only what is safe elsewhere may be marked here.
                _ => logged_in.imap.copy(&part, target).await?,
            }
        }
        let removed = remove_part(&part, removal, gateway, logged_in).await;
        if let Err(failure) = removed {
            if matches!(removal, Removal::Expunge | Removal::CopyThenExpunge) {
                withdraw(&part, &failure, gateway, logged_in).await;
            }
            return Err(failure);
        }
        let (key, validity) = (&logged_in.key, logged_in.selected.validity);
        gateway.memory.stop_showing(key, validity, &part);
        if matches!(
            removal,
            Removal::Move | Removal::Expunge | Removal::CopyThenExpunge
        ) {
            gateway.listings.remove(key, validity, &part);
        }
        if removal == Removal::HideByKeyword {
            gateway.listings.conceal(key, validity, &part);
        }
        record.deleted += part.len();
        gateway
            .metrics
            .messages_deleted(&logged_in.key.upstream, action, part.len());
    }
    Ok(())
}

/// Removes a part, of which a copy is where the policy wants one, and looks whether it is gone.
async fn remove_part(
    part: &UidSet,
    removal: Removal,
    gateway: &Gateway,
    logged_in: &mut LoggedIn,
) -> Result<(), Failure> {
    let LoggedIn {
        imap,
        key,
        selected,
        ..
    } = logged_in;
    let still = match removal {
        Removal::Move => SearchedState::Present,
        Removal::Expunge | Removal::CopyThenExpunge => {
            imap.store(part, FlagChange::Set, StoredFlag::Deleted)
                .await?;
            imap.expunge(part).await?;
            SearchedState::Present
        }
        Removal::Flag | Removal::CopyThenFlag => {
            imap.store(part, FlagChange::Set, StoredFlag::Deleted)
                .await?;
            SearchedState::Undeleted
        }
        Removal::HideByKeyword => {
            imap.store(part, FlagChange::Set, StoredFlag::Hidden)
                .await?;
            SearchedState::Unhidden
        }
        Removal::HideInMemory => {
            return match gateway.memory.hide(key, selected.validity, part) {
                true => Ok(()),
                false => {
                    Err(FailureKind::Overloaded.because("the memory of hidden messages is full"))
                }
            };
        }
    };
    let left = imap.search(part, still).await?.len();
    match left {
        0 => Ok(()),
        _ => Err(FailureKind::UpstreamRefused.because(format!(
            "the upstream said OK, but {left} of {} messages are still there",
            part.len()
        ))),
    }
}

/// After a removal that got no further than `\Deleted`: the client was told that these messages are
/// still there, so they must be shown again.
async fn withdraw(part: &UidSet, failure: &Failure, gateway: &Gateway, logged_in: &mut LoggedIn) {
    let withdrawn = failure.kind.leaves_upstream_usable()
        && logged_in
            .imap
            .store(part, FlagChange::Clear, StoredFlag::Deleted)
            .await
            .is_ok();
    if !withdrawn {
        gateway
            .memory
            .keep_showing(&logged_in.key, logged_in.selected.validity, part);
    }
}

/// The folder that the policy moves to; it is there when this returns.
async fn target(logged_in: &mut LoggedIn) -> Result<Target, Failure> {
    let upstream = logged_in.imap.upstream().clone();
    let settings = &upstream.settings().maildrop;
    let target = find_target(&mut logged_in.imap, settings).await?;
    if target.mailbox == logged_in.imap.mailbox(&settings.folder) {
        return Err(FailureKind::Misconfigured
            .because("maildrop.on_delete would move messages into the folder that they are in"));
    }
    if !target.exists {
        match logged_in.imap.create(&target.mailbox).await {
            // It may be there without being listed; what moves messages into it will tell.
            Err(failure) if failure.kind.leaves_upstream_usable() => {
                warn!(%failure, "the folder of maildrop.on_delete was not created");
            }
            result => result?,
        }
    }
    Ok(target)
}

/// The folder that a policy moves to, which may be yet to be created.
pub(in crate::session) async fn find_target(
    imap: &mut ImapClient,
    settings: &MaildropSettings,
) -> Result<Target, Failure> {
    let folders = imap.folders().await?;
    let Quirks {
        trash_folder,
        archive_folder,
        ..
    } = imap.quirks();
    Ok(match &settings.on_delete {
        DeletePolicy::Move(folder) => {
            let mailbox = imap.mailbox(folder);
            Target {
                exists: folders.has(&mailbox),
                mailbox,
            }
        }
        DeletePolicy::Archive => {
            // Elsewhere than at Gmail, the folder of all mail is a view that nothing can be put into.
            let uses: &[SpecialUse] = match imap.has(Capability::GmailExtensions) {
                true => &[SpecialUse::Archive, SpecialUse::All],
                false => &[SpecialUse::Archive],
            };
            folders.find(uses, &names(archive_folder, ARCHIVE_NAMES))
        }
        DeletePolicy::Trash | DeletePolicy::Expunge | DeletePolicy::Flag | DeletePolicy::Keep => {
            folders.find(&[SpecialUse::Trash], &names(trash_folder, TRASH_NAMES))
        }
    })
}

/// The provider's own name first.
fn names<'a>(of_provider: &'a Option<String>, well_known: &[&'a str]) -> Vec<&'a str> {
    let of_provider = of_provider.iter().map(String::as_str);
    of_provider.chain(well_known.iter().copied()).collect()
}
