//! Sets of UIDs in every spelling, against a list of ranges that is searched from end to end.
//!
//! The input: ranges as in an ESEARCH (`1:3,9`), then optionally a blank and how many UIDs a part may have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate::imap::ids::{Uid, UidSet};
use popgate::imap::response::{Response, Untagged};

/// So that counting one by one ends.
const COUNTED_MAX: usize = 10_000;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (spelt, split) = text.split_once(' ').unwrap_or((text, ""));
    let Some(ranges) = naive(spelt) else {
        assert_eq!(on_the_wire(spelt), None, "not refused");
        return;
    };
    let mut set = UidSet::default();
    for (first, last) in &ranges {
        set.insert_range(*first, *last);
    }
    assert_eq!(on_the_wire(spelt).as_ref(), Some(&set));
    let canonical = set.to_string();
    assert_eq!(on_the_wire(&canonical).as_ref(), Some(&set));
    check_members(&set, &ranges);
    check_canonical(&set, &canonical);
    check_split(&set, split.parse().unwrap_or(64));
});

/// `uid-set`, by the letter; `None` where it is none.
fn naive(spelt: &str) -> Option<Vec<(Uid, Uid)>> {
    let uid = |digits: &str| {
        let is_plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        Uid::new(is_plain.then(|| digits.parse().ok())??)
    };
    spelt
        .split(',')
        .map(|range| {
            let (first, last) = range.split_once(':').unwrap_or((range, range));
            Some((uid(first)?, uid(last)?))
        })
        .collect()
}

fn on_the_wire(spelt: &str) -> Option<UidSet> {
    match Response::parse(format!("* ESEARCH (TAG \"g1\") UID ALL {spelt}").as_bytes()) {
        Ok(Response::Untagged(Untagged::Search(set))) => Some(set),
        _ => None,
    }
}

fn check_members(set: &UidSet, ranges: &[(Uid, Uid)]) {
    let edges = ranges.iter().flat_map(|(first, last)| [*first, *last]);
    let beside = edges
        .map(Uid::number)
        .flat_map(|edge| [edge.saturating_sub(1), edge, edge.saturating_add(1)])
        .filter_map(Uid::new);
    for uid in beside {
        let expected = ranges
            .iter()
            .any(|(one, other)| uid >= *one.min(other) && uid <= *one.max(other));
        assert_eq!(set.contains(uid), expected, "{uid} in {set}");
    }
    if set.len() <= COUNTED_MAX {
        let members: Vec<Uid> = set.iter().collect();
        assert_eq!(members.len(), set.len());
        assert!(members.is_sorted_by(|one, next| one < next));
        assert!(members.iter().all(|uid| set.contains(*uid)));
        assert_eq!(members.into_iter().rev().collect::<UidSet>(), *set);
    }
}

/// Ascending, and no two ranges that could be one.
fn check_canonical(set: &UidSet, canonical: &str) {
    let ranges = naive(canonical).expect("our own spelling");
    assert!(
        ranges.is_sorted_by(|(_, end), (start, _)| end.number() + 1 < start.number()),
        "{canonical}"
    );
    let count: usize = ranges
        .iter()
        .map(|(first, last)| (last.number() - first.number()) as usize + 1)
        .sum();
    assert_eq!(set.len(), count);
    assert!(!set.is_empty());
}

/// The same UIDs in the same order, and every part full but the last.
fn check_split(set: &UidSet, uids_max: u32) {
    let full = uids_max.max(1) as usize;
    if set.len() / full > COUNTED_MAX {
        return;
    }
    let parts = set.split(uids_max);
    let (last, before) = parts.split_last().expect("at least one part");
    assert!(before.iter().all(|part| part.len() == full));
    assert!((1..=full).contains(&last.len()));
    let joined: Vec<String> = parts.iter().map(UidSet::to_string).collect();
    let joined = joined.join(",");
    assert_eq!(on_the_wire(&joined).as_ref(), Some(set));
    let ranges = naive(&joined).expect("our own spelling");
    assert!(
        ranges.is_sorted_by(|(_, end), (start, _)| end < start),
        "{joined}"
    );
}
