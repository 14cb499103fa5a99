//! [`survey`] and [`survey_submission`]: which promises hold at an upstream, for `popgate check --online`.

use std::fmt::Write;
use std::sync::Arc;

use super::pop3::update::{abilities, find_target};
use crate::config::MaildropSettings;
use crate::failure::Failure;
use crate::imap::capability::{Capabilities, Capability};
use crate::imap::command::{Command, ListingIdentity, ListingRange, Section};
use crate::imap::ids::{Uid, UidValidity};
use crate::imap::response::Untagged;
use crate::maildrop::{Removal, UniqueIdFormat};
use crate::pop3::multi_line::{DotStuffer, Nul};
use crate::sasl::Credential;
use crate::upstream::{ImapClient, Upstream};

/// Messages of which one is small enough to be fetched for its size.
const SIZES_MAX: u32 = 1000;

/// Connects, and logs in if there is a credential; changes nothing. The report is for a person, a
/// line each, indented.
///
/// # Errors
/// With the kind that decides about the exit code.
pub async fn survey(
    upstream: &Arc<Upstream>,
    credential: Option<&Credential>,
) -> Result<String, Failure> {
    let mut report = String::new();
    let mut imap = upstream.connect_anew().await?;
    let before_login = imap.known_capabilities().await?;
    tell(&mut report, "connection, certificate, greeting", "ok");
    tell(&mut report, "logins that it takes", &logins(before_login));
    match credential {
        None => {
            tell_abilities(&mut report, before_login, Asked::BeforeLogin);
            tell(&mut report, "login", "not tried; give --login");
        }
        Some(credential) => {
            imap.authenticate(credential).await?;
            tell(&mut report, "login", "ok");
            tell_abilities(
                &mut report,
                imap.known_capabilities().await?,
                Asked::AfterLogin,
            );
            tell_maildrop(&mut report, &mut imap, &upstream.settings().maildrop).await?;
        }
    }
    imap.logout().await;
    Ok(report)
}

/// The same of its submission service; no message is sent.
///
/// # Errors
/// With the kind that decides about the exit code.
pub async fn survey_submission(
    upstream: &Arc<Upstream>,
    credential: Option<&Credential>,
    hostname: &str,
) -> Result<String, Failure> {
    let mut report = String::new();
    let mut connection = upstream.connect_submission(hostname).await?;
    tell(
        &mut report,
        "submission: connection, certificate, greeting",
        "ok",
    );
    let extensions = connection.extensions();
    let names: Vec<&str> = extensions.names().collect();
    tell(&mut report, "submission: what it can", &names.join(" "));
    let size = match extensions.size() {
        Some(octets) => format!("{octets} octets"),
        None => "not told".to_owned(),
    };
    tell(&mut report, "submission: largest message", &size);
    if let Some(credential) = credential {
        connection.authenticate(credential).await?;
        tell(&mut report, "submission: login", "ok");
    }
    connection.quit().await;
    Ok(report)
}

fn tell(report: &mut String, what: &str, finding: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(report, "  {what}: {finding}");
}

fn logins(capabilities: Capabilities) -> String {
    let mut logins = Vec::new();
    if !capabilities.has(Capability::LoginDisabled) {
        logins.push("LOGIN");
    }
    for (capability, name) in [
        (Capability::AuthPlain, "PLAIN"),
        (Capability::AuthXoauth2, "XOAUTH2"),
        (Capability::AuthOauthBearer, "OAUTHBEARER"),
    ] {
        if capabilities.has(capability) {
            logins.push(name);
        }
    }
    match logins.is_empty() {
        true => "none that popgate knows".to_owned(),
        false => logins.join(", "),
    }
}

/// Many providers tell what they can only to those who have logged in.
#[derive(PartialEq)]
enum Asked {
    BeforeLogin,
    AfterLogin,
}

fn tell_abilities(report: &mut String, capabilities: Capabilities, asked: Asked) {
    for (capability, name, without) in [
        (
            Capability::UidPlus,
            "UIDPLUS",
            "no: `expunge` becomes `flag`",
        ),
        (
            Capability::Move,
            "MOVE",
            "no: messages are copied, then removed",
        ),
        (
            Capability::SpecialUse,
            "SPECIAL-USE",
            "no: trash and archive are found by their names",
        ),
        (
            Capability::Utf8Accept,
            "UTF8=ACCEPT",
            "no: POP3 offers no UTF8",
        ),
    ] {
        let finding = match capabilities.has(capability) {
            true => "yes",
            false if asked == Asked::BeforeLogin => "not told before login",
            false => without,
        };
        tell(report, name, finding);
    }
}

async fn tell_maildrop(
    report: &mut String,
    imap: &mut ImapClient,
    settings: &MaildropSettings,
) -> Result<(), Failure> {
    let selected = imap.select(&imap.mailbox(&settings.folder)).await?;
    let folder = format!(
        "{} messages, UIDVALIDITY {}",
        selected.exists,
        selected.validity.number()
    );
    tell(report, &format!("folder {:?}", settings.folder), &folder);
    if selected.exists > settings.newest_messages {
        let finding = "POP3 shows only so many, the newest";
        let setting = format!("newest_messages = {}", settings.newest_messages);
        tell(report, &setting, finding);
    }
    tell_unique_ids(report, settings.unique_id, selected.validity);
    let keywords = if selected.permanent_flags.hidden {
        "yes"
    } else {
        "no: `keep` hides only until a restart"
    };
    tell(report, "keywords", keywords);
    let sizes = match selected.exists {
        0 => "unknown, there is no message".to_owned(),
        _ => exactness_of_sizes(imap).await?,
    };
    tell(report, "sizes", &sizes);
    let removal = settings.on_delete.removal(abilities(imap, &selected));
    let policy = format!("on_delete = {:?}", settings.on_delete.to_string());
    let Some(removal) = removal else {
        tell(
            report,
            &policy,
            "cannot be carried out, the mailbox is read-only: DELE is refused",
        );
        return Ok(());
    };
    if let Removal::Move | Removal::CopyThenExpunge | Removal::CopyThenFlag = removal {
        let target = find_target(imap, settings).await?;
        let name = target.mailbox.as_bytes().escape_ascii().to_string();
        let finding = if target.exists {
            "is there"
        } else {
            "will be created"
        };
        tell(report, &format!("folder {name:?}"), finding);
    }
    tell(
        report,
        &policy,
        settings
            .on_delete
            .downgrade(removal)
            .unwrap_or("as it is meant"),
    );
    Ok(())
}

/// Of the one format that depends on which UIDVALIDITY holds.
fn tell_unique_ids(report: &mut String, format: UniqueIdFormat, validity: UidValidity) {
    let now = validity.number();
    match format {
        UniqueIdFormat::Uid => tell(
            report,
            "unique_id = \"uid\"",
            &format!("begins anew when UIDVALIDITY changes; write \"uid:{now}\""),
        ),
        UniqueIdFormat::UidUnder(pinned) => {
            let finding = match pinned == validity {
                true => "holds".to_owned(),
                false => format!("unique-ids are like {now}.907, UIDVALIDITY is another one"),
            };
            let setting = format!("unique_id = \"uid:{}\"", pinned.number());
            tell(report, &setting, &finding);
        }
        UniqueIdFormat::Dovecot
        | UniqueIdFormat::Cyrus
        | UniqueIdFormat::Courier
        | UniqueIdFormat::Uw
        | UniqueIdFormat::Gmail
        | UniqueIdFormat::EmailId => {}
    }
}

/// Compares RFC822.SIZE of the smallest of the newest messages with its octets.
async fn exactness_of_sizes(imap: &mut ImapClient) -> Result<String, Failure> {
    let mut smallest: Option<(Uid, u64)> = None;
    let range = ListingRange {
        first: imap.first_of_newest(SIZES_MAX).await?,
        ..ListingRange::ALL
    };
    let command = Command::fetch_listing(range, ListingIdentity::Uid);
    imap.inquire(vec![command], |untagged| {
        if let Untagged::Fetch(fetch) = untagged
            && let (Some(uid), Some(octets)) = (fetch.uid, fetch.octets)
            && smallest.is_none_or(|(_, least)| octets < least)
        {
            smallest = Some((uid, octets));
        }
    })
    .await?;
    let Some((uid, told)) = smallest else {
        return Ok(
            "no: the upstream tells none, LIST is right from the second session on".to_owned(),
        );
    };
    let Some(mut body) = imap.fetch_body(uid, Section::Whole, &[]).await? else {
        return Ok("unknown, the message vanished".to_owned());
    };
    let mut stuffer = DotStuffer::new(Nul::Kept);
    let mut out = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        stuffer.push(chunk, &mut out);
        out.clear();
    }
    body.finish().await?;
    stuffer.end_line(&mut out);
    let octets = stuffer.octets();
    Ok(match octets == told {
        true => format!("exact, as far as UID {uid} shows"),
        false => format!(
            "not exact (UID {uid}: {told} told, {octets} sent): LIST is right from the second session on"
        ),
    })
}
