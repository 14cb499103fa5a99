//! `sequence-set` of RFC 3501 §9, for message sequence numbers and UIDs alike.

use std::fmt::Write;
use std::ops::RangeInclusive;

use nom::Parser;
use nom::branch::alt;
use nom::character::complete::{char, u32};
use nom::combinator::{opt, value, verify};
use nom::multi::separated_list1;
use nom::sequence::preceded;

use super::words::Parsed;

/// As the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SequenceSet(Vec<(SeqNumber, SeqNumber)>);

/// `seq-number = nz-number / "*"`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeqNumber {
    Number(u32),
    Last,
}

impl SequenceSet {
    /// `sequence-set = (seq-number / seq-range) *("," sequence-set)`
    pub(super) fn parse(input: &[u8]) -> Parsed<'_, Self> {
        let range = (SeqNumber::parse, opt(preceded(char(':'), SeqNumber::parse)))
            .map(|(first, last)| (first, last.unwrap_or(first)));
        separated_list1(char(','), range).map(Self).parse(input)
    }

    /// What it means while `last` is the highest number there is.
    pub(super) fn resolve(&self, last: u32) -> NumberSet {
        let number = |seq_number| match seq_number {
            SeqNumber::Number(number) => number,
            SeqNumber::Last => last,
        };
        // "2:4" and "4:2" are the same, and so "7:*" holds the last one even if that is 5.
        let range = |&(a, b): &(SeqNumber, SeqNumber)| {
            let (a, b) = (number(a), number(b));
            a.min(b)..=a.max(b)
        };
        NumberSet::new(self.0.iter().map(range).collect())
    }
}

impl SeqNumber {
    fn parse(input: &[u8]) -> Parsed<'_, Self> {
        let number = verify(u32, |&number| number > 0).map(Self::Number);
        alt((value(Self::Last, char('*')), number)).parse(input)
    }
}

/// Numbers, as ranges in ascending order that do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NumberSet(Vec<RangeInclusive<u32>>);

impl NumberSet {
    fn new(mut ranges: Vec<RangeInclusive<u32>>) -> Self {
        ranges.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u32>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(before) if range.start() <= before.end() => {
                    *before = *before.start()..=*before.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let at = self.0.partition_point(|range| *range.end() < number);
        self.0.get(at).is_some_and(|range| range.contains(&number))
    }

    /// The highest number in it.
    pub(super) fn highest(&self) -> u32 {
        self.0.last().map_or(0, |range| *range.end())
    }
}

/// Ascending numbers, as short as a `uid-set` can be.
pub(super) fn write_compact(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut text = String::new();
    let mut numbers = numbers.into_iter().peekable();
    while let Some(first) = numbers.next() {
        let mut last = first;
        while let Some(next) = numbers.next_if(|&next| Some(next) == last.checked_add(1)) {
            last = next;
        }
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = match first == last {
            true => write!(text, "{comma}{first}"),
            false => write!(text, "{comma}{first}:{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_mean_what_the_rfc_says() {
        let table: [(&str, u32, &[u32]); 7] = [
            ("2", 5, &[2]),
            ("2:4", 5, &[2, 3, 4]),
            ("4:2,3,1", 5, &[1, 2, 3, 4]),
            ("4:*", 5, &[4, 5]),
            ("*:4", 5, &[4, 5]),
            ("7:*", 5, &[5, 6, 7]),
            ("1,1,1:2,4294967295", 5, &[1, 2]),
        ];
        for (text, last, expected) in table {
            let (rest, set) = SequenceSet::parse(text.as_bytes()).expect(text);
            assert!(rest.is_empty(), "{text}");
            let set = set.resolve(last);
            let found: Vec<u32> = (0..10).filter(|&number| set.contains(number)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn there_is_no_message_zero() {
        for text in ["", "0", "a", "4294967296", "-1"] {
            assert!(SequenceSet::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn runs_are_written_as_ranges() {
        assert_eq!(write_compact([1, 2, 3, 5, 7, 8]), "1:3,5,7:8");
        assert_eq!(
            write_compact([u32::MAX - 1, u32::MAX]),
            "4294967294:4294967295"
        );
        assert_eq!(write_compact([]), "");
    }
}
