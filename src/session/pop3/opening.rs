//! Opening a maildrop: SELECT, and as few questions as tell what the mailbox holds now.

use std::sync::Arc;

use crate::config::MaildropSettings;
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::capability::{Capabilities, Capability};
use crate::imap::command::{
    Command, ListingIdentity, ListingRange, MESSAGES_MAX, SearchAnswer, SearchedState,
};
use crate::imap::fetch::Fetch;
use crate::imap::ids::{Uid, UidSet, UidValidity};
use crate::imap::mailbox_name::MailboxName;
use crate::imap::response::Untagged;
use crate::maildrop::snapshot::{self, Differences, Now, Question, Remembered, Snapshot};
use crate::maildrop::{Listing, ListingBuilder, Told, UniqueIdFormat};
use crate::metrics::ListingCache;
use crate::upstream::{ImapClient, Selected};

/// How often the messages known may be compared with those that exist, while others come and go.
const RECONCILIATIONS_MAX: u32 = 2;

/// What was found, and how.
pub(super) struct Opened {
    pub(super) selected: Selected,
    pub(super) snapshot: Snapshot,
    /// What POP3 shows of it.
    pub(super) shown: Arc<Listing>,
    pub(super) cache: ListingCache,
}

/// What is known of a mailbox before SELECT has told anything.
pub(super) enum Known {
    Nothing,
    Snapshot(Snapshot),
    /// It has more messages than a listing may have.
    TooLarge,
}

/// Everything that [`open`] will ask, for a flight together with the login.
pub(super) fn commands(
    capabilities: Capabilities,
    utf8: bool,
    settings: &MaildropSettings,
    known: &Known,
) -> Vec<Command> {
    let identity = identity(settings.unique_id);
    let questions = match known {
        Known::Snapshot(known) if known.identity == identity => {
            known.questions(known.differences(capabilities))
        }
        Known::Snapshot(_) | Known::Nothing => snapshot::everything(),
        Known::TooLarge => Vec::new(),
    };
    let mailbox = MailboxName::spelt_at(capabilities, &settings.folder, utf8);
    let mut commands = Vec::new();
    if questions.iter().any(asks_who_vanished) {
        commands.push(Command::enable_qresync());
    }
    commands.push(Command::select(&mailbox, capabilities));
    let questions = questions.into_iter();
    commands.extend(questions.map(|question| command(question, identity, capabilities)));
    commands
}

/// Selects the mailbox and finds out what it holds, beginning with what was known of it.
///
/// # Errors
/// When the upstream refuses or is lost, or [`ImapClient::has_asked_too_much`].
pub(super) async fn open(
    imap: &mut ImapClient,
    settings: &MaildropSettings,
    known: Known,
    remembered: impl FnOnce(UidValidity) -> Remembered,
) -> Result<Opened, Failure> {
    let identity = identity(settings.unique_id);
    check(identity, imap)?;
    let known = match known {
        Known::Snapshot(known) if known.identity == identity => Some(known),
        Known::Snapshot(_) | Known::Nothing | Known::TooLarge => None,
    };
    let differences = differences(imap, known.as_ref()).await?;
    let selected = imap.select(&imap.mailbox(&settings.folder)).await?;
    if imap.has_asked_too_much() {
        let cause = "more messages were asked for than a listing may have";
        return Err(FailureKind::UpstreamRefused.because(cause));
    }
    let known = known
        .filter(|known| known.validity == selected.validity && known.can_precede(now(&selected)));
    let remembered = remembered(selected.validity);
    let wanted = settings.newest_messages;
    let (snapshot, cache) = match selected.exists > MESSAGES_MAX {
        true => newest(imap, &selected, known, identity, &remembered, wanted).await?,
        false => all(imap, &selected, known, identity, differences).await?,
    };
    let shown = snapshot.shown(&remembered, wanted);
    Ok(Opened {
        selected,
        snapshot,
        shown,
        cache,
    })
}

/// All messages of a mailbox.
async fn all(
    imap: &mut ImapClient,
    selected: &Selected,
    known: Option<Snapshot>,
    identity: ListingIdentity,
    differences: Differences,
) -> Result<(Snapshot, ListingCache), Failure> {
    let may_hide = selected.may_hide || known.as_ref().is_some_and(|known| known.may_hide);
    let known = known.filter(Snapshot::is_whole);
    let (builder, cache) = match known {
        None => (everything(imap, identity).await?, ListingCache::Miss),
        Some(known) => match bring_up_to_date(imap, known, now(selected), differences).await {
            Ok(updated) => updated,
            // Whatever the upstream does not like about the short questions, there is the long one.
            Err(failure) if failure.kind.leaves_upstream_usable() => {
                (everything(imap, identity).await?, ListingCache::Miss)
            }
            Err(failure) => return Err(failure),
        },
    };
    let snapshot = Snapshot {
        may_hide,
        ..snapshot(selected, identity, builder)
    };
    Ok((snapshot, cache))
}

/// The newest messages of a mailbox that has too many to list them all: as many as POP3 is to show, and
/// more only where some of those are hidden.
async fn newest(
    imap: &mut ImapClient,
    selected: &Selected,
    known: Option<Snapshot>,
    identity: ListingIdentity,
    remembered: &Remembered,
    wanted: u32,
) -> Result<(Snapshot, ListingCache), Failure> {
    let known = known.filter(|known| known.still_holds(now(selected)));
    let mut cache = ListingCache::Hit;
    let mut newest =
        known.unwrap_or_else(|| snapshot(selected, identity, ListingBuilder::default()));
    let mut asked = newest.listing.len() as u32;
    while newest.shown(remembered, wanted).len() < wanted as usize && asked < MESSAGES_MAX {
        asked = asked.saturating_mul(2).max(wanted).min(MESSAGES_MAX);
        let first = imap.first_of_newest(asked).await?;
        let mut builder = ListingBuilder::default();
        let range = ListingRange {
            first,
            ..ListingRange::ALL
        };
        ask(imap, vec![Question::List(range)], identity, &mut builder).await?;
        newest = snapshot(selected, identity, builder);
        cache = ListingCache::Miss;
    }
    Ok((newest, cache))
}

fn snapshot(selected: &Selected, identity: ListingIdentity, builder: ListingBuilder) -> Snapshot {
    let (listing, concealed) = builder.build();
    Snapshot {
        exists: selected.exists,
        validity: selected.validity,
        identity,
        uid_next: selected.uid_next,
        mod_seq: selected.mod_seq,
        listing,
        concealed,
        may_hide: selected.may_hide,
    }
}

fn now(selected: &Selected) -> Now {
    Now {
        exists: selected.exists,
        uid_next: selected.uid_next,
        mod_seq: selected.mod_seq,
        may_hide: selected.may_hide,
    }
}

/// How the upstream will tell what is different from what was known; has it enabled what that takes.
async fn differences(
    imap: &mut ImapClient,
    known: Option<&Snapshot>,
) -> Result<Differences, Failure> {
    let Some(known) = known else {
        return Ok(Differences::Untold);
    };
    let capabilities = imap.known_capabilities().await?;
    match known.differences(capabilities) {
        Differences::ChangedAndVanished if !imap.enable_qresync().await? => {
            Ok(Differences::Changed)
        }
        differences => Ok(differences),
    }
}

fn asks_who_vanished(question: &Question) -> bool {
    matches!(question, Question::List(range) if range.vanished)
}

/// Which messages from this one on bear `\Seen`. An upstream that does not tell is not guessed at, since a
/// client would fetch again what it took for unread.
///
/// # Errors
/// When the upstream refuses or is lost.
pub(super) async fn seen(
    imap: &mut ImapClient,
    listing: &Listing,
    from: Uid,
) -> Result<UidSet, Failure> {
    let capabilities = imap.known_capabilities().await?;
    let answer = SearchAnswer::from(capabilities);
    let commands = snapshot::parts(listing)
        .into_iter()
        .filter(|(_, last)| from <= *last)
        .map(|(first, last)| UidSet::range(first.max(from), last))
        .map(|part| Command::search(&part, SearchedState::Seen, answer));
    let mut seen = Named::default();
    if listing.is_empty() {
        return Ok(UidSet::default());
    }
    imap.inquire(commands.collect(), |untagged| {
        if let Untagged::Search(uids) = untagged {
            seen.add(&uids);
        }
    })
    .await?;
    Ok(seen.all()?)
}

async fn everything(
    imap: &mut ImapClient,
    identity: ListingIdentity,
) -> Result<ListingBuilder, Failure> {
    let mut builder = ListingBuilder::default();
    // `1:*` names the last message even of an empty mailbox.
    if imap.exists() > 0 {
        ask(imap, snapshot::everything(), identity, &mut builder).await?;
    }
    Ok(builder)
}

async fn bring_up_to_date(
    imap: &mut ImapClient,
    mut known: Snapshot,
    now: Now,
    differences: Differences,
) -> Result<(ListingBuilder, ListingCache), Failure> {
    let questions = known.open_questions(now, differences);
    let identity = known.identity;
    let cache = match questions.is_empty() {
        true => ListingCache::Hit,
        false => ListingCache::Updated,
    };
    let mut builder = ListingBuilder::from_earlier(known.listing, known.concealed);
    ask(imap, questions, identity, &mut builder).await?;
    // Who comes while it is asked may make up for who left before: then the numbers say nothing.
    let mut existed = now.exists;
    for _ in 0..RECONCILIATIONS_MAX {
        let exists = imap.exists();
        if builder.len() == exists as usize && exists == existed {
            return Ok((builder, cache));
        }
        if exists == 0 {
            return Ok((ListingBuilder::default(), ListingCache::Updated));
        }
        let questions = snapshot::reconciliation(builder.listing());
        ask(imap, questions, identity, &mut builder).await?;
        existed = exists;
    }
    match builder.len() == imap.exists() as usize {
        true => Ok((builder, ListingCache::Updated)),
        false => Ok((everything(imap, identity).await?, ListingCache::Miss)),
    }
}

/// Asks all of them at once, and hands the answers to the builder.
async fn ask(
    imap: &mut ImapClient,
    questions: Vec<Question>,
    identity: ListingIdentity,
    builder: &mut ListingBuilder,
) -> Result<(), Failure> {
    let capabilities = imap.known_capabilities().await?;
    let (mut found, mut vanished) = (Named::default(), Named::default());
    let mut asked = questions.clone();
    // Those that are known and have left are among them until all is heard.
    let (known, existed) = (builder.len(), imap.exists());
    while !asked.is_empty() {
        let commands = asked
            .iter()
            .map(|question| command(*question, identity, capabilities));
        let commands = commands.collect();
        let stopped_at = imap.inquire(commands, |untagged| match untagged {
            Untagged::Fetch(fetch) => add(fetch, builder),
            Untagged::Search(uids) => found.add(&uids),
            Untagged::Vanished { uids, .. } => vanished.add(&uids),
            _ => {}
        });
        let stopped_at = stopped_at.await?;
        if stopped_at.is_some() && !asked.iter().all(|it| matches!(it, Question::List(_))) {
            // RFC 9738 §3.1: of a SEARCH, that is not all either.
            let cause = "the upstream tells no more of so many messages at once";
            return Err(FailureKind::UpstreamRefused.because(cause));
        }
        let exist = existed.max(imap.exists()).min(MESSAGES_MAX) as usize;
        if builder.len() > known + 2 * exist + 1000 {
            return Err(Garbled("far more messages than there are").into());
        }
        asked.retain_mut(|question| goes_on(question, stopped_at));
    }
    let (found, vanished) = (found.all()?, vanished.all()?);
    builder.remove(&vanished);
    for question in questions {
        match question {
            Question::List(_) => {}
            Question::Deleted(first, last) | Question::DeletedOrHidden(first, last) => {
                builder.conceal(first, last, &found);
            }
            Question::Present(first, last) => builder.retain(first, last, &found),
        }
    }
    Ok(())
}

/// RFC 9738 §3: a listing goes from the highest UID down, so that what is below where it stopped is
/// still to come.
fn goes_on(question: &mut Question, stopped_at: Option<Uid>) -> bool {
    let Question::List(range) = question else {
        return false;
    };
    let Some(lowest) = stopped_at else {
        return false;
    };
    let descends = range.last.is_none_or(|last| lowest <= last) && range.first < lowest;
    range.last = Uid::new(lowest.number() - 1);
    descends
}

/// What answers name, each of them in ranges, of which there are at most [`MESSAGES_MAX`] together. An
/// upstream that names anything over and over again must fill neither our memory nor our time.
#[derive(Default)]
struct Named {
    /// The first and the last UID of each, as they came.
    ranges: Vec<(Uid, Uid)>,
    has_more: bool,
}

impl Named {
    fn add(&mut self, uids: &UidSet) {
        self.has_more |= self.ranges.len() + uids.ranges() > MESSAGES_MAX as usize;
        if !self.has_more {
            self.ranges.extend(uids.bounds());
        }
    }

    /// All of it.
    fn all(self) -> Result<UidSet, Garbled> {
        match self.has_more {
            true => Err(Garbled("more messages named than there can be")),
            false => Ok(UidSet::within_bounds(self.ranges)),
        }
    }
}

fn command(question: Question, identity: ListingIdentity, capabilities: Capabilities) -> Command {
    let search = |first, last, state| {
        let answer = SearchAnswer::from(capabilities);
        Command::search(&UidSet::range(first, last), state, answer)
    };
    match question {
        Question::List(range) => Command::fetch_listing(range, identity),
        Question::Deleted(first, last) => search(first, last, SearchedState::Deleted),
        Question::DeletedOrHidden(first, last) => {
            search(first, last, SearchedState::DeletedOrHidden)
        }
        Question::Present(first, last) => search(first, last, SearchedState::Present),
    }
}

fn add(fetch: Fetch, builder: &mut ListingBuilder) {
    // Flags that somebody changed just now may come by sequence number alone.
    let Some(uid) = fetch.uid else {
        return;
    };
    let name = match fetch.gmail_message_id {
        Some(id) => Some(format!("GmailId{id:x}").into_boxed_str()),
        None => fetch.email_id.map(String::into_boxed_str),
    };
    let told = Told {
        octets: fetch.octets,
        concealed: fetch.flags.map(|flags| flags.deleted || flags.hidden),
        name,
    };
    builder.add(uid, told);
}

/// What is asked of the messages for unique-ids of this format.
pub(super) fn identity(format: UniqueIdFormat) -> ListingIdentity {
    match format {
        UniqueIdFormat::Gmail => ListingIdentity::GmailMessageId,
        UniqueIdFormat::EmailId => ListingIdentity::EmailId,
        UniqueIdFormat::Dovecot
        | UniqueIdFormat::Uid
        | UniqueIdFormat::UidUnder(_)
        | UniqueIdFormat::Cyrus
        | UniqueIdFormat::Courier
        | UniqueIdFormat::Uw => ListingIdentity::Uid,
    }
}

/// To give other unique-ids than the configured ones would make every client fetch everything again.
fn check(identity: ListingIdentity, imap: &ImapClient) -> Result<(), Failure> {
    let (capability, name) = match identity {
        ListingIdentity::Uid => return Ok(()),
        ListingIdentity::GmailMessageId => (Capability::GmailExtensions, "X-GM-EXT-1"),
        ListingIdentity::EmailId => (Capability::ObjectId, "OBJECTID"),
    };
    match imap.has(capability) {
        true => Ok(()),
        false => Err(FailureKind::Misconfigured.because(format!(
            "maildrop.unique_id needs {name}, which the upstream does not have"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every second of so many UIDs, which takes half as many ranges.
    fn every_second(uids: u32) -> UidSet {
        (1..=uids).step_by(2).filter_map(Uid::new).collect()
    }

    #[test]
    fn what_is_named_over_and_over_again_is_given_up() {
        let mut named = Named::default();
        named.add(&[40_000, 2].into_iter().filter_map(Uid::new).collect());
        named.add(&every_second(20_000));
        let all = named.all().expect("few");
        assert_eq!(all.to_string().split(',').next(), Some("1:3"));
        assert_eq!((all.len(), all.ranges()), (10_002, 10_000));
        let mut named = Named::default();
        for _ in 0..MESSAGES_MAX / 10_000 {
            named.add(&every_second(20_000));
        }
        assert!(!named.has_more, "as many as there can be");
        named.add(&every_second(1));
        assert!(named.all().is_err());
    }
}
