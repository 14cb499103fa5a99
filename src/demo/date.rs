//! `InternalDate`: the dates of RFC 3501 (`date-time`, `date`) on the proleptic Gregorian calendar.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_SECONDS: i64 = 24 * 60 * 60;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// When a message arrived. Shown in UTC, whatever zone it was given in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InternalDate {
    unix_seconds: i64,
}

impl InternalDate {
    /// The moment of the call.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_seconds = since_epoch.map_or(0, |time| time.as_secs().cast_signed());
        Self { unix_seconds }
    }

    /// `date-time` without its quotes: `17-Jul-1996 02:44:25 -0700`, the day as two digits or
    /// as a space and one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.trim_start_matches(' ').split(' ');
        let day = Day::parse(words.next()?)?;
        let seconds = time_of_day_seconds(words.next()?)?;
        let zone = zone_seconds(words.next()?)?;
        words.next().is_none().then_some(Self {
            unix_seconds: day.0 * DAY_SECONDS + seconds - zone,
        })
    }

    /// The day, for SEARCH.
    pub fn day(self) -> Day {
        Day(self.unix_seconds.div_euclid(DAY_SECONDS))
    }

    /// Seconds since 1970.
    pub fn unix_seconds(self) -> i64 {
        self.unix_seconds
    }
}

/// `17-Jul-1996 09:44:25 +0000`: what stands between the quotes of a `date-time`.
impl fmt::Display for InternalDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.day().civil();
        let second = self.unix_seconds.rem_euclid(DAY_SECONDS);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let month = MONTHS.get(month - 1).unwrap_or(&MONTHS[0]);
        write!(
            f,
            "{day:02}-{month}-{year:04} {hour:02}:{minute:02}:{second:02} +0000"
        )
    }
}

/// Days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(i64);

impl Day {
    /// `date-text`: `1-Feb-1994`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let day: i64 = digits(parts.next()?, 1..=2)?;
        let month = parts.next()?;
        let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month))? + 1;
        let year: i64 = digits(parts.next()?, 4..=4)?;
        let parsed = Self::from_civil(year, month, day);
        // A day that the month does not have comes back as another one.
        (parts.next().is_none() && parsed.civil() == (year, month, day)).then_some(parsed)
    }

    // Both conversions are Howard Hinnant's: years start in March, eras have 400 years.
    fn from_civil(year: i64, month: usize, day: i64) -> Self {
        let month = month as i64;
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Self(era * 146_097 + day_of_era - 719_468)
    }

    fn civil(self) -> (i64, usize, i64) {
        let days = self.0 + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = (month + 2) % 12 + 1;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, month as usize, day)
    }
}

fn time_of_day_seconds(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hour = digits(parts.next()?, 2..=2)?;
    let minute = digits(parts.next()?, 2..=2)?;
    let second = digits(parts.next()?, 2..=2)?;
    // 60 is a leap second.
    (parts.next().is_none() && hour < 24 && minute < 60 && second <= 60)
        .then_some((hour * 60 + minute) * 60 + second)
}

fn zone_seconds(text: &str) -> Option<i64> {
    let (sign, zone) = match text.strip_prefix('-') {
        Some(zone) => (-1, zone),
        None => (1, text.strip_prefix('+')?),
    };
    let zone: i64 = digits(zone, 4..=4)?;
    let (hours, minutes) = (zone / 100, zone % 100);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60)
}

fn digits(text: &str, length: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let sound = length.contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    sound.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_shown_in_utc() {
        let table = [
            ("17-Jul-1996 02:44:25 -0700", "17-Jul-1996 09:44:25 +0000"),
            (" 1-Jan-2026 00:30:00 +0100", "31-Dec-2025 23:30:00 +0000"),
            ("29-feb-2024 12:00:00 +0000", "29-Feb-2024 12:00:00 +0000"),
            ("31-Dec-1969 23:59:59 +0000", "31-Dec-1969 23:59:59 +0000"),
        ];
        for (text, expected) in table {
            let date = InternalDate::parse(text).expect(text);
            assert_eq!(date.to_string(), expected);
        }
    }

    #[test]
    fn what_no_calendar_has_is_refused() {
        for text in [
            "",
            "17-Jul-1996",
            "30-Feb-2024 12:00:00 +0000",
            "0-Jan-2024 12:00:00 +0000",
            "1-Foo-2024 12:00:00 +0000",
            "1-Jan-2024 24:00:00 +0000",
            "1-Jan-2024 12:00:00 0000",
            "1-Jan-2024 12:00:00 +00é",
            "1-Jan-99999999999999999999 12:00:00 +0000",
            "1-Jan-2024 12:00:00 +0000 ",
        ] {
            assert_eq!(InternalDate::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for number in -150_000..150_000 {
            let (year, month, day) = Day(number).civil();
            assert_eq!(Day::from_civil(year, month, day), Day(number));
        }
    }
}
