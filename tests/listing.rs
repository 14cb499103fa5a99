//! What a session lists is what the mailbox holds, whatever happened since the last session or happens
//! while this one logs in.
//!
//! A model of a mailbox speaks as much IMAP as opening it takes, with each choice of the extensions that
//! matter: ESEARCH, CONDSTORE, QRESYNC. Random histories change it between sessions, and between the commands of
//! a login.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use popgate::config::{Config, Endpoint, EndpointSecurity, Service, Upstream};
use popgate::line_stream::{ByteStream, LineStream};
use popgate::session::{Client, Gateway, pop3};
use popgate::upstream::{Dial, Dialling};
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Octets that a pipe holds.
const PIPE_OCTETS: usize = 1024 * 1024;

#[derive(Debug, Clone, Copy)]
enum Event {
    /// A message of so many octets comes.
    Arrive(u32),
    /// The n-th of those that are there leaves.
    Leave(usize),
    /// The n-th is marked, or unmarked, as `\Deleted`.
    Delete(usize),
    /// The n-th is hidden, or shown again.
    Hide(usize),
    /// All UIDs mean something else now.
    Renumber,
}

#[derive(Debug, Clone)]
enum Step {
    Between(Event),
    /// A session, during whose login this happens before the n-th command is obeyed.
    Session(Option<(usize, Event)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    octets: u32,
    deleted: bool,
    hidden: bool,
    mod_seq: u64,
}

#[derive(Debug, Clone)]
struct Mailbox {
    capabilities: &'static str,
    validity: u32,
    uid_next: u32,
    mod_seq: u64,
    messages: BTreeMap<u32, Message>,
    /// Before which command of the next session something happens.
    pending: Option<(usize, Event)>,
    /// Commands of this session.
    commands: usize,
    logins: usize,
    /// What the client has not been told of yet.
    news: String,
    /// Whether this session says VANISHED instead of EXPUNGE.
    qresync: bool,
}

impl Mailbox {
    fn new(capabilities: &'static str) -> Self {
        Self {
            capabilities,
            validity: 1,
            uid_next: 1,
            mod_seq: 1,
            messages: BTreeMap::new(),
            pending: None,
            commands: 0,
            logins: 0,
            news: String::new(),
            qresync: false,
        }
    }

    fn happen(&mut self, event: Event) {
        self.mod_seq += 1;
        let mod_seq = self.mod_seq;
        let messages = self.messages.len().max(1);
        let nth = |number: usize| number % messages;
        match event {
            Event::Arrive(octets) => {
                let message = Message {
                    octets,
                    deleted: false,
                    hidden: false,
                    mod_seq,
                };
                self.messages.insert(self.uid_next, message);
                self.uid_next += 1 + octets % 3;
                let _ = write!(self.news, "* {} EXISTS\r\n", self.messages.len());
            }
            Event::Leave(number) => {
                let number = nth(number);
                if let Some(uid) = self.messages.keys().nth(number).copied() {
                    self.messages.remove(&uid);
                    let _ = match self.qresync {
                        true => write!(self.news, "* VANISHED {uid}\r\n"),
                        false => write!(self.news, "* {} EXPUNGE\r\n", number + 1),
                    };
                }
            }
            Event::Delete(number) => {
                if let Some(message) = self.messages.values_mut().nth(nth(number)) {
                    message.deleted = !message.deleted;
                    message.mod_seq = mod_seq;
                }
            }
            Event::Hide(number) => {
                if let Some(message) = self.messages.values_mut().nth(nth(number)) {
                    message.hidden = !message.hidden;
                    message.mod_seq = mod_seq;
                }
            }
            Event::Renumber => {
                self.validity += 1;
                let messages = std::mem::take(&mut self.messages).into_values();
                self.messages = (1..).zip(messages).collect();
                self.uid_next = self.messages.len() as u32 + 1;
            }
        }
    }

    /// The answer to one command.
    fn obey(&mut self, line: &str) -> String {
        if let Some((before, event)) = self.pending
            && before == self.commands
        {
            self.pending = None;
            self.happen(event);
        }
        self.commands += 1;
        let (tag, command) = line.split_once(' ').expect("a tag");
        let mut answer = String::new();
        if command.starts_with("LOGIN") || command.starts_with("AUTHENTICATE") {
            self.qresync = false;
            self.logins += 1;
            return format!("{tag} OK [CAPABILITY {}] welcome\r\n", self.capabilities);
        } else if command == "ENABLE QRESYNC" {
            self.qresync = true;
            return format!("* ENABLED QRESYNC\r\n{tag} OK enabled\r\n");
        } else if command.starts_with("SELECT") {
            self.news.clear();
            self.select(command.ends_with("(CONDSTORE)"), &mut answer);
        } else if let Some(arguments) = command.strip_prefix("UID FETCH ") {
            self.fetch(arguments, &mut answer);
        } else if let Some(arguments) = command.strip_prefix("UID SEARCH ") {
            self.search(tag, arguments, &mut answer);
        } else if command == "LOGOUT" {
            return format!("* BYE\r\n{tag} OK bye\r\n");
        } else {
            panic!("unexpected: {line}");
        }
        answer.push_str(&std::mem::take(&mut self.news));
        let _ = write!(answer, "{tag} OK done\r\n");
        answer
    }

    fn select(&self, counts: bool, answer: &mut String) {
        let keyword = match self.messages.values().any(|message| message.hidden) {
            true => " $POP3Deleted",
            false => "",
        };
        let _ = write!(
            answer,
            "* FLAGS (\\Seen \\Deleted{keyword})\r\n* {} EXISTS\r\n* OK [UIDVALIDITY {}]\r\n* OK [UIDNEXT {}]\r\n",
            self.messages.len(),
            self.validity,
            self.uid_next
        );
        if counts {
            let _ = write!(answer, "* OK [HIGHESTMODSEQ {}]\r\n", self.mod_seq);
        }
    }

    /// `first:last (items) [(CHANGEDSINCE n [VANISHED])]`
    fn fetch(&self, arguments: &str, answer: &mut String) {
        let (set, items) = arguments.split_once(' ').expect("items");
        let since = items.split_once("(CHANGEDSINCE ").map(|(_, since)| {
            let since = since.trim_end_matches(')');
            if let Some(since) = since.strip_suffix(" VANISHED") {
                self.vanished(set, answer);
                return since.parse().expect("a number");
            }
            since.parse().expect("a number")
        });
        for (number, (uid, message)) in (1..).zip(&self.messages) {
            if self.is_in(set, *uid) && since.is_none_or(|since: u64| message.mod_seq > since) {
                let Message { octets, .. } = message;
                let flags = [
                    message.deleted.then_some("\\Deleted"),
                    message.hidden.then_some("$POP3Deleted"),
                ];
                let flags = flags.into_iter().flatten().collect::<Vec<_>>().join(" ");
                let _ = write!(
                    answer,
                    "* {number} FETCH (UID {uid} RFC822.SIZE {octets} FLAGS ({flags}))\r\n"
                );
            }
        }
    }

    /// It does not remember who left when, so that it names all that is not there (RFC 7162 §3.2.5.1).
    fn vanished(&self, set: &str, answer: &mut String) {
        assert!(self.qresync, "VANISHED without ENABLE");
        let vanished: Vec<String> = (1..self.uid_next)
            .filter(|uid| self.is_in(set, *uid) && !self.messages.contains_key(uid))
            .map(|uid| uid.to_string())
            .collect();
        if !vanished.is_empty() {
            let _ = write!(answer, "* VANISHED (EARLIER) {}\r\n", vanished.join(","));
        }
    }

    /// `[RETURN (ALL)] UID set [criterion]`
    fn search(&self, tag: &str, arguments: &str, answer: &mut String) {
        let ranges = arguments.strip_prefix("RETURN (ALL) ");
        let arguments = ranges.unwrap_or(arguments);
        let set = arguments.strip_prefix("UID ").expect("a set");
        let (set, criterion) = set.split_once(' ').unwrap_or((set, ""));
        let is_sought = |message: &Message| match criterion {
            "" => true,
            "DELETED" => message.deleted,
            "OR DELETED KEYWORD $POP3Deleted" => message.deleted || message.hidden,
            other => panic!("unexpected: {other}"),
        };
        let found: Vec<String> = self
            .messages
            .iter()
            .filter(|(uid, message)| self.is_in(set, **uid) && is_sought(message))
            .map(|(uid, _)| uid.to_string())
            .collect();
        let _ = match (ranges, found.is_empty()) {
            (None, _) => write!(answer, "* SEARCH {}\r\n", found.join(" ")),
            (Some(_), true) => write!(answer, "* ESEARCH (TAG \"{tag}\") UID\r\n"),
            (Some(_), false) => {
                let found = found.join(",");
                write!(answer, "* ESEARCH (TAG \"{tag}\") UID ALL {found}\r\n")
            }
        };
    }

    fn is_in(&self, set: &str, uid: u32) -> bool {
        let highest = self.messages.keys().last().copied().unwrap_or(0);
        let number = |text: &str| match text {
            "*" => highest,
            text => text.parse().expect("a number"),
        };
        let (first, last) = set.split_once(':').unwrap_or((set, set));
        let (first, last) = (number(first), number(last));
        (first.min(last)..=first.max(last)).contains(&uid)
    }
}

/// Answers every connection out of the one mailbox.
struct Model(Arc<Mutex<Mailbox>>);

impl Dial for Model {
    fn dial<'a>(&'a self, _: &'a Endpoint, _: Duration) -> Dialling<'a> {
        let (ours, theirs) = duplex(PIPE_OCTETS);
        tokio::spawn(converse(self.0.clone(), theirs));
        let ours: Box<dyn ByteStream> = Box::new(ours);
        Box::pin(async { io::Result::Ok(ours) })
    }
}

async fn converse(mailbox: Arc<Mutex<Mailbox>>, stream: DuplexStream) {
    let mut stream = BufReader::new(stream);
    let capabilities = lock(&mailbox).capabilities;
    let greeting = format!("* OK [CAPABILITY {capabilities}] ready\r\n");
    let mut answer = greeting;
    loop {
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(1..) => answer = lock(&mailbox).obey(line.trim_end()),
            Ok(0) | Err(_) => return,
        }
    }
}

fn lock(mailbox: &Mutex<Mailbox>) -> std::sync::MutexGuard<'_, Mailbox> {
    mailbox.lock().unwrap_or_else(PoisonError::into_inner)
}

/// UIDVALIDITY, and UID and size of every message, as one session lists them.
async fn listed(gateway: &Arc<Gateway>) -> BTreeMap<(u32, u32), u32> {
    let (ours, theirs) = duplex(PIPE_OCTETS);
    let mut client = Client {
        lines: LineStream::new(Box::new(theirs), Duration::from_secs(60)),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        is_address_of_balancer: false,
        secure: false,
        listener: "pop3",
    };
    let gateway = gateway.clone();
    tokio::spawn(async move { pop3::serve(&mut client, &gateway, Instant::now()).await });
    let mut ours = BufReader::new(ours);
    let said = b"USER joe\r\nPASS secret\r\nLIST\r\nUIDL\r\nQUIT\r\n";
    ours.get_mut().write_all(said).await.expect("written");
    let mut heard = String::new();
    ours.read_to_string(&mut heard).await.expect("read");
    let mut lines = heard.lines().skip(3);
    let mut block = || -> Vec<String> {
        let status = lines.next().expect("a reply");
        assert!(status.starts_with("+OK"), "{heard}");
        let lines = lines.by_ref().take_while(|line| *line != ".");
        let second = |line: &str| line.split(' ').nth(1).expect("two words").to_owned();
        lines.map(second).collect()
    };
    let (octets, names) = (block(), block());
    assert_eq!(octets.len(), names.len());
    let name = |name: &str| {
        let half = |range| u32::from_str_radix(&name[range], 16).expect("hexadecimal");
        (half(8..16), half(0..8))
    };
    let octets = octets.iter().map(|octets| octets.parse().expect("octets"));
    names.iter().map(|text| name(text)).zip(octets).collect()
}

/// A gateway in front of this mailbox, on an upstream of this address.
fn gateway(host: &str, mailbox: &Arc<Mutex<Mailbox>>, newest: u32) -> Arc<Gateway> {
    let endpoint = Endpoint {
        service: Service::Imap,
        host: host.to_owned(),
        port: 143,
        security: EndpointSecurity::Clear,
    };
    let mut upstream = Upstream::new("default", endpoint);
    upstream.maildrop.newest_messages = newest;
    let config = Config::for_upstream(upstream);
    let dialer = Arc::new(Model(mailbox.clone()));
    popgate::gateway(&config, dialer, CancellationToken::new()).expect("a gateway")
}

async fn check(capabilities: &'static str, newest: u32, steps: &[Step]) {
    let mailbox = Arc::new(Mutex::new(Mailbox::new(capabilities)));
    let gateway = gateway("127.0.0.1", &mailbox, newest);
    for step in steps {
        match step {
            Step::Between(event) => lock(&mailbox).happen(*event),
            Step::Session(during) => {
                let before = lock(&mailbox).clone();
                lock(&mailbox).pending = *during;
                lock(&mailbox).commands = 0;
                let listed = listed(&gateway).await;
                lock(&mailbox).pending = None;
                let after = lock(&mailbox).clone();
                compare(&listed, &before, &after, newest);
            }
        }
    }
}

/// What was among the newest that are shown all the time is listed, and nothing that never was there, nor
/// what was concealed or too old all the time. Where nothing happened, that is equality.
fn compare(listed: &BTreeMap<(u32, u32), u32>, before: &Mailbox, after: &Mailbox, newest: u32) {
    let find = |mailbox: &Mailbox, (validity, uid): (u32, u32)| {
        let message = mailbox.messages.get(&uid).copied();
        message.filter(|_| mailbox.validity == validity)
    };
    let is_shown = |message: Message| !message.deleted && !message.hidden;
    let was_shown = |mailbox: &Mailbox, name: (u32, u32)| find(mailbox, name).is_some_and(is_shown);
    // How many newer ones there were at some time, or all the time.
    let newer = |(validity, uid): (u32, u32), times: fn(bool, bool) -> bool| {
        let uids = before.messages.keys().chain(after.messages.keys());
        let uids: BTreeSet<u32> = uids.copied().filter(|newer| *newer > uid).collect();
        let is_counted = |newer: &&u32| {
            let name = (validity, **newer);
            times(was_shown(before, name), was_shown(after, name))
        };
        uids.iter().filter(is_counted).count() as u32
    };
    assert!(listed.len() <= newest as usize, "more than the newest");
    for (name, octets) in listed {
        assert!(
            newer(*name, |before, after| before && after) < newest,
            "{name:?} is too old"
        );
        let there = [before, after].map(|mailbox| find(mailbox, *name));
        let sound = |message: &Option<Message>| message.is_some_and(|it| it.octets == *octets);
        assert!(there.iter().any(sound), "{name:?} is not there");
        let concealed = there.iter().all(|it| it.is_some_and(|it| !is_shown(it)));
        assert!(!concealed, "{name:?} is concealed");
    }
    for uid in before.messages.keys() {
        let name = (before.validity, *uid);
        let there = [before, after].map(|mailbox| find(mailbox, name));
        let shown = there.iter().all(|it| it.is_some_and(is_shown))
            && newer(name, |before, after| before || after) < newest;
        assert!(
            !shown || listed.contains_key(&name),
            "{name:?} is not listed"
        );
    }
}

/// Of so many messages without gaps between their UIDs, those whose UIDs are `left` are left after the first of
/// two sessions, which take so many logins.
async fn check_mass_deletion(
    capabilities: &'static str,
    messages: u32,
    left: fn(u32) -> bool,
    logins: usize,
) {
    let mailbox = Arc::new(Mutex::new(Mailbox::new(capabilities)));
    let gateway = gateway("127.0.0.1", &mailbox, MESSAGES_MAX);
    for _ in 0..messages {
        lock(&mailbox).happen(Event::Arrive(3));
    }
    assert_eq!(listed(&gateway).await.len(), messages as usize);
    lock(&mailbox).mod_seq += 1;
    lock(&mailbox).messages.retain(|uid, _| left(*uid));
    let now = lock(&mailbox).clone();
    let messages = now.messages.iter();
    let expected = messages.map(|(uid, message)| ((now.validity, *uid), message.octets));
    assert!(listed(&gateway).await.into_iter().eq(expected));
    assert_eq!(lock(&mailbox).logins, logins, "{capabilities}");
}

/// Messages that a listing may have.
const MESSAGES_MAX: u32 = 1_000_000;

const CAPABILITIES: [&str; 5] = [
    "IMAP4rev1 UIDPLUS",
    "IMAP4rev1 UIDPLUS ESEARCH",
    "IMAP4rev1 UIDPLUS CONDSTORE",
    "IMAP4rev1 UIDPLUS CONDSTORE ESEARCH SASL-IR AUTH=PLAIN",
    "IMAP4rev1 UIDPLUS CONDSTORE QRESYNC ENABLE ESEARCH",
];

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1u32..1000).prop_map(Event::Arrive),
        3 => (0usize..20).prop_map(Event::Leave),
        2 => (0usize..20).prop_map(Event::Delete),
        2 => (0usize..20).prop_map(Event::Hide),
        1 => Just(Event::Renumber),
    ]
}

fn histories() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => events().prop_map(Step::Between),
        1 => Just(Step::Session(None)),
        1 => (0usize..7, events()).prop_map(|(before, event)| match event {
            // No server may do that to a mailbox that is selected.
            Event::Renumber => Step::Session(Some((before.min(1), event))),
            event => Step::Session(Some((before, event))),
        }),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_listing_brought_up_to_date_equals_a_fresh_one(
        steps in histories(),
        newest in prop_oneof![Just(MESSAGES_MAX), 1u32..10],
    ) {
        popgate::tls::install_provider();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        for capabilities in CAPABILITIES {
            runtime.block_on(check(capabilities, newest, &steps));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn most_messages_may_leave_at_once() {
    popgate::tls::install_provider();
    for capabilities in CAPABILITIES {
        check_mass_deletion(capabilities, 2000, |uid| uid <= 2, 2).await;
    }
}

/// RFC 7162 §3.2.10: all who left are named in one line, which may be longer than any that is read. Then there
/// is another login, with the long question.
#[tokio::test(start_paused = true)]
async fn who_left_may_be_too_many_for_one_line() {
    popgate::tls::install_provider();
    let capabilities = CAPABILITIES[4];
    check_mass_deletion(capabilities, 30_000, |uid| uid.is_multiple_of(2), 3).await;
}

/// Settings that are read again may give a name to another server.
#[tokio::test(start_paused = true)]
async fn nothing_is_known_of_another_server_under_the_same_name() {
    popgate::tls::install_provider();
    let [here, there] = [3, 6].map(|octets| {
        let mut mailbox = Mailbox::new(CAPABILITIES[2]);
        mailbox.happen(Event::Arrive(octets));
        Arc::new(Mutex::new(mailbox))
    });
    let before = gateway("127.0.0.1", &here, MESSAGES_MAX);
    assert!(listed(&before).await.into_values().eq([3]));
    let mut after = gateway("127.0.0.2", &there, MESSAGES_MAX);
    let gateway = Arc::get_mut(&mut after).expect("nobody else has it yet");
    gateway.listings = before.listings.clone();
    gateway.memory = before.memory.clone();
    assert!(listed(&after).await.into_values().eq([6]));
    assert!(
        listed(&before).await.into_values().eq([3]),
        "what is known stays known"
    );
}
