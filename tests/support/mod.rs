//! What the transcripts and the fault sweeps share: the language of a transcript, an in-memory
//! connection, and a gateway whose connections are all of that kind.

#![allow(
    dead_code,
    reason = "every test crate compiles all of it and uses a part"
)]

pub(crate) mod actors;
pub(crate) mod end;
pub(crate) mod fetches;
pub(crate) mod pairing;
pub(crate) mod pop3_client;
pub(crate) mod script;
pub(crate) mod smtp_client;
pub(crate) mod spelling;
pub(crate) mod stage;
pub(crate) mod tls;
pub(crate) mod wire;

use std::fs;
use std::path::{Path, PathBuf};

use script::Transcript;

/// The transcripts of POP3, in the order of their names. `TRANSCRIPT=retrieve/top` picks those whose name
/// contains that.
pub(crate) fn transcripts() -> Vec<Transcript> {
    let all = all_transcripts().into_iter();
    all.filter(|transcript| !transcript.submission).collect()
}

/// Those of submission, likewise, as far as they can be broken.
pub(crate) fn submission_transcripts() -> Vec<Transcript> {
    let all = all_transcripts().into_iter();
    all.filter(|transcript| transcript.submission && !transcript.unbroken)
        .collect()
}

/// Both.
pub(crate) fn all_transcripts() -> Vec<Transcript> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let wanted = std::env::var("TRANSCRIPT").unwrap_or_default();
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    files
        .iter()
        .map(|file| (name(&root, file), file))
        .filter(|(name, _)| !name.starts_with("scenes/") && name.contains(&wanted))
        .map(|(name, file)| {
            let text = read(file);
            let scene = |scene: &str| read(&root.join("scenes").join(format!("{scene}.txt")));
            Transcript::parse(&name, &text, &scene).unwrap_or_else(|error| panic!("{error}"))
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of transcripts") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push(path),
        }
    }
}

fn name(root: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(root).expect("below the root");
    relative.with_extension("").display().to_string()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
