//! The language of transcripts: [`Transcript::parse`].
//!
//! The first line is a comment that says what the transcript shows, and where that is written. Then
//! come settings, then what happens, in order:
//!
//! ```text
//! set on_delete = expunge         a key of the config; without a dot, of [maildrop]
//! set upstream.default.imap = imaps://imap.example.com
//! toml [[route]]                  a line of the config file
//! address 192.0.2.7               where the clients come from; 127.0.0.1 if not said
//! secure                          the clients came in by implicit TLS
//! submission                      the clients send mail; the upstream of a `dial` may be either service's
//! without tls                     TLS towards the upstream is left out, to be able to read along
//! unbroken                        not for the fault sweep of submission: it is too long, or not of its kind
//! in one piece                    what is sent at once must come at once: trickled it means other things
//!
//! C: STAT                         a client says
//! S: +OK 1 120                    a client hears; (…) is the session's reference
//! c: TAG NOOP                     the upstream hears; TAG is what popgate calls this command
//! s: TAG OK                       the upstream says
//! s: * 1 FETCH (BODY[] {}         … with a literal of as many octets as
//! s| Subject: hello               the lines `s|` have
//! s: )
//! include login UIDPLUS MOVE      the lines of scenes/login.txt, with $1 for the rest
//!
//! connect                         the next client; the first one connects by itself
//! connect 192.0.2.8               … from somewhere else
//! connect pop3                    … to fetch mail, where the others send it
//! client 1                        back to an earlier one
//! dial                            popgate opens a connection to the upstream
//! dial refused, dial silent       … which does not come about
//! get to know                     as at the start of the process: what can the upstream do?
//! keep warm                       likewise: connections wait for logins to come
//! warm                            this client gets the connection that was opened last
//! wait 31m                        time passes
//! eof client, eof upstream        it closes its connection
//! reset client, reset upstream    its connection breaks
//! tls client, tls upstream        it does its half of a handshake; an upstream's certificate is for
//!                                 imap.example.com
//! tls client refused              … which fails; so does the other
//! tls client nameless             … which does not say which name it means (no SNI)
//! room 1000                       the client's window closes after so many octets
//! closed client, closed upstream  popgate has closed the connection
//! drain, drained                  popgate is to end; popgate has no more patience
//! ```
//!
//! Lines of one kind behind each other are one piece: sent at once, heard at once. Before anything is
//! sent, everything that popgate has said must have been heard. See [`super::spelling`] for octets.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::spelling;

#[derive(Clone)]
pub(crate) struct Transcript {
    pub(crate) name: String,
    /// Environment variables for `Config::load`.
    pub(crate) settings: Vec<(String, String)>,
    /// The config file.
    pub(crate) toml: String,
    pub(crate) address: IpAddr,
    /// Of a transcript of submission.
    pub(crate) pop3_clients: HashSet<usize>,
    /// Those of clients that come from somewhere else.
    pub(crate) other_addresses: HashMap<usize, IpAddr>,
    pub(crate) secure: bool,
    pub(crate) submission: bool,
    pub(crate) without_tls: bool,
    pub(crate) in_one_piece: bool,
    pub(crate) unbroken: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) clients: usize,
    /// What comes of each connection that popgate opens.
    pub(crate) dials: Vec<Dialled>,
}

#[derive(Clone)]
pub(crate) struct Step {
    /// In the file, for messages.
    pub(crate) line: usize,
    /// Whose turn it is, counted from 0 in the order of connecting.
    pub(crate) client: usize,
    pub(crate) act: Act,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    ClientSays(Vec<u8>),
    ClientHears(Vec<u8>),
    UpstreamHears(Dial, Vec<u8>),
    UpstreamSays(Dial, Vec<u8>),
    Connect,
    Dial(Dial),
    GetToKnow,
    KeepWarm,
    Wait(Duration),
    Eof(Side),
    Reset(Side),
    Tls(Side, Handshake),
    Closed(Side),
    Room(usize),
    Drain,
    Drained,
}

/// Counts the connections that popgate opens.
pub(crate) type Dial = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Upstream(Dial),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    Succeeds,
    /// Although it names nobody.
    SucceedsNameless,
    Fails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    Accepted,
    Refused,
    Silent,
}

impl Transcript {
    pub(crate) fn parse(
        name: &str,
        text: &str,
        scene: &dyn Fn(&str) -> String,
    ) -> Result<Self, String> {
        if !text.starts_with("# ") {
            return Err(format!("{name}: the first line must say what this shows"));
        }
        let mut parser = Parser::new(name);
        for line in included(text, scene) {
            parser
                .line(&line)
                .map_err(|error| format!("{name}:{}: {error}: {}", line.number, line.text))?;
        }
        parser.flush_literal();
        Ok(parser.transcript)
    }

    /// Of all that is said to popgate.
    pub(crate) fn octets(&self) -> usize {
        let octets = |step: &Step| match &step.act {
            Act::ClientSays(octets) | Act::UpstreamSays(_, octets) => octets.len(),
            _ => 0,
        };
        self.steps.iter().map(octets).sum()
    }

    /// Whether the octets on some leg are those of TLS.
    pub(crate) fn has_tls(&self) -> bool {
        let is_tls = |step: &Step| matches!(step.act, Act::Tls(..));
        self.steps.iter().any(is_tls)
    }
}

struct Line {
    number: usize,
    text: String,
}

/// The lines of a transcript, scenes put in.
fn included(text: &str, scene: &dyn Fn(&str) -> String) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let number = index + 1;
        let Some(call) = text.strip_prefix("include ") else {
            let text = text.to_owned();
            lines.push(Line { number, text });
            continue;
        };
        let (name, argument) = call.split_once(' ').unwrap_or((call, ""));
        let text = scene(name).replace("$1", argument);
        let of_scene = included(&text, scene).into_iter();
        lines.extend(of_scene.map(|line| Line { number, ..line }));
    }
    lines
}

struct Parser {
    transcript: Transcript,
    client: usize,
    is_connected: bool,
    /// The connection to the upstream that each client, or whoever is first, uses now.
    dials: HashMap<usize, Dial>,
    /// How many commands each of them has seen.
    tags: HashMap<Dial, u32>,
    /// An `s:` line whose `{}` waits for the lines `s|`.
    literal: Option<Literal>,
}

struct Literal {
    before: String,
    step: Step,
    octets: Vec<u8>,
}

impl Parser {
    fn new(name: &str) -> Self {
        Self {
            transcript: Transcript {
                name: name.to_owned(),
                settings: Vec::new(),
                toml: String::new(),
                address: Ipv4Addr::LOCALHOST.into(),
                pop3_clients: HashSet::new(),
                other_addresses: HashMap::new(),
                secure: false,
                submission: false,
                without_tls: false,
                in_one_piece: false,
                unbroken: false,
                steps: Vec::new(),
                clients: 0,
                dials: Vec::new(),
            },
            client: 0,
            is_connected: false,
            dials: HashMap::new(),
            tags: HashMap::new(),
            literal: None,
        }
    }

    fn line(&mut self, line: &Line) -> Result<(), String> {
        let text = line.text.as_str();
        if text.trim_end() != text {
            return Err("blanks at the end cannot be seen; write \\x20".to_owned());
        }
        if let Some(literal) = text.strip_prefix("s|") {
            let octets = spelling::octets(literal.strip_prefix(' ').unwrap_or(literal))?;
            let open = self.literal.as_mut().ok_or("no line with {} before it")?;
            open.octets.extend(octets);
            return Ok(());
        }
        self.flush_literal();
        if text.is_empty() || text.starts_with('#') || self.setting(text)? {
            return Ok(());
        }
        match text.split_at_checked(2) {
            Some((leg @ ("C:" | "S:" | "c:" | "s:"), rest)) => {
                self.octets(leg, rest.strip_prefix(' ').unwrap_or(rest), line)
            }
            _ => self.event(text, line),
        }
    }

    fn setting(&mut self, text: &str) -> Result<bool, String> {
        if let Some(setting) = text.strip_prefix("set ") {
            let (key, value) = setting.split_once(" = ").ok_or("set KEY = VALUE")?;
            let key = match key.contains('.') {
                true => key.to_owned(),
                false => format!("maildrop.{key}"),
            };
            let variable = format!("POPGATE__{}", key.replace('.', "__").to_uppercase());
            self.transcript.settings.push((variable, value.to_owned()));
        } else if let Some(line) = text.strip_prefix("toml ") {
            self.transcript.toml.push_str(line);
            self.transcript.toml.push('\n');
        } else if let Some(address) = text.strip_prefix("address ") {
            self.transcript.address = address.parse().map_err(|_| "no IP address")?;
        } else {
            match text {
                "secure" => self.transcript.secure = true,
                "submission" => self.transcript.submission = true,
                "without tls" => self.transcript.without_tls = true,
                "in one piece" => self.transcript.in_one_piece = true,
                "unbroken" => self.transcript.unbroken = true,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn octets(&mut self, leg: &str, text: &str, line: &Line) -> Result<(), String> {
        if leg == "C:" || leg == "S:" {
            self.connect_first(line);
            let octets = spelling::octets(text)?;
            let act = match leg {
                "C:" => Act::ClientSays(octets),
                _ => Act::ClientHears(octets),
            };
            self.push(line, act);
            return Ok(());
        }
        let dial = *self.dials.get(&self.client).ok_or("no dial before it")?;
        let tags = self.tags.entry(dial).or_insert(0);
        if leg == "c:" && text.starts_with("TAG") {
            *tags += 1;
        }
        let text = match text.strip_prefix("TAG") {
            Some(behind) => format!("g{tags}{behind}"),
            None => text.to_owned(),
        };
        if leg == "c:" {
            let octets = spelling::octets(&text)?;
            self.push(line, Act::UpstreamHears(dial, octets));
        } else if let Some(before) = text.strip_suffix("{}") {
            self.literal = Some(Literal {
                before: before.to_owned(),
                step: self.step(line, Act::UpstreamSays(dial, Vec::new())),
                octets: Vec::new(),
            });
        } else {
            let octets = spelling::octets(&text)?;
            self.push(line, Act::UpstreamSays(dial, octets));
        }
        Ok(())
    }

    fn event(&mut self, text: &str, line: &Line) -> Result<(), String> {
        let words: Vec<&str> = text.split(' ').collect();
        let act = match words.as_slice() {
            ["connect", from @ ..] => {
                self.client = self.transcript.clients;
                match from {
                    [] => {}
                    ["pop3"] => {
                        self.transcript.pop3_clients.insert(self.client);
                    }
                    [address] => {
                        let address = address.parse().map_err(|_| "no IP address")?;
                        let others = &mut self.transcript.other_addresses;
                        others.insert(self.client, address);
                    }
                    _ => return Err("too many words".to_owned()),
                }
                self.transcript.clients += 1;
                self.is_connected = true;
                Act::Connect
            }
            ["client", number] => {
                let number: usize = number.parse().map_err(|_| "no number")?;
                self.client = number - 1;
                return Ok(());
            }
            ["warm"] => {
                let last = self.transcript.dials.len().checked_sub(1);
                let last = last.ok_or("no dial before it")?;
                self.dials.insert(self.client, last);
                return Ok(());
            }
            ["dial"] => self.dial(Dialled::Accepted),
            ["dial", "refused"] => self.dial(Dialled::Refused),
            ["dial", "silent"] => self.dial(Dialled::Silent),
            ["get", "to", "know"] => Act::GetToKnow,
            ["keep", "warm"] => Act::KeepWarm,
            ["wait", time] => Act::Wait(duration(time)?),
            ["eof", side] => Act::Eof(self.side(side)?),
            ["reset", side] => Act::Reset(self.side(side)?),
            ["closed", side] => Act::Closed(self.side(side)?),
            ["tls", side] => self.tls(side, Handshake::Succeeds)?,
            ["tls", side, "refused"] => self.tls(side, Handshake::Fails)?,
            ["tls", "client", "nameless"] => self.tls("client", Handshake::SucceedsNameless)?,
            ["room", octets] => Act::Room(octets.parse().map_err(|_| "no number")?),
            ["drain"] => Act::Drain,
            ["drained"] => Act::Drained,
            _ => return Err("no such line".to_owned()),
        };
        self.push(line, act);
        Ok(())
    }

    fn tls(&mut self, side: &str, handshake: Handshake) -> Result<Act, String> {
        let side = self.side(side)?;
        if let Side::Upstream(dial) = side {
            // Tags begin anew on the secured connection.
            self.tags.insert(dial, 0);
        }
        Ok(Act::Tls(side, handshake))
    }

    fn dial(&mut self, dialled: Dialled) -> Act {
        let dial = self.transcript.dials.len();
        self.transcript.dials.push(dialled);
        self.dials.insert(self.client, dial);
        Act::Dial(dial)
    }

    fn side(&self, side: &str) -> Result<Side, String> {
        match side {
            "client" => Ok(Side::Client),
            "upstream" => {
                let dial = self.dials.get(&self.client).ok_or("no dial before it")?;
                Ok(Side::Upstream(*dial))
            }
            _ => Err("client or upstream?".to_owned()),
        }
    }

    /// A transcript that begins with its first client need not say so.
    fn connect_first(&mut self, line: &Line) {
        if !self.is_connected {
            self.is_connected = true;
            self.transcript.clients = 1;
            self.push(line, Act::Connect);
        }
    }

    fn flush_literal(&mut self) {
        let Some(literal) = self.literal.take() else {
            return;
        };
        let Act::UpstreamSays(dial, _) = literal.step.act else {
            unreachable!("made as one")
        };
        let mut octets = format!("{}{{{}}}\r\n", literal.before, literal.octets.len()).into_bytes();
        octets.extend(literal.octets);
        self.add(Step {
            act: Act::UpstreamSays(dial, octets),
            ..literal.step
        });
    }

    fn step(&self, line: &Line, act: Act) -> Step {
        Step {
            line: line.number,
            client: self.client,
            act,
        }
    }

    fn push(&mut self, line: &Line, act: Act) {
        let step = self.step(line, act);
        self.add(step);
    }

    /// Adds a step, or its octets to the one before if they are of one piece.
    fn add(&mut self, step: Step) {
        if let Some(last) = self.transcript.steps.last_mut()
            && last.client == step.client
        {
            match (&mut last.act, &step.act) {
                (Act::ClientSays(said), Act::ClientSays(more))
                | (Act::ClientHears(said), Act::ClientHears(more)) => {
                    return said.extend_from_slice(more);
                }
                (Act::UpstreamSays(dial, said), Act::UpstreamSays(other, more))
                | (Act::UpstreamHears(dial, said), Act::UpstreamHears(other, more))
                    if dial == other =>
                {
                    return said.extend_from_slice(more);
                }
                _ => {}
            }
        }
        self.transcript.steps.push(step);
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(char::is_alphabetic).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "no time")?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        _ => Err("a time is 10s or 31m".to_owned()),
    }
}
