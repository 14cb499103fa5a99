//! [`Report`]: every mistake in the settings, each with its place and its remedy.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;

/// Where a setting was written. The order is the one in which problems are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In the config file, on this line, counted from 1.
    Line(usize),
    /// In this environment variable.
    Variable(String),
    /// In this flag of the command line, with its dashes.
    Flag(String),
    /// Nowhere: it is missing.
    Nowhere,
}

impl Place {
    /// What to do about a setting that must not be there.
    pub(super) fn removal(&self) -> &'static str {
        match self {
            Self::Line(_) | Self::Nowhere => "remove the key",
            Self::Variable(_) => "unset the variable",
            Self::Flag(_) => "leave the flag out",
        }
    }

    /// The form in which the `config` crate carries it from layer to tree, as an "origin".
    pub(super) fn to_origin(&self) -> Option<String> {
        match self {
            Self::Line(line) => Some(format!("line {line}")),
            Self::Variable(name) => Some(format!("variable {name}")),
            Self::Flag(flag) => Some(format!("flag {flag}")),
            Self::Nowhere => None,
        }
    }

    /// The inverse of [`Place::to_origin`].
    pub(super) fn from_origin(origin: Option<&str>) -> Self {
        match origin.and_then(|origin| origin.split_once(' ')) {
            Some(("line", line)) => line.parse().map_or(Self::Nowhere, Self::Line),
            Some(("variable", name)) => Self::Variable(name.to_owned()),
            Some(("flag", flag)) => Self::Flag(flag.to_owned()),
            _ => Self::Nowhere,
        }
    }
}

/// What is wrong so far.
pub(super) struct Report<'a> {
    file: Option<&'a Path>,
    found: RefCell<Vec<(Place, String)>>,
}

impl<'a> Report<'a> {
    /// An empty one about `file`, the environment and the flags.
    pub(super) fn new(file: Option<&'a Path>) -> Self {
        Self {
            file,
            found: RefCell::new(Vec::new()),
        }
    }

    /// The config file.
    pub(super) fn file(&self) -> Option<&'a Path> {
        self.file
    }

    /// Notes that `what` is wrong with `key`, as in `[pop3] listen`; an empty one is the file itself.
    ///
    /// A variable and a flag say by their names which setting they are about.
    pub(super) fn add(&self, place: Place, key: &str, what: impl fmt::Display) {
        let file = self.file.map(Path::display);
        let key = match key {
            "" => String::new(),
            key => format!("{key}: "),
        };
        let line = match (&place, file) {
            (Place::Line(line), Some(file)) => format!("{file}:{line}: {key}{what}"),
            (Place::Nowhere, Some(file)) => format!("{file}: {key}{what}"),
            (Place::Line(_) | Place::Nowhere, None) => format!("{key}{what}"),
            (Place::Variable(name), _) => format!("{name}: {what}"),
            (Place::Flag(flag), _) => format!("{flag}: {what}"),
        };
        self.found.borrow_mut().push((place, line));
    }

    /// `value`, unless something is wrong.
    pub(super) fn conclude<T>(self, value: Option<T>) -> Result<T, Problems> {
        let mut found = self.found.into_inner();
        found.sort();
        match value {
            Some(value) if found.is_empty() => Ok(value),
            _ => Err(Problems(found.into_iter().map(|(_, line)| line).collect())),
        }
    }
}

/// Everything that is wrong with the settings: file by line, then variables, then flags.
///
/// Displayed as one line each, which names file, line, key and remedy. Values are quoted where that
/// helps, but never what could contain a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// The lines, without line ends.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The one of `candidates` that `word` was probably meant to be.
///
/// Two edits are a typing mistake in a long word; in a short one they make any word of any other.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let distance_max = if word.len() > 4 { 2 } else { 1 };
    candidates
        .iter()
        .map(|candidate| (edit_distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in octets, two rows at a time.
fn edit_distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typing_mistakes_and_nothing_else() {
        let keys = ["listen", "listen_tls", "login", "idle"];
        for (word, meant) in [
            ("listn", Some("listen")),
            ("listentls", Some("listen_tls")),
            ("idel", None),
            ("idl", Some("idle")),
            ("Login", Some("login")),
            ("port", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &keys), meant, "{word}");
        }
    }

    #[test]
    fn a_place_survives_the_config_crate() {
        for place in [
            Place::Line(12),
            Place::Variable("POPGATE__POP3__LISTEN".to_owned()),
            Place::Flag("--upstream".to_owned()),
            Place::Nowhere,
        ] {
            assert_eq!(Place::from_origin(place.to_origin().as_deref()), place);
        }
    }
}
