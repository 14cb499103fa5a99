//! What the project says about itself, checked: the map in `src/lib.rs`, the README's config, the
//! names of metrics, and that nothing is left undone.
//!
//! Sources are read as tokens, not compiled: a path is a path wherever it stands, except in comments,
//! strings and `#[cfg(test)]`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use popgate::config::{Config, Flags};
use popgate::metrics::Metrics;

/// Paths of other crates that a module must not name, and who may nevertheless.
struct Ban {
    paths: &'static [&'static str],
    why: &'static str,
    holds_for: fn(&str) -> bool,
}

const BANS: &[Ban] = &[
    Ban {
        paths: &[
            "axum",
            "rustls",
            "std::env",
            "std::fs",
            "std::net",
            "std::process",
            "std::thread",
            "std::time",
            "tokio",
            "tokio_rustls",
            "tokio_util",
            "tracing",
        ],
        why: "grammars and the maildrop are pure",
        holds_for: |module| {
            ["imap", "maildrop", "pop3", "sasl", "secret", "smtp"].contains(&module)
        },
    },
    Ban {
        paths: &["std::env"],
        why: "only the config and the edge of the process read the environment",
        holds_for: |module| !["config", "main", "cli"].contains(&module),
    },
    Ban {
        paths: &["std::fs", "tokio::fs"],
        why: "only the config, TLS, the spool and the trace touch files",
        holds_for: |module| !["config", "tls", "spool", "trace", "main", "cli"].contains(&module),
    },
    Ban {
        paths: &[
            "rustls",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "tokio::net",
            "tokio_rustls",
        ],
        why: "a conversation has streams, not sockets; TLS comes through the gateway",
        holds_for: |module| module == "session",
    },
    Ban {
        paths: &["std::time::Instant", "std::time::SystemTime"],
        why: "tokio is asked for the time, so that a paused clock is honest",
        holds_for: |module| !["clock", "demo"].contains(&module),
    },
];

#[test]
fn modules_use_what_the_map_allows_and_all_of_it() {
    let map = map();
    let sources = sources();
    let declared: BTreeSet<String> = modules(&sources["lib"]);
    let on_the_map: BTreeSet<String> = map.keys().cloned().collect();
    assert_eq!(
        on_the_map, declared,
        "the map has the modules of src/lib.rs"
    );

    let mut wrong = Vec::new();
    for (module, allowed) in &map {
        let used = modules_used(module, &sources[module]);
        for name in used.difference(allowed) {
            wrong.push(format!(
                "{module} uses {name}, which the map does not allow"
            ));
        }
        for name in allowed.difference(&used) {
            wrong.push(format!(
                "{module} does not use {name}, which the map allows"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_keep_to_their_side() {
    let mut wrong = Vec::new();
    for (module, files) in &sources() {
        for file in files {
            for path in &file.paths {
                for ban in BANS.iter().filter(|ban| (ban.holds_for)(module)) {
                    if ban.paths.iter().any(|banned| begins_with(path, banned)) {
                        let (file, path) = (&file.name, path.join("::"));
                        wrong.push(format!("{file} names {path}: {}", ban.why));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn configs_of_the_readme_are_accepted() {
    let readme = read(&root().join("README.md"));
    let folder = tempfile::tempdir().expect("a folder");
    let key = rcgen::generate_simple_self_signed(["pop.example.org".to_owned()]).expect("a key");
    let certificate = key.cert.pem();
    for (name, pem) in [
        ("tls.crt", &certificate),
        ("tls.key", &key.signing_key.serialize_pem()),
        ("example-org-ca.pem", &certificate),
    ] {
        fs::write(folder.path().join(name), pem).expect("writable");
    }
    // Others than whole ones show a single section.
    let whole: Vec<&str> = fenced(&readme, "toml")
        .into_iter()
        .filter(|block| block.contains("[upstream."))
        .collect();
    assert!(!whole.is_empty(), "the README shows no whole config");
    for block in whole {
        let file = folder.path().join("popgate.toml");
        let here = format!("{}/", folder.path().display());
        fs::write(&file, block.replace("/etc/popgate/", &here)).expect("writable");
        if let Err(problems) = Config::load(Some(&file), [], &Flags::default()) {
            panic!("{problems}\nin\n{block}");
        }
    }
}

#[test]
fn metrics_that_are_named_exist() {
    let metrics = Metrics::new(&["default"], &["quit"]).expect("sound metrics");
    // There only where there is a certificate.
    metrics.certificate_expiry("pop3", 0);
    let mut known = BTreeSet::new();
    for family in metrics.registry().gather() {
        for suffix in ["", "_bucket", "_sum", "_count"] {
            known.insert(format!("{}{suffix}", family.name()));
        }
    }
    let named_in = ["README.md", "grafana", "deploy"].map(|name| root().join(name));
    for file in named_in.iter().flat_map(|place| files_below(place)) {
        for name in metric_names(&text_of(&file)) {
            assert!(
                known.contains(name),
                "{}: there is no {name}",
                file.display()
            );
        }
    }
}

#[test]
fn nothing_is_left_undone() {
    // Put together here, so that this file may be read as well.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|halves| halves.concat());
    for file in ["src", "tests"]
        .iter()
        .flat_map(|name| files_below(&root().join(name)))
    {
        let text = text_of(&file);
        let undone = words(&text).find(|word| marks.iter().any(|mark| mark == word));
        assert_eq!(undone, None, "{}", file.display());
    }
}

#[test]
fn nothing_depends_on_the_machine_it_was_written_on() {
    let elsewhere = [
        // Of a registry that only one network knows.
        ["index", "-url"].concat(),
        ["replace", "-with"].concat(),
        ["registry", "=http"].concat(),
        ["registry", " = \"http"].concat(),
    ];
    let home = ["/wo", "rk/"].concat();
    for file in files_below(&root()) {
        let text = text_of(&file);
        for name in &elsewhere {
            assert!(!text.contains(name.as_str()), "{}: {name}", file.display());
        }
        for (at, _) in text.match_indices(&home) {
            let before = text[..at].chars().next_back();
            let is_absolute =
                !before.is_some_and(|before| before.is_alphanumeric() || ".-_})".contains(before));
            assert!(!is_absolute, "{}: {home}", file.display());
        }
        if file.file_name().is_some_and(|name| name == "Cargo.lock") {
            for source in text
                .lines()
                .filter_map(|line| line.strip_prefix("source = "))
            {
                let crates_io = "\"registry+https://github.com/rust-lang/crates.io-index\"";
                assert_eq!(source, crates_io, "{}", file.display());
            }
        }
    }
}

/// One file of `src/`, outside its tests.
struct Source {
    name: String,
    /// How many `super` lead to the root of the crate.
    depth: usize,
    tokens: Vec<String>,
    /// In full: `use a::{b, c}` is two.
    paths: Vec<Vec<String>>,
}

/// The files of each module of the first level; `lib` and `main` are their own.
fn sources() -> BTreeMap<String, Vec<Source>> {
    let src = root().join("src");
    let mut files = files_below(&src);
    let mut only_for_tests = Vec::new();
    let mut sources: BTreeMap<String, Vec<Source>> = BTreeMap::new();
    // A parent says of its child that it is for tests, so parents come first.
    files.sort_by_key(|file| (file.components().count(), file.clone()));
    for file in files {
        let mut place = file
            .strip_prefix(&src)
            .expect("below src")
            .with_extension("");
        if place.ends_with("mod") {
            place.pop();
        }
        if only_for_tests.iter().any(|tests| place.starts_with(tests)) {
            continue;
        }
        let (tokens, test_modules) = without_tests(tokens(&read(&file)));
        only_for_tests.extend(test_modules.iter().map(|name| place.join(name)));
        let names: Vec<String> = place
            .iter()
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        let source = Source {
            name: file
                .strip_prefix(root())
                .expect("below the root")
                .display()
                .to_string(),
            depth: names.len(),
            paths: paths(&tokens),
            tokens,
        };
        sources.entry(names[0].clone()).or_default().push(source);
    }
    sources
}

/// The table in the documentation of `src/lib.rs`: of each module, which others it may use.
fn map() -> BTreeMap<String, BTreeSet<String>> {
    let quoted = |cell: &str, quote: char| -> BTreeSet<String> {
        cell.split(quote)
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    read(&root().join("src/lib.rs"))
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`"))
        .map(|row| {
            let cells: Vec<&str> = row.split(" |").collect();
            let module = cells[0].trim_end_matches("`]");
            (module.to_owned(), quoted(cells[2], '`'))
        })
        .collect()
}

/// Declared by `pub mod name;`
fn modules(lib: &[Source]) -> BTreeSet<String> {
    lib.iter()
        .flat_map(|source| source.tokens.windows(3))
        .filter(|window| window[0] == "mod" && window[2] == ";")
        .map(|window| window[1].clone())
        .collect()
}

fn modules_used(module: &str, files: &[Source]) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for file in files {
        for path in &file.paths {
            let supers = path.iter().take_while(|name| *name == "super").count();
            let from_the_root = match path[0].as_str() {
                "crate" => path.get(1),
                "super" if supers == file.depth => path.get(supers),
                _ => None,
            };
            used.extend(from_the_root.cloned());
        }
    }
    used.remove(module);
    used
}

fn begins_with(path: &[String], beginning: &str) -> bool {
    let mut names = path.iter();
    beginning
        .split("::")
        .all(|name| names.next().is_some_and(|here| here == name))
}

/// Names and punctuation; `::` is one token. Comments are left out, literals are `""`.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            tokens.push("\"\"".to_owned());
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest
                .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// How long the string or character literal is that begins here, with its prefix.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "b", "r", "c", ""].into_iter().find(|prefix| {
        let behind = text.strip_prefix(prefix).unwrap_or_default();
        match *prefix {
            "br" | "r" => behind.trim_start_matches('#').starts_with('"'),
            "b" | "" => behind.starts_with(['"', '\'']),
            _ => behind.starts_with('"'),
        }
    })?;
    let behind = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = behind.bytes().take_while(|octet| *octet == b'#').count();
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix.len() + hashes + 1;
        return text[start..].find(&end).map(|at| start + at + end.len());
    }
    let quote = behind.chars().next()?;
    let mut letters = behind.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            // A lifetime has no second quote behind its first letter.
            _ if quote == '\'' && at == 1 && !behind[1 + letter.len_utf8()..].starts_with('\'') => {
                return None;
            }
            _ if letter == quote => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    None
}

/// What is left without the items that bear `#[cfg(test)]`, and the files that those declare.
fn without_tests(tokens: Vec<String>) -> (Vec<String>, Vec<String>) {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut left, mut files) = (Vec::new(), Vec::new());
    let mut rest = &tokens[..];
    while !rest.is_empty() {
        if !rest.iter().take(MARK.len()).eq(MARK.iter()) {
            left.push(rest[0].clone());
            rest = &rest[1..];
            continue;
        }
        let mut nesting = 0;
        let mut length = MARK.len();
        for token in &rest[MARK.len()..] {
            length += 1;
            match token.as_str() {
                "{" => nesting += 1,
                "}" if nesting == 1 => break,
                "}" => nesting -= 1,
                ";" if nesting == 0 => break,
                _ => {}
            }
        }
        if let [.., module, name, end] = &rest[..length]
            && (module.as_str(), end.as_str()) == ("mod", ";")
        {
            files.push(name.clone());
        }
        rest = &rest[length..];
    }
    (left, files)
}

/// Every path of two names or more, in `use` and elsewhere.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_use = tokens[at] == "use";
        at += usize::from(is_use);
        if is_use || is_name(&tokens[at]) {
            at = tree(tokens, at, &[], &mut paths);
        } else {
            at += 1;
        }
    }
    paths.retain(|path| path.len() > 1);
    paths
}

/// `a::b::{c, d::*}` from `at` on; where it ends.
fn tree(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        let follows = at == 0 || tokens[at - 1] == "::" || path.len() == before.len();
        match token.as_str() {
            "::" => at += 1,
            "{" if at > 0 && tokens[at - 1] == "::" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let end = tree(tokens, at, &path, paths);
                    at = end.max(at + 1);
                }
                return at + 1;
            }
            name if is_name(name) && follows => {
                path.push(name.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    paths.push(path);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The contents of the Markdown blocks in this language.
fn fenced<'a>(markdown: &'a str, language: &str) -> Vec<&'a str> {
    markdown
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    // What Prometheus is to record has a name with colons within: level:metric:operations.
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':')
        .map(|word| word.trim_matches(':'))
        .filter(|word| {
            // Neither the bare prefix nor a package, as popgate_0.1.0_amd64.deb, is a name.
            word.strip_prefix("popgate_").is_some_and(|name| {
                name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.contains(':')
            })
        })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the project in and below this place, if it is there; not what tools have made.
fn files_below(place: &Path) -> Vec<PathBuf> {
    const MADE: [&str; 5] = ["target", ".git", "artifacts", "coverage", "__pycache__"];
    if !place.is_dir() {
        return place
            .is_file()
            .then(|| place.to_owned())
            .into_iter()
            .collect();
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(place).expect("readable") {
        let path = entry.expect("readable").path();
        if !MADE.iter().any(|made| path.ends_with(made)) {
            files.extend(files_below(&path));
        }
    }
    files
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Of any file: what is no text in it is of no interest here.
fn text_of(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).expect("readable")).into_owned()
}

#[test]
fn tests_that_the_security_table_names_exist() {
    let tests = root().join("tests");
    let mut named = 0;
    for row in security_rows() {
        let (_, names) = row.trim_end_matches(" |").rsplit_once("| ").expect("cells");
        for name in names.split('`').skip(1).step_by(2) {
            named += 1;
            let is_there = match name.strip_suffix('*') {
                Some(beginning) => files_below(&tests.join("transcripts")).iter().any(|file| {
                    let path = file.strip_prefix(&tests).expect("below").display();
                    path.to_string().starts_with(beginning)
                }),
                None if name.starts_with("transcripts/") => {
                    tests.join(format!("{name}.txt")).is_file()
                }
                None => tests.join(name).is_file(),
            };
            assert!(is_there, "there is no {name}, of: {row}");
        }
        assert!(names.contains('`'), "no test: {row}");
    }
    assert!(named > 150, "the table has another form");
}

#[test]
fn every_row_of_the_security_table_is_there() {
    let mut rows: Vec<String> = security_rows()
        .iter()
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|rows| rows.split(','))
        .map(|row| row.trim().to_owned())
        .filter(|row| row.starts_with(|first: char| first.is_ascii_uppercase()))
        .filter(|row| row[1..].parse::<u32>().is_ok())
        .collect();
    let areas = [
        ("I", 10),
        ("R", 12),
        ("M", 10),
        ("U", 10),
        ("T", 12),
        ("S", 10),
        ("A", 10),
        ("O", 7),
    ];
    let mut expected: Vec<String> = areas
        .iter()
        .flat_map(|(area, last)| (1..=*last).map(move |number| format!("{area}{number}")))
        .collect();
    rows.sort();
    expected.sort();
    assert_eq!(rows, expected);
}

/// Of the tables of tests/SECURITY.md, but what is above them.
fn security_rows() -> Vec<String> {
    let page = read(&root().join("tests/SECURITY.md"));
    let rows = page.lines().filter(|line| line.starts_with("| "));
    rows.filter(|line| !line.ends_with("| tests |"))
        .map(str::to_owned)
        .collect()
}
