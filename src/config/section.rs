//! [`Section`]: one table of the settings, from which each key is taken once and the rest is unknown.

use std::collections::BTreeMap;
use std::path::Path;

use config::{Map, Value, ValueKind};

use super::layers::{Headers, Tree};
use super::report::{Place, Report, nearest};
use super::setting::Setting;

/// One table of the settings.
///
/// Whoever reads it takes every key it knows and calls [`Section::finish`], which complains about
/// what is left. The keys that were asked for are the known ones, so that there is no list of them
/// to forget.
#[must_use = "unknown keys are reported by `finish`"]
pub(super) struct Section<'a> {
    report: &'a Report<'a>,
    headers: &'a Headers,
    /// As between the brackets; empty for the whole file.
    path: String,
    place: Place,
    settings: Map<String, Value>,
    asked: BTreeMap<&'static str, Option<Place>>,
}

impl<'a> Section<'a> {
    /// The whole.
    pub(super) fn root(report: &'a Report<'a>, tree: &'a Tree) -> Self {
        Self {
            report,
            headers: &tree.headers,
            path: String::new(),
            place: Place::Nowhere,
            settings: tree.settings.clone(),
            asked: BTreeMap::new(),
        }
    }

    /// Whether `key` is or was there, sound or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.settings.contains_key(key) || matches!(self.asked.get(key), Some(Some(_)))
    }

    /// Whether the value of `key` is meant as a list.
    pub(super) fn is_list(&self, key: &str) -> bool {
        (self.settings.get(key)).is_some_and(|value| self.setting(value.clone()).is_list())
    }

    /// The value of `key` if it is there and `read` accepts it.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Setting) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.remove(key)?;
        self.read(key, value, read)
    }

    /// The list at `key` if `read` accepts every element; a variable's text is split at commas.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Setting) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let elements = self.take(key, Setting::elements)?;
        let elements: Vec<_> = elements
            .into_iter()
            .map(|element| self.read(key, element, &read))
            .collect();
        elements.into_iter().collect()
    }

    /// The table at `key`.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Self> {
        let value = self.remove(key)?;
        self.inner(key, value)
    }

    /// The tables whose names are the operator's own, sorted by name.
    pub(super) fn named_sections(&mut self) -> Vec<(String, Self)> {
        let names: BTreeMap<_, _> = self.settings.drain().collect();
        names
            .into_iter()
            .filter_map(|(name, value)| Some((name.clone(), self.inner(&name, value)?)))
            .collect()
    }

    /// The tables of the `[[key]]`s, in the order of the file.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.remove(key) else {
            return Vec::new();
        };
        let place = place_of(&value);
        let ValueKind::Array(elements) = value.kind else {
            let what = format!(
                "is not a list of tables; begin each with [[{}]] in a config file",
                self.dotted(key)
            );
            self.report.add(place, &self.named(key), what);
            return Vec::new();
        };
        elements
            .into_iter()
            .filter_map(|element| self.inner(key, element))
            .map(|section| Self {
                path: format!("[{}]", self.dotted(key)),
                ..section
            })
            .collect()
    }

    /// Refuses `key`, which belongs to a feature that there will be.
    pub(super) fn not_yet(&mut self, key: &'static str, feature: &str) {
        let Some(value) = self.settings.remove(key) else {
            return;
        };
        let (place, named) = match value.kind {
            ValueKind::Table(_) => (self.place_of_section(key, &value), self.bracketed(key)),
            _ => (place_of(&value), self.named(key)),
        };
        let removal = match (&place, &value.kind) {
            (Place::Line(_), ValueKind::Table(_)) => "remove the section",
            (place, _) => place.removal(),
        };
        let what = format!("{feature} not there yet in this version of popgate; {removal}");
        self.report.add(place, &named, what);
    }

    /// Notes what is wrong with `key`, or with its absence.
    pub(super) fn problem(&self, key: &str, what: &str) {
        let place = match self.asked.get(key) {
            Some(Some(place)) => place.clone(),
            _ => self.header(),
        };
        self.report.add(place, &self.named(key), what);
    }

    /// Notes what is wrong with the section as a whole.
    pub(super) fn problem_of_all(&self, what: &str) {
        let named = match self.path.as_str() {
            "" => String::new(),
            path => format!("[{path}]"),
        };
        self.report.add(self.header(), &named, what);
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self) {
        let known: Vec<_> = self.asked.keys().copied().collect();
        for (key, value) in &self.settings {
            let (place, named, noun) = match value.kind {
                ValueKind::Table(_) => (
                    self.place_of_section(key, value),
                    self.bracketed(key),
                    "section",
                ),
                _ => (place_of(value), self.named(key), "key"),
            };
            let remedy = match nearest(key, &known) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.report
                .add(place, &named, format!("unknown {noun}; {remedy}"));
        }
    }

    /// Its place as a whole: a variable or a flag would name only one of its keys.
    fn header(&self) -> Place {
        match &self.place {
            Place::Line(line) => Place::Line(*line),
            Place::Variable(_) | Place::Flag(_) | Place::Nowhere => Place::Nowhere,
        }
    }

    fn remove(&mut self, key: &'static str) -> Option<Value> {
        let value = self.settings.remove(key);
        self.asked.insert(key, value.as_ref().map(place_of));
        // Nil stands for what was already reported.
        value.filter(|value| value.kind != ValueKind::Nil)
    }

    fn read<T>(
        &self,
        key: &str,
        value: Value,
        read: impl FnOnce(&Setting) -> Result<T, String>,
    ) -> Option<T> {
        let setting = self.setting(value);
        match read(&setting) {
            Ok(read) => Some(read),
            Err(what) => {
                self.report.add(setting.place, &self.named(key), what);
                None
            }
        }
    }

    fn setting(&self, value: Value) -> Setting {
        Setting {
            place: place_of(&value),
            folder: self
                .report
                .file()
                .and_then(Path::parent)
                .map(Path::to_owned),
            kind: value.kind,
        }
    }

    fn inner(&self, key: &str, value: Value) -> Option<Self> {
        let place = self.place_of_section(key, &value);
        let ValueKind::Table(settings) = value.kind else {
            let place = place_of(&value);
            let section = self.bracketed(key);
            self.report.add(
                place,
                &self.named(key),
                format!("is not a section; write {section}"),
            );
            return None;
        };
        Some(Self {
            report: self.report,
            headers: self.headers,
            path: self.dotted(key),
            place,
            settings,
            asked: BTreeMap::new(),
        })
    }

    fn place_of_section(&self, key: &str, value: &Value) -> Place {
        match self.headers.get(&self.dotted(key)) {
            Some(place) => place.clone(),
            None => place_of(value),
        }
    }

    fn dotted(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    fn bracketed(&self, key: &str) -> String {
        format!("[{}]", self.dotted(key))
    }

    fn named(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("[{path}] {key}"),
        }
    }
}

/// A merged table has no place of its own; then it is where the first of its settings is.
fn place_of(value: &Value) -> Place {
    match (Place::from_origin(value.origin()), &value.kind) {
        (Place::Nowhere, ValueKind::Table(settings)) => settings
            .values()
            .map(place_of)
            .min()
            .unwrap_or(Place::Nowhere),
        (place, _) => place,
    }
}
