//! The time of day, for what others read; how long anything takes is tokio's to tell.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_SECONDS: u64 = 24 * 60 * 60;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `date-time` of RFC 5322 §3.3, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageDate {
    unix_seconds: u64,
}

impl MessageDate {
    /// The moment of the call.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            unix_seconds: since_epoch.map_or(0, |time| time.as_secs()),
        }
    }
}

/// `Wed, 25 Nov 2026 13:08:16 +0000`
impl fmt::Display for MessageDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.unix_seconds / DAY_SECONDS;
        let second = self.unix_seconds % DAY_SECONDS;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let (year, month, day) = civil(days);
        // Both are within their tables: of 7 days and 12 months.
        let weekday = DAYS[(days % 7) as usize];
        let month = MONTHS[month as usize - 1];
        write!(
            f,
            "{weekday}, {day} {month} {year:04} {hour:02}:{minute:02}:{second:02} +0000"
        )
    }
}

/// `date-text` of RFC 3501 §9, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// Since 1970-01-01.
    days: u64,
}

impl Day {
    /// The one before that of the call.
    pub fn yesterday() -> Self {
        let days = MessageDate::now().unix_seconds / DAY_SECONDS;
        Self {
            days: days.saturating_sub(1),
        }
    }
}

/// `25-Nov-2026`
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.days);
        let month = MONTHS[month as usize - 1];
        write!(f, "{day}-{month}-{year:04}")
    }
}

/// Year, month from 1, and day from 1, of a day counted from 1970-01-01 (Howard Hinnant's: years start
/// in March, eras have 400 years).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_in_a_header() {
        for (unix_seconds, expected) in [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_795_612_096, "Wed, 25 Nov 2026 13:08:16 +0000"),
        ] {
            let date = MessageDate { unix_seconds };
            assert_eq!(date.to_string(), expected);
        }
    }

    #[test]
    fn days_as_in_a_search() {
        for (days, expected) in [(0, "1-Jan-1970"), (20_782, "25-Nov-2026")] {
            assert_eq!(Day { days }.to_string(), expected);
        }
    }
}
