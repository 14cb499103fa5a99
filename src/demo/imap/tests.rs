//! Dialogues: `C:` the client sends, `S:` it gets, `C2:` and `S2:` for a second client of the
//! same mailboxes. In between nothing else may be said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imap_codec::GreetingCodec;
use imap_codec::ResponseCodec;
use imap_codec::decode::Decoder;
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::command::Command;
use super::connection::LINE_OCTETS_MAX;
use super::{CAPABILITIES, serve};
use crate::demo::date::InternalDate;
use crate::demo::mailbox::SampleStore;

/// Three short messages in an INBOX of UIDVALIDITY 7; Trash has 10.
fn store() -> SampleStore {
    let store = SampleStore::new(7);
    let mut mailboxes = store.lock();
    let inbox = mailboxes.find("INBOX").expect("INBOX");
    for subject in ["one", "two", "three"] {
        let octets = format!("Subject: {subject}\r\nTo: you\r\n\r\n{subject}!\r\n");
        let date = InternalDate::parse("01-Nov-2026 12:00:00 +0000").expect("date");
        let appended = mailboxes.append(inbox, Arc::from(octets.into_bytes()), vec![], date);
        appended.expect("room");
    }
    drop(mailboxes);
    store
}

/// Longer than the server's own, which a test with a paused clock reaches first.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

struct Client {
    stream: BufReader<DuplexStream>,
}

impl Client {
    /// Connected, and greeted.
    async fn new(store: &SampleStore, shutdown: &CancellationToken) -> Self {
        let (ours, theirs) = duplex(1 << 20);
        tokio::spawn(serve(theirs, store.clone(), shutdown.clone()));
        let stream = BufReader::new(ours);
        let mut client = Self { stream };
        let greeting = client.line().await;
        assert!(greeting.starts_with(&format!("* OK [CAPABILITY {CAPABILITIES}] ")));
        client
    }

    async fn send(&mut self, text: &str) {
        self.stream
            .write_all(text.as_bytes())
            .await
            .expect("the server reads");
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let reading = self.stream.read_line(&mut line);
        let read = timeout(PATIENCE, reading).await.expect("an answer");
        read.expect("the server writes");
        line.strip_suffix("\r\n").unwrap_or(&line).to_owned()
    }

    async fn rest(mut self) -> String {
        let mut rest = String::new();
        self.stream
            .read_to_string(&mut rest)
            .await
            .expect("the server writes");
        rest
    }
}

async fn check(dialogue: &str) {
    check_with(&store(), dialogue).await;
}

async fn check_with(store: &SampleStore, dialogue: &str) {
    let shutdown = CancellationToken::new();
    let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
    for line in dialogue
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty())
    {
        let (who, text) = line.split_once(':').expect("C: or S:");
        let text = text.strip_prefix(' ').unwrap_or(text);
        let (side, name) = who.split_at(1);
        if !clients.contains_key(name) {
            clients.insert(name, Client::new(store, &shutdown).await);
        }
        let client = clients.get_mut(name).expect("just inserted");
        match side {
            "C" => client.send(&format!("{text}\r\n")).await,
            _ => assert_eq!(client.line().await, text, "in {dialogue}"),
        }
    }
    shutdown.cancel();
    for client in clients.into_values() {
        let rest = client.rest().await;
        let expected = ["", "* BYE The sample is shutting down\r\n"];
        assert!(
            expected.contains(&rest.as_str()),
            "{rest:?} after {dialogue}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn login_takes_every_kind_of_string() {
    for login in [
        "C: 1 LOGIN demo demo",
        "C: 1 login \"demo\" \"demo\"",
        "C: 1 LOGIN {4+}
         C: demo {4+}
         C: demo",
        "C: 1 LOGIN {4}
         S: + Go ahead
         C: demo {4}
         S: + Go ahead
         C: demo",
        "C: 1 AUTHENTICATE PLAIN AGRlbW8AZGVtbw==",
        "C: 1 authenticate plain
         S: +\x20
         C: AGRlbW8AZGVtbw==",
        "C: 1 AUTHENTICATE PLAIN ZGVtbwBkZW1vAGRlbW8=",
    ] {
        check(&format!(
            "C: 0 SELECT INBOX
             S: 0 BAD Please log in first
             {login}
             S: 1 OK [CAPABILITY {CAPABILITIES}] Welcome
             C: 2 LOGIN demo demo
             S: 2 BAD You have logged in already
             C: 3 LOGOUT
             S: * BYE See you
             S: 3 OK LOGOUT completed"
        ))
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn other_credentials_are_refused() {
    check(
        "C: 1 LOGIN demo Demo
         S: 1 NO [AUTHENTICATIONFAILED] The sample knows user demo, password demo
         C: 2 AUTHENTICATE PLAIN =
         S: 2 NO [AUTHENTICATIONFAILED] The sample knows user demo, password demo
         C: 3 AUTHENTICATE PLAIN
         S: +\x20
         C: *
         S: 3 BAD AUTHENTICATE cancelled
         C: 4 AUTHENTICATE PLAIN !
         S: 4 BAD That is not base64
         C: 5 AUTHENTICATE XOAUTH2 abc=
         S: 5 NO [CANNOT] Only PLAIN
         C: 6 AUTHENTICATE PLAIN bWUAZGVtbwBkZW1v
         S: 6 NO [AUTHENTICATIONFAILED] The sample knows user demo, password demo",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_command_is_bad() {
    let version = env!("CARGO_PKG_VERSION");
    check(&format!(
        "C:
         S: * BAD The sample does not know that
         C: 1 FROBNICATE
         S: 1 BAD The sample does not know that
         C: 2 NOOP NOOP
         S: 2 BAD The sample does not know that
         C: 3 LOGIN demo
         S: 3 BAD The sample does not know that
         C: 4 ID (\"name\" \"x\" \"version\" NIL)
         S: * ID (\"name\" \"popgate sample\" \"version\" \"{version}\")
         S: 4 OK ID completed
         C: 5 LOGIN demo {{70000}}
         S: 5 NO [TOOBIG] Literal too large
         C: 6 CAPABILITY
         S: * CAPABILITY IMAP4rev1 UIDPLUS MOVE SPECIAL-USE LITERAL+ SASL-IR ID ENABLE NAMESPACE ESEARCH UNSELECT AUTH=PLAIN
         S: 6 OK CAPABILITY completed
         C: 7 LOGIN demo {{70000+}}
         S: * BYE [TOOBIG] Literal too large"
    ))
    .await;
}

/// Logs in and selects INBOX first.
async fn check_selected(dialogue: &str) {
    check(&format!(
        "C: l LOGIN demo demo
         S: l OK [CAPABILITY {CAPABILITIES}] Welcome
         C: s SELECT inbox
         S: * FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)
         S: * 3 EXISTS
         S: * 0 RECENT
         S: * OK [UNSEEN 1] First unseen
         S: * OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)] Kept
         S: * OK [UIDVALIDITY 7] UIDs valid
         S: * OK [UIDNEXT 4] Next UID
         S: s OK [READ-WRITE] INBOX selected
         {dialogue}"
    ))
    .await;
}

#[tokio::test(start_paused = true)]
async fn mailboxes() {
    check(&format!(
        "C: l LOGIN demo demo
         S: l OK [CAPABILITY {CAPABILITIES}] Welcome
         C: 1 LIST \"\" *
         S: * LIST () \"/\" \"INBOX\"
         S: * LIST (\\Archive) \"/\" \"Archive\"
         S: * LIST (\\Sent) \"/\" \"Sent\"
         S: * LIST (\\Trash) \"/\" \"Trash\"
         S: 1 OK LIST completed
         C: 2 LIST \"\" \"\"
         S: * LIST (\\Noselect) \"/\" \"\"
         S: 2 OK LIST completed
         C: 3 LIST (SPECIAL-USE) \"\" \"%\"
         S: * LIST (\\Archive) \"/\" \"Archive\"
         S: * LIST (\\Sent) \"/\" \"Sent\"
         S: * LIST (\\Trash) \"/\" \"Trash\"
         S: 3 OK LIST completed
         C: 4 CREATE Lists/rust
         S: 4 OK CREATE completed
         C: 5 LIST \"\" \"L%\" RETURN (SPECIAL-USE)
         S: * LIST () \"/\" \"Lists\"
         S: 5 OK LIST completed
         C: 6 LIST Lists/ *
         S: * LIST () \"/\" \"Lists/rust\"
         S: 6 OK LIST completed
         C: 7 CREATE Trash
         S: 7 NO [ALREADYEXISTS] There is such a mailbox already
         C: 8 STATUS INBOX (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN)
         S: * STATUS \"INBOX\" (MESSAGES 3 RECENT 0 UIDNEXT 4 UIDVALIDITY 7 UNSEEN 3)
         S: 8 OK STATUS completed
         C: 9 SELECT Nowhere
         S: 9 NO [NONEXISTENT] There is no such mailbox
         C: 10 UID FETCH 1 (UID)
         S: 10 BAD Please select a mailbox first
         C: 11 NAMESPACE
         S: * NAMESPACE ((\"\" \"/\")) NIL NIL
         S: 11 OK NAMESPACE completed
         C: 12 ENABLE UTF8=ACCEPT
         S: * ENABLED
         S: 12 OK ENABLE completed"
    ))
    .await;
}

#[tokio::test(start_paused = true)]
async fn fetch_shows_what_was_asked_for() {
    check_selected(
        "C: 1 UID FETCH 1:* (UID RFC822.SIZE)
         S: * 1 FETCH (UID 1 RFC822.SIZE 31)
         S: * 2 FETCH (UID 2 RFC822.SIZE 31)
         S: * 3 FETCH (UID 3 RFC822.SIZE 35)
         S: 1 OK FETCH completed
         C: 2 UID FETCH 2 (FLAGS INTERNALDATE BODY.PEEK[TEXT])
         S: * 2 FETCH (UID 2 FLAGS () INTERNALDATE \"01-Nov-2026 12:00:00 +0000\" BODY[TEXT] {6}
         S: two!
         S: )
         S: 2 OK FETCH completed
         C: 3 UID FETCH 2 BODY.PEEK[]<9.5>
         S: * 2 FETCH (UID 2 BODY[]<9> {5}
         S: two
         S: )
         S: 3 OK FETCH completed
         C: 4 UID FETCH 9:* BODY[HEADER.FIELDS (to x)]
         S: * 3 FETCH (UID 3 BODY[HEADER.FIELDS (to x)] {11}
         S: To: you
         S:
         S:  FLAGS (\\Seen))
         S: 4 OK FETCH completed
         C: 5 FETCH 3 (FLAGS BODY.PEEK[]<1000.1>)
         S: * 3 FETCH (FLAGS (\\Seen) BODY[]<1000> {0}
         S: )
         S: 5 OK FETCH completed
         C: 6 FETCH 4 FLAGS
         S: 6 BAD There is no message of that number
         C: 7 UID FETCH 4 FLAGS
         S: 7 OK FETCH completed",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn store_and_search() {
    check_selected(
        "C: 1 UID STORE 1:2 +FLAGS (\\Seen later)
         S: * 1 FETCH (UID 1 FLAGS (\\Seen later))
         S: * 2 FETCH (UID 2 FLAGS (\\Seen later))
         S: 1 OK STORE completed
         C: 2 UID STORE 2 -FLAGS.SILENT \\seen
         S: 2 OK STORE completed
         C: 3 STORE 3 FLAGS (\\Deleted)
         S: * 3 FETCH (FLAGS (\\Deleted))
         S: 3 OK STORE completed
         C: 4 UID STORE 1 +FLAGS (\\Recent)
         S: 4 BAD The sample does not know that
         C: 5 UID SEARCH KEYWORD LATER UNSEEN
         S: * SEARCH 2
         S: 5 OK SEARCH completed
         C: 6 UID SEARCH RETURN (ALL) UNDELETED
         S: * ESEARCH (TAG \"6\") UID ALL 1:2
         S: 6 OK SEARCH completed
         C: 7 SEARCH RETURN (MIN MAX COUNT) OR DELETED NOT SEEN
         S: * ESEARCH (TAG \"7\") MIN 2 MAX 3 COUNT 2
         S: 7 OK SEARCH completed
         C: 8 UID SEARCH RETURN () DRAFT
         S: * ESEARCH (TAG \"8\") UID
         S: 8 OK SEARCH completed
         C: 9 UID SEARCH CHARSET UTF-8 UID 2:* (SUBJECT THR SINCE 1-Nov-2026)
         S: * SEARCH 3
         S: 9 OK SEARCH completed
         C: 10 SEARCH CHARSET KOI8-R ALL
         S: 10 NO [BADCHARSET (US-ASCII UTF-8)] Unknown charset
         C: 11 SEARCH 4
         S: 11 BAD There is no message of that number
         C: 12 SEARCH BEFORE \"1-Nov-2026\"
         S: * SEARCH
         S: 12 OK SEARCH completed
         C: 13 STATUS INBOX (UNSEEN)
         S: * STATUS \"INBOX\" (UNSEEN 2)
         S: 13 OK STATUS completed",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn expunge_renumbers() {
    check_selected(
        "C: 1 UID STORE 1,2,3 +FLAGS.SILENT (\\Deleted)
         S: 1 OK STORE completed
         C: 2 UID EXPUNGE 2
         S: * 2 EXPUNGE
         S: 2 OK EXPUNGE completed
         C: 3 UID FETCH 1:* UID
         S: * 1 FETCH (UID 1)
         S: * 2 FETCH (UID 3)
         S: 3 OK FETCH completed
         C: 4 EXPUNGE
         S: * 1 EXPUNGE
         S: * 1 EXPUNGE
         S: 4 OK EXPUNGE completed
         C: 5 UID FETCH 1:* UID
         S: 5 OK FETCH completed
         C: 6 FETCH 1:* UID
         S: 6 BAD There is no message of that number",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn copy_move_and_append() {
    check_selected(
        "C: 1 UID MOVE 2:3 Trash
         S: * OK [COPYUID 10 2:3 1:2] Moved
         S: * 2 EXPUNGE
         S: * 2 EXPUNGE
         S: 1 OK MOVE completed
         C: 2 UID MOVE 1 Nowhere
         S: 2 NO [TRYCREATE] There is no such mailbox
         C: 3 UID MOVE 2 Trash
         S: 3 OK MOVE completed
         C: 4 UID COPY 1 Archive
         S: 4 OK [COPYUID 8 1 1] COPY completed
         C: 5 COPY 1 INBOX
         S: * 2 EXISTS
         S: 5 OK [COPYUID 7 1 4] COPY completed
         C: 6 APPEND INBOX (\\Seen x) \" 2-Jan-2026 03:04:05 +0000\" {11}
         S: + Go ahead
         C: Hi: you
         C:
         C:
         S: * 3 EXISTS
         S: 6 OK [APPENDUID 7 5] APPEND completed
         C: 7 UID FETCH 5 (FLAGS INTERNALDATE RFC822.SIZE)
         S: * 3 FETCH (UID 5 FLAGS (\\Seen x) INTERNALDATE \"02-Jan-2026 03:04:05 +0000\" RFC822.SIZE 11)
         S: 7 OK FETCH completed
         C: 8 APPEND Nowhere {1+}
         C: x
         S: 8 NO [TRYCREATE] There is no such mailbox
         C: 9 APPEND INBOX {60000000}
         S: 9 NO [TOOBIG] Literal too large
         C: 10 CLOSE
         S: 10 OK CLOSE completed
         C: 11 CLOSE
         S: 11 BAD Please select a mailbox first",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn examine_changes_nothing() {
    check(&format!(
        "C: l LOGIN demo demo
         S: l OK [CAPABILITY {CAPABILITIES}] Welcome
         C: 1 EXAMINE INBOX
         S: * FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)
         S: * 3 EXISTS
         S: * 0 RECENT
         S: * OK [UNSEEN 1] First unseen
         S: * OK [PERMANENTFLAGS ()] Kept
         S: * OK [UIDVALIDITY 7] UIDs valid
         S: * OK [UIDNEXT 4] Next UID
         S: 1 OK [READ-ONLY] INBOX selected
         C: 2 UID FETCH 1 BODY[]<0.7>
         S: * 1 FETCH (UID 1 BODY[]<0> {{7}}
         S: Subject)
         S: 2 OK FETCH completed
         C: 3 UID STORE 1 +FLAGS (\\Seen)
         S: 3 NO [READ-ONLY] The mailbox was opened by EXAMINE
         C: 4 UNSELECT
         S: 4 OK UNSELECT completed
         C: 5 STATUS INBOX (UNSEEN)
         S: * STATUS \"INBOX\" (UNSEEN 3)
         S: 5 OK STATUS completed"
    ))
    .await;
}

/// EXPUNGE is withheld while sequence numbers are in use, and only then (RFC 3501 §7.4.1).
#[tokio::test(start_paused = true)]
async fn what_others_do_is_announced_when_it_may_be() {
    let selected = [
        "FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)",
        "3 EXISTS",
        "0 RECENT",
        "OK [UNSEEN 1] First unseen",
        "OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)] Kept",
        "OK [UIDVALIDITY 7] UIDs valid",
        "OK [UIDNEXT 4] Next UID",
    ];
    let select = |name: &str| {
        let untagged: String = selected
            .iter()
            .map(|it| format!("S{name}: * {it}\n"))
            .collect();
        format!(
            "C{name}: l LOGIN demo demo
             S{name}: l OK [CAPABILITY {CAPABILITIES}] Welcome
             C{name}: s SELECT INBOX
             {untagged}S{name}: s OK [READ-WRITE] INBOX selected\n"
        )
    };
    let dialogue = "C2: 1 UID MOVE 1 Trash
         S2: * OK [COPYUID 10 1 1] Moved
         S2: * 1 EXPUNGE
         S2: 1 OK MOVE completed
         C2: 2 STORE 1 +FLAGS.SILENT \\Flagged
         S2: 2 OK STORE completed
         C2: 3 UID COPY 3 INBOX
         S2: * 3 EXISTS
         S2: 3 OK [COPYUID 7 3 4] COPY completed
         C: 1 FETCH 1:2 UID
         S: * 2 FETCH (UID 2 FLAGS (\\Flagged))
         S: * 4 EXISTS
         S: 1 NO [EXPUNGEISSUED] Some of these messages are gone
         C: 2 STORE 2 +FLAGS.SILENT \\Seen
         S: 2 OK STORE completed
         C: 3 SEARCH ALL
         S: * SEARCH 2 3 4
         S: 3 OK SEARCH completed
         C: 4 UID FETCH 1 BODY.PEEK[]
         S: * 1 EXPUNGE
         S: 4 OK FETCH completed
         C: 5 NOOP
         S: 5 OK NOOP completed
         C2: 4 UID STORE 2 -FLAGS.SILENT \\Flagged
         S2: * 1 FETCH (UID 2 FLAGS (\\Seen))
         S2: 4 OK STORE completed
         C: 6 NOOP
         S: * 1 FETCH (FLAGS (\\Seen))
         S: 6 OK NOOP completed";
    check(&(select("") + &select("2") + dialogue)).await;
}

#[tokio::test(start_paused = true)]
async fn lines_and_patience_have_an_end() {
    let shutdown = CancellationToken::new();
    let mut client = Client::new(&store(), &shutdown).await;
    client.send(&"x".repeat(LINE_OCTETS_MAX)).await;
    assert_eq!(client.rest().await, "* BYE [TOOBIG] Line too long\r\n");

    let mut client = Client::new(&store(), &shutdown).await;
    client.send("1 LOGIN {30").await;
    assert_eq!(client.rest().await, "* BYE Idle for too long\r\n");
}

/// All that the server says, read by a parser that is not ours.
#[tokio::test(start_paused = true)]
async fn responses_are_imap() {
    let shutdown = CancellationToken::new();
    let (mut ours, theirs) = duplex(1 << 20);
    tokio::spawn(serve(theirs, store(), shutdown));
    let commands = "1 LOGIN demo demo\r\n2 LIST \"\" *\r\n3 STATUS INBOX (MESSAGES UIDNEXT)\r\n\
        4 NAMESPACE\r\n5 ID NIL\r\n6 ENABLE X\r\n7 SELECT INBOX\r\n\
        8 UID FETCH 1:* (FLAGS INTERNALDATE RFC822.SIZE BODY[] BODY[HEADER.FIELDS (To)]<1.3>)\r\n\
        9 UID SEARCH ALL\r\n10 UID COPY 1:2 INBOX\r\n11 UID MOVE 1,3 Trash\r\n\
        12 UID STORE 2 FLAGS (\\Deleted x)\r\n13 EXPUNGE\r\n14 NO\r\n15 LOGOUT\r\n";
    ours.write_all(commands.as_bytes())
        .await
        .expect("the server reads");
    let mut said = Vec::new();
    ours.read_to_end(&mut said)
        .await
        .expect("the server writes");

    let (mut rest, _) = GreetingCodec::default().decode(&said).expect("a greeting");
    let mut responses = 0;
    while !rest.is_empty() {
        let text = String::from_utf8_lossy(rest);
        (rest, _) = ResponseCodec::default()
            .decode(rest)
            .unwrap_or_else(|_| panic!("{text}"));
        responses += 1;
    }
    assert!(responses > 40, "only {responses}");
}

proptest! {
    #[test]
    fn no_command_makes_the_grammar_panic(
        octets in proptest::collection::vec(any::<u8>(), 0..80),
        at in 0_usize..200,
    ) {
        let _ = Command::parse(&octets);
        // Sound ones with a hole, or with something else in it.
        for command in [
            "1 UID FETCH 1:*,3 (UID BODY.PEEK[HEADER.FIELDS (A B)]<1.2> RFC822.SIZE)",
            "1 APPEND INBOX (\\Seen x) \" 2-Jan-2026 03:04:05 +0000\" {3+}\r\nabc",
            "1 UID SEARCH RETURN (ALL) CHARSET UTF-8 OR (SEEN NOT 1) HEADER \"a\" {1}\r\nb",
            "1 LIST (SPECIAL-USE) \"\" \"a%\" RETURN (SPECIAL-USE)",
        ] {
            let mut command = command.as_bytes().to_vec();
            let at = at % command.len();
            command.splice(at..(at + 2).min(command.len()), octets.iter().take(3).copied());
            let _ = Command::parse(&command);
        }
    }
}

#[test]
fn nesting_has_an_end() {
    for deep in [
        "NOT ".repeat(16_000),
        "(".repeat(16_000),
        "OR ".repeat(16_000),
    ] {
        assert!(Command::parse(format!("1 SEARCH {deep}ALL").as_bytes()).is_err());
    }
}

#[test]
fn names_match_patterns() {
    let table = [
        ("INBOX", "inbox", true),
        ("INBOX", "*", true),
        ("a/b", "%", false),
        ("a/b", "a/%", true),
        ("a/b", "%/%", true),
        ("a/b/c", "a*c", true),
        ("a/b/c", "a%c", false),
        ("a", "", false),
        ("", "", true),
        ("", "*", true),
        (
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "*a*a*a*a*a*a*a*a*a*b",
            false,
        ),
    ];
    for (name, pattern, expected) in table {
        let found = super::name_matches(name.as_bytes(), pattern.as_bytes());
        assert_eq!(found, expected, "{name} {pattern}");
    }
}
