//! The mailboxes of the sample account, in memory: UIDs, flags, and who may have how much.
//!
//! It knows nothing of connections: each has its own view of a mailbox and compares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::date::InternalDate;

/// What all messages together may take: a person's experiments fit, memory does not run out.
const STORE_OCTETS_MAX: usize = 200 * 1024 * 1024;
const STORE_MESSAGES_MAX: usize = 100_000;
const MAILBOXES_MAX: usize = 200;
const NAME_OCTETS_MAX: usize = 255;
const FLAGS_PER_MESSAGE_MAX: usize = 64;

/// Between the levels of a mailbox name.
pub const HIERARCHY_DELIMITER: char = '/';

/// The account, shared by all connections.
#[derive(Debug, Clone)]
pub struct SampleStore(Arc<Mutex<SampleMailboxes>>);

impl SampleStore {
    /// The usual folders, empty. Later mailboxes get higher UIDVALIDITYs than this one.
    pub fn new(uid_validity: u32) -> Self {
        Self(Arc::new(Mutex::new(SampleMailboxes::new(uid_validity))))
    }

    /// Exclusive access. Never hold it over an `.await`.
    pub fn lock(&self) -> MutexGuard<'_, SampleMailboxes> {
        // No method below leaves the mailboxes half changed, so a panic elsewhere harms nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no mailbox of that name.
    NoSuchMailbox,
    /// There already is a mailbox of that name.
    AlreadyExists,
    /// No mailbox can have that name.
    ImpossibleName,
    /// The store holds as much as it may.
    Full,
    /// A message would have too many flags.
    TooManyFlags,
}

/// Which mailbox. Mailboxes are never removed, so it stays true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxId(usize);

/// All mailboxes of the account.
#[derive(Debug)]
pub struct SampleMailboxes {
    mailboxes: Vec<SampleMailbox>,
    next_uid_validity: u32,
}

impl SampleMailboxes {
    fn new(uid_validity: u32) -> Self {
        let mut this = Self {
            mailboxes: Vec::new(),
            next_uid_validity: uid_validity,
        };
        this.add("INBOX", None);
        this.add("Archive", Some("\\Archive"));
        this.add("Sent", Some("\\Sent"));
        this.add("Trash", Some("\\Trash"));
        this
    }

    fn add(&mut self, name: &str, special_use: Option<&'static str>) {
        self.mailboxes.push(SampleMailbox {
            name: name.to_owned(),
            special_use,
            uid_validity: self.next_uid_validity,
            uid_next: 1,
            messages: Vec::new(),
        });
        self.next_uid_validity = self.next_uid_validity.wrapping_add(1).max(1);
    }

    /// In the order of their creation.
    pub fn iter(&self) -> impl Iterator<Item = &SampleMailbox> {
        self.mailboxes.iter()
    }

    /// The mailbox of that name; INBOX in any case (RFC 3501 §5.1).
    pub fn find(&self, name: &str) -> Result<MailboxId, Refusal> {
        let name = canonical(name);
        let position = self.mailboxes.iter().position(|it| it.name == name);
        position.map(MailboxId).ok_or(Refusal::NoSuchMailbox)
    }

    /// The mailbox itself.
    pub fn get(&self, id: MailboxId) -> &SampleMailbox {
        &self.mailboxes[id.0]
    }

    /// The mailbox itself, to change flags or to expunge.
    pub fn get_mut(&mut self, id: MailboxId) -> &mut SampleMailbox {
        &mut self.mailboxes[id.0]
    }

    /// CREATE (RFC 3501 §6.3.3), the levels above included.
    pub fn create(&mut self, name: &str) -> Result<(), Refusal> {
        // A trailing delimiter only announces that there will be something below.
        let name = canonical(name.strip_suffix(HIERARCHY_DELIMITER).unwrap_or(name));
        if !possible(&name) {
            return Err(Refusal::ImpossibleName);
        }
        if self.find(&name).is_ok() {
            return Err(Refusal::AlreadyExists);
        }
        let levels = name.match_indices(HIERARCHY_DELIMITER).map(|(at, _)| at);
        let missing: Vec<&str> = levels
            .chain([name.len()])
            .map(|end| &name[..end])
            .filter(|level| self.find(level).is_err())
            .collect();
        if self.mailboxes.len() + missing.len() > MAILBOXES_MAX {
            return Err(Refusal::Full);
        }
        for level in missing {
            self.add(level, None);
        }
        Ok(())
    }

    /// Adds a message and says which UID it got.
    pub fn append(
        &mut self,
        mailbox: MailboxId,
        octets: Arc<[u8]>,
        flags: Vec<Flag>,
        internal_date: InternalDate,
    ) -> Result<u32, Refusal> {
        self.room_for(mailbox, 1, octets.len())?;
        if flags.len() > FLAGS_PER_MESSAGE_MAX {
            return Err(Refusal::TooManyFlags);
        }
        let mailbox = self.get_mut(mailbox);
        Ok(mailbox.push(octets, distinct(flags), internal_date))
    }

    /// Copies all of the messages or none, their UIDs ascending; answers (old UID, new UID) of
    /// each that there was.
    pub fn copy(
        &mut self,
        from: MailboxId,
        uids: &[u32],
        to: MailboxId,
    ) -> Result<Vec<(u32, u32)>, Refusal> {
        let source = self.get(from);
        let originals: Vec<SampleMessage> = uids
            .iter()
            .filter_map(|&uid| source.message(uid))
            .cloned()
            .collect();
        let octets = originals.iter().map(|it| it.octets.len()).sum();
        self.room_for(to, originals.len(), octets)?;
        let target = self.get_mut(to);
        let copy = |it: SampleMessage| (it.uid, target.push(it.octets, it.flags, it.internal_date));
        Ok(originals.into_iter().map(copy).collect())
    }

    /// As [`Self::copy`], and the originals are gone.
    pub fn relocate(
        &mut self,
        from: MailboxId,
        uids: &[u32],
        to: MailboxId,
    ) -> Result<Vec<(u32, u32)>, Refusal> {
        let pairs = self.copy(from, uids, to)?;
        let source = self.get_mut(from);
        source
            .messages
            .retain(|it| pairs.binary_search_by_key(&it.uid, |pair| pair.0).is_err());
        Ok(pairs)
    }

    fn room_for(&self, to: MailboxId, messages: usize, octets: usize) -> Result<(), Refusal> {
        let all = || self.mailboxes.iter().flat_map(|it| &it.messages);
        let octets_held: usize = all().map(|it| it.octets.len()).sum();
        let uids_left = (u32::MAX - self.get(to).uid_next) as usize;
        let room = octets_held + octets <= STORE_OCTETS_MAX
            && all().count() + messages <= STORE_MESSAGES_MAX
            && messages <= uids_left;
        room.then_some(()).ok_or(Refusal::Full)
    }
}

fn canonical(name: &str) -> String {
    let (first, rest) = match name.split_once(HIERARCHY_DELIMITER) {
        Some((first, _)) => name.split_at(first.len()),
        None => (name, ""),
    };
    match first.eq_ignore_ascii_case("INBOX") {
        true => format!("INBOX{rest}"),
        false => name.to_owned(),
    }
}

/// Names are kept as they are on the wire (modified UTF-7, RFC 3501 §5.1.3), which is ASCII.
fn possible(name: &str) -> bool {
    name.len() <= NAME_OCTETS_MAX
        && name
            .split(HIERARCHY_DELIMITER)
            .all(|level| !level.is_empty())
        && name
            .bytes()
            .all(|octet| matches!(octet, b' '..=b'~') && !b"*%\"\\".contains(&octet))
}

/// One mailbox.
#[derive(Debug)]
pub struct SampleMailbox {
    name: String,
    special_use: Option<&'static str>,
    uid_validity: u32,
    uid_next: u32,
    messages: Vec<SampleMessage>, // by ascending UID
}

impl SampleMailbox {
    /// As LIST shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its attribute of RFC 6154, backslash included.
    pub fn special_use(&self) -> Option<&'static str> {
        self.special_use
    }

    /// Differs between two mailboxes that ever had the same name.
    pub fn uid_validity(&self) -> u32 {
        self.uid_validity
    }

    /// Higher than every UID that the mailbox ever had.
    pub fn uid_next(&self) -> u32 {
        self.uid_next
    }

    /// By ascending UID.
    pub fn messages(&self) -> &[SampleMessage] {
        &self.messages
    }

    /// The message with this UID, if it is still there.
    pub fn message(&self, uid: u32) -> Option<&SampleMessage> {
        let position = self.messages.binary_search_by_key(&uid, |it| it.uid);
        position.ok().map(|at| &self.messages[at])
    }

    /// Every keyword that a message has.
    pub fn keywords(&self) -> Vec<Flag> {
        let flags = self.messages.iter().flat_map(|it| &it.flags);
        distinct(flags.filter(|flag| !flag.is_system()).cloned().collect())
    }

    /// STORE (RFC 3501 §6.4.6) for one message, if it is still there.
    pub fn change_flags(&mut self, uid: u32, change: &FlagChange) -> Result<(), Refusal> {
        let Ok(at) = self.messages.binary_search_by_key(&uid, |it| it.uid) else {
            return Ok(());
        };
        let message = &mut self.messages[at];
        let flags = change.applied_to(&message.flags);
        if flags.len() > FLAGS_PER_MESSAGE_MAX {
            return Err(Refusal::TooManyFlags);
        }
        if flags != message.flags {
            message.flags = flags;
            message.flags_revision += 1;
        }
        Ok(())
    }

    /// Removes what is marked `\Deleted` and also wanted.
    pub fn expunge(&mut self, wanted: impl Fn(u32) -> bool) {
        let deleted = Flag::deleted();
        self.messages
            .retain(|it| !(it.flags.contains(&deleted) && wanted(it.uid)));
    }

    fn push(&mut self, octets: Arc<[u8]>, flags: Vec<Flag>, internal_date: InternalDate) -> u32 {
        let uid = self.uid_next;
        self.uid_next += 1; // `room_for` has seen that it can.
        self.messages.push(SampleMessage {
            uid,
            octets,
            flags,
            flags_revision: 0,
            internal_date,
        });
        uid
    }
}

/// One message. Its copies share the octets.
#[derive(Debug, Clone)]
pub struct SampleMessage {
    uid: u32,
    octets: Arc<[u8]>,
    flags: Vec<Flag>,
    flags_revision: u64,
    internal_date: InternalDate,
}

impl SampleMessage {
    /// Its unique identifier in its mailbox.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The message as it was appended.
    pub fn octets(&self) -> &Arc<[u8]> {
        &self.octets
    }

    /// System flags and keywords, each once.
    pub fn flags(&self) -> &[Flag] {
        &self.flags
    }

    /// Grows whenever the flags become other ones.
    pub fn flags_revision(&self) -> u64 {
        self.flags_revision
    }

    /// When it arrived.
    pub fn internal_date(&self) -> InternalDate {
        self.internal_date
    }
}

/// A system flag or a keyword (RFC 3501 §2.3.2), the same in any case.
#[derive(Debug, Clone)]
pub struct Flag(String);

impl Flag {
    /// What a client may store, in the order in which FLAGS shows them.
    pub const SYSTEM: [&str; 5] = ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"];

    /// A flag that a client may store: a keyword, which the caller knows to be an atom, or one
    /// of [`Self::SYSTEM`].
    pub fn new(text: &str) -> Option<Self> {
        if !text.starts_with('\\') {
            return Some(Self(text.to_owned()));
        }
        let mut system = Self::SYSTEM.iter();
        let known = system.find(|it| it.eq_ignore_ascii_case(text))?;
        Some(Self((*known).to_owned()))
    }

    /// `\Seen`.
    pub fn seen() -> Self {
        Self("\\Seen".to_owned())
    }

    /// `\Deleted`.
    pub fn deleted() -> Self {
        Self("\\Deleted".to_owned())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_system(&self) -> bool {
        self.0.starts_with('\\')
    }
}

impl PartialEq for Flag {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Flag {}

/// What STORE does with its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagChange {
    /// `FLAGS`.
    Replace(Vec<Flag>),
    /// `+FLAGS`.
    Add(Vec<Flag>),
    /// `-FLAGS`.
    Remove(Vec<Flag>),
}

impl FlagChange {
    fn applied_to(&self, flags: &[Flag]) -> Vec<Flag> {
        match self {
            Self::Replace(new) => distinct(new.clone()),
            Self::Add(new) => distinct([flags, new].concat()),
            Self::Remove(old) => {
                let kept = flags.iter().filter(|flag| !old.contains(flag));
                kept.cloned().collect()
            }
        }
    }
}

fn distinct(flags: Vec<Flag>) -> Vec<Flag> {
    let mut seen: Vec<Flag> = Vec::with_capacity(flags.len().min(FLAGS_PER_MESSAGE_MAX));
    for flag in flags {
        if !seen.contains(&flag) {
            seen.push(flag);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_with(messages: usize) -> (SampleMailboxes, MailboxId, MailboxId) {
        let mut store = SampleMailboxes::new(7);
        let inbox = store.find("inbox").expect("INBOX");
        let trash = store.find("Trash").expect("Trash");
        for number in 1..=messages {
            let octets = format!("Subject: {number}\r\n\r\n").into_bytes().into();
            let date = InternalDate::now();
            store.append(inbox, octets, Vec::new(), date).expect("room");
        }
        (store, inbox, trash)
    }

    fn uids(store: &SampleMailboxes, mailbox: MailboxId) -> Vec<u32> {
        let messages = store.get(mailbox).messages();
        messages.iter().map(SampleMessage::uid).collect()
    }

    #[test]
    fn uids_are_never_given_twice() {
        let (mut store, inbox, trash) = store_with(3);
        assert_eq!(
            store.relocate(inbox, &[2, 3, 9], trash),
            Ok(vec![(2, 1), (3, 2)])
        );
        assert_eq!(uids(&store, inbox), [1]);
        assert_eq!(store.relocate(trash, &[1], inbox), Ok(vec![(1, 4)]));
        assert_eq!(uids(&store, inbox), [1, 4]);
        assert_eq!(store.get(inbox).uid_next(), 5);
        // A move within a mailbox is one, too.
        assert_eq!(store.relocate(inbox, &[1], inbox), Ok(vec![(1, 5)]));
        assert_eq!(uids(&store, inbox), [4, 5]);
    }

    #[test]
    fn expunge_takes_only_what_is_marked_and_wanted() {
        let (mut store, inbox, _) = store_with(3);
        let mailbox = store.get_mut(inbox);
        for uid in [1, 2] {
            let mark = FlagChange::Add(vec![Flag::deleted()]);
            mailbox.change_flags(uid, &mark).expect("room");
        }
        mailbox.expunge(|uid| uid >= 2);
        assert_eq!(uids(&store, inbox), [1, 3]);
    }

    #[test]
    fn flags_are_the_same_in_any_case() {
        let (mut store, inbox, _) = store_with(1);
        let mailbox = store.get_mut(inbox);
        let change = |flags: &[&str]| flags.iter().filter_map(|it| Flag::new(it)).collect();
        let steps: [(FlagChange, &[&str], u64); 4] = [
            (
                FlagChange::Add(change(&["\\SEEN", "Later"])),
                &["\\Seen", "Later"],
                1,
            ),
            (
                FlagChange::Add(change(&["later", "\\seen"])),
                &["\\Seen", "Later"],
                1,
            ),
            (FlagChange::Remove(change(&["LATER"])), &["\\Seen"], 2),
            (FlagChange::Replace(change(&["a", "A"])), &["a"], 3),
        ];
        for (step, flags, revision) in steps {
            mailbox.change_flags(1, &step).expect("room");
            let message = mailbox.message(1).expect("message");
            let found: Vec<_> = message.flags().iter().map(Flag::as_str).collect();
            assert_eq!(
                (found.as_slice(), message.flags_revision()),
                (flags, revision)
            );
        }
        assert_eq!(Flag::new("\\Recent"), None);
    }

    #[test]
    fn create_makes_the_levels_above_too() {
        let mut store = SampleMailboxes::new(7);
        let steps = [
            ("inbox", Err(Refusal::AlreadyExists)),
            ("Lists/rust/", Ok(())),
            ("Lists", Err(Refusal::AlreadyExists)),
            ("inbox/old", Ok(())),
            ("INBOX/old", Err(Refusal::AlreadyExists)),
            ("", Err(Refusal::ImpossibleName)),
            ("/", Err(Refusal::ImpossibleName)),
            ("a//b", Err(Refusal::ImpossibleName)),
            ("a*", Err(Refusal::ImpossibleName)),
            ("Müll", Err(Refusal::ImpossibleName)),
            ("a\r\nb", Err(Refusal::ImpossibleName)),
        ];
        for (name, expected) in steps {
            assert_eq!(store.create(name), expected, "{name}");
        }
        let names: Vec<_> = store.iter().map(SampleMailbox::name).collect();
        let expected = [
            "INBOX",
            "Archive",
            "Sent",
            "Trash",
            "Lists",
            "Lists/rust",
            "INBOX/old",
        ];
        assert_eq!(names, expected);
        let validities: Vec<_> = store.iter().map(SampleMailbox::uid_validity).collect();
        assert_eq!(validities, [7, 8, 9, 10, 11, 12, 13]);
    }

    #[test]
    fn a_full_store_refuses_all_of_a_copy() {
        let (mut store, inbox, trash) = store_with(0);
        let large: Arc<[u8]> = vec![b'a'; STORE_OCTETS_MAX / 2].into();
        for _ in 0..2 {
            store
                .append(inbox, large.clone(), Vec::new(), InternalDate::now())
                .expect("room");
        }
        assert_eq!(store.copy(inbox, &[1, 2], trash), Err(Refusal::Full));
        assert!(uids(&store, trash).is_empty());
        let one = Arc::from(b"a".as_slice());
        let refused = store.append(trash, one, Vec::new(), InternalDate::now());
        assert_eq!(refused, Err(Refusal::Full));
    }
}
