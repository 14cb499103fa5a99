//! Merges the config file, the environment and the flags into one tree of settings.
//!
//! The merging is the `config` crate's; the reading is not, because its own sources forget the line,
//! name "the environment" instead of a variable, and turn `993.7` into `994`.

use std::collections::BTreeMap;
use std::env;
use std::fs;

use config::{ConfigError, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Place, Report};

/// What every variable that is a setting begins with. Kubernetes sets `POPGATE_PORT` for a service
/// of that name, hence two underscores.
const VARIABLE_PREFIX: &str = "POPGATE__";

/// Everything lies below this key, because `config` takes the dots in a key of the topmost level for
/// a path.
const ROOT: &str = "settings";

/// Settings from the command line; they win over the environment and the file.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--upstream`: the URL of the IMAP server of the upstream `default`.
    pub upstream: Option<String>,
    /// `--submission`: the URL of its submission server.
    pub submission: Option<String>,
    /// `--listen`: addresses that replace `[pop3] listen`, unless there are none.
    pub listen: Vec<String>,
}

/// The variables of this process that are settings.
///
/// What is not Unicode is replaced by U+FFFD, so that it is refused where it is read.
pub fn environment() -> Vec<(String, String)> {
    env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

/// The merged settings, and the lines of the section headers, which merging forgets.
pub(super) struct Tree {
    /// By key, tables within tables.
    pub(super) settings: Map<String, Value>,
    /// By dotted path.
    pub(super) headers: Headers,
}

/// Where each section begins, by its dotted path.
pub(super) type Headers = BTreeMap<String, Place>;

/// Reads the three layers and lays them over each other; `None` if the file cannot be parsed.
pub(super) fn merge(
    report: &Report<'_>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &Flags,
) -> Option<Tree> {
    let mut headers = Headers::new();
    let file = match report.file() {
        Some(_) => file_layer(report, &mut headers)?,
        None => Map::new(),
    };
    let mut builder = config::Config::builder().add_source(Layer(file));
    let mut variables: Vec<_> = environment.into_iter().collect();
    variables.sort();
    for (name, value) in variables {
        builder = builder.add_source(variable_layer(report, name, value));
    }
    for layer in flag_layers(flags) {
        builder = builder.add_source(layer);
    }
    let settings = match builder.build().map(|merged| merged.cache.kind) {
        Ok(ValueKind::Table(mut root)) => match root.remove(ROOT).map(|value| value.kind) {
            Some(ValueKind::Table(settings)) => settings,
            _ => Map::new(),
        },
        Ok(_) => Map::new(),
        Err(error) => {
            report.add(Place::Nowhere, "", error);
            return None;
        }
    };
    Some(Tree { settings, headers })
}

/// Settings of one source.
#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Layer {
    /// One setting: `value` at `path`.
    fn of(path: &[&str], value: Value) -> Self {
        let Some((key, outer)) = path.split_last() else {
            return Self(Map::new());
        };
        let innermost = Map::from_iter([((*key).to_owned(), value)]);
        Self(outer.iter().rev().fold(innermost, |table, key| {
            Map::from_iter([((*key).to_owned(), Value::new(None, table))])
        }))
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let settings = Value::new(None, self.0.clone());
        Ok(Map::from_iter([(ROOT.to_owned(), settings)]))
    }
}

/// A value that remembers its place.
fn placed(place: &Place, kind: impl Into<ValueKind>) -> Value {
    Value::new(place.to_origin().as_ref(), kind)
}

fn flag_layers(flags: &Flags) -> Vec<Layer> {
    let text = |path: &[&str], flag: &str, text: &String| {
        Layer::of(path, placed(&Place::Flag(flag.to_owned()), text.as_str()))
    };
    let mut layers = Vec::new();
    layers.extend(
        (flags.upstream.iter())
            .map(|url| text(&["upstream", "default", "imap"], "--upstream", url)),
    );
    layers.extend(
        (flags.submission.iter())
            .map(|url| text(&["upstream", "default", "smtp"], "--submission", url)),
    );
    if !flags.listen.is_empty() {
        let place = Place::Flag("--listen".to_owned());
        let addresses: Vec<_> = flags
            .listen
            .iter()
            .map(|address| placed(&place, address.as_str()))
            .collect();
        layers.push(Layer::of(&["pop3", "listen"], placed(&place, addresses)));
    }
    layers
}

/// `POPGATE__UPSTREAM__DEFAULT__IMAP` is `imap` in `[upstream.default]`.
fn variable_layer(report: &Report<'_>, name: String, value: String) -> Layer {
    let Some(path) = name.strip_prefix(VARIABLE_PREFIX).map(str::to_lowercase) else {
        return Layer(Map::new());
    };
    let path: Vec<_> = path.split("__").collect();
    let place = Place::Variable(name.clone());
    if path.len() < 2 || path.contains(&"") {
        report.add(
            place,
            "",
            "names no setting; write POPGATE__SECTION__KEY, as in POPGATE__UPSTREAM__DEFAULT__IMAP",
        );
        return Layer(Map::new());
    }
    Layer::of(&path, placed(&place, value))
}

fn file_layer(report: &Report<'_>, headers: &mut Headers) -> Option<Map<String, Value>> {
    let text = match fs::read_to_string(report.file()?) {
        Ok(text) => text,
        Err(error) => {
            let what = format!("cannot be read: {error}; name the config file with --config");
            report.add(Place::Nowhere, "", what);
            return None;
        }
    };
    let (table, errors) = DeTable::parse_recoverable(&text);
    let reader = FileReader {
        text: &text,
        report,
    };
    if errors.is_empty() {
        return Some(reader.table(table.get_ref(), "", Some(headers)));
    }
    for error in errors {
        let place = reader.line(error.span().map_or(0, |span| span.start));
        let message = error.message().replace('\n', "; ");
        report.add(place, "", format!("not TOML: {message}"));
    }
    None
}

/// Turns spans of the file's text into lines.
struct FileReader<'a> {
    text: &'a str,
    report: &'a Report<'a>,
}

impl FileReader<'_> {
    fn line(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Place::Line(1 + before.iter().filter(|octet| **octet == b'\n').count())
    }

    /// Within an array the header is the element's own place, and `headers` is `None`.
    fn table(
        &self,
        table: &DeTable<'_>,
        path: &str,
        mut headers: Option<&mut Headers>,
    ) -> Map<String, Value> {
        let mut settings = Map::new();
        for (key, value) in table {
            let place = self.line(key.span().start);
            let path = match path {
                "" => key.get_ref().to_string(),
                path => format!("{path}.{}", key.get_ref()),
            };
            let value = match (value.get_ref(), headers.as_deref_mut()) {
                (DeValue::Table(inner), Some(headers)) => {
                    headers.insert(path.clone(), place.clone());
                    placed(&place, self.table(inner, &path, Some(headers)))
                }
                _ => self.value(value, &place, &path),
            };
            settings.insert(key.get_ref().to_string(), value);
        }
        settings
    }

    fn value(&self, value: &Spanned<DeValue<'_>>, place: &Place, path: &str) -> Value {
        match value.get_ref() {
            DeValue::String(text) => placed(place, text.as_ref()),
            DeValue::Boolean(flag) => placed(place, *flag),
            // What does not fit is far above every limit.
            DeValue::Integer(integer) => placed(
                place,
                i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX),
            ),
            DeValue::Float(float) => placed(place, float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Datetime(_) => {
                (self.report).add(place.clone(), path, "is a date; put it in quotes");
                placed(place, ValueKind::Nil)
            }
            DeValue::Array(array) => {
                let element = |element: &Spanned<DeValue<'_>>| {
                    self.value(element, &self.line(element.span().start), path)
                };
                placed(place, array.iter().map(element).collect::<Vec<_>>())
            }
            DeValue::Table(table) => placed(place, self.table(table, path, None)),
        }
    }
}
