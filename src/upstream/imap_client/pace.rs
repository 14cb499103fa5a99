//! [`Pace`]: how far away the upstream is, and how fast it sends, as seen while messages are fetched.

use std::time::Duration;

/// What one connection has seen, and an earlier one before it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What an earlier connection found the way to hold: it is not learned anew in each session.
    inherited: u64,
    /// The shortest time from a FETCH to its answer, when nothing else was under way.
    round_trip: Option<Duration>,
    octets_per_second: f64,
}

/// So much of what was measured before counts when the next measurement is lower: a client that pauses
/// does not make the upstream slow.
const MEMORY: f64 = 0.95;

impl Pace {
    /// At the beginning of a connection.
    pub(super) fn inherited(octets_under_way: u64) -> Self {
        Self {
            inherited: octets_under_way,
            ..Self::default()
        }
    }

    /// A FETCH was answered after this time, and nothing else was under way.
    pub(super) fn answered(&mut self, after: Duration) {
        let shortest = self.round_trip.map_or(after, |known| known.min(after));
        self.round_trip = Some(shortest);
    }

    /// From a FETCH to the end of its body, so many octets came, of this body and of those before it.
    pub(super) fn delivered(&mut self, octets: u64, within: Duration) {
        if within > Duration::ZERO {
            #[allow(clippy::cast_precision_loss, reason = "an estimate")]
            let rate = octets as f64 / within.as_secs_f64();
            self.octets_per_second = rate.max(self.octets_per_second * MEMORY);
        }
    }

    /// Octets that fill the way from the upstream: the bandwidth-delay product. None before anything
    /// was measured.
    pub(super) fn octets_under_way(&self) -> u64 {
        self.inherited.max(self.measured())
    }

    /// The same, as far as this connection has found out by itself.
    pub(super) fn measured(&self) -> u64 {
        let seconds = self.round_trip.unwrap_or_default().as_secs_f64();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate, and never negative"
        )]
        let octets = (seconds * self.octets_per_second) as u64;
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_and_speed_are_those_of_the_best_moments() {
        let milliseconds = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!(pace.octets_under_way(), 0);
        pace.answered(milliseconds(60));
        pace.answered(milliseconds(50));
        pace.answered(milliseconds(900));
        assert_eq!(pace.octets_under_way(), 0);
        pace.delivered(256 * 1024, milliseconds(64));
        pace.delivered(1, milliseconds(1000));
        let before_the_pause = 256.0 * 1024.0 / 0.064 * 0.05;
        let expected = (before_the_pause * MEMORY) as u64;
        assert!(pace.octets_under_way().abs_diff(expected) <= 1);
        pace.delivered(10, Duration::ZERO);
        assert!(pace.octets_under_way() <= expected);
        assert_eq!(Pace::inherited(7).octets_under_way(), 7);
    }
}
