//! Spreads over some time what the connections of a worker that drains would else do all at one moment.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The part of the spread after which somebody's moment comes; drawn once for each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share(f64);

impl Share {
    /// At once.
    pub(super) const NONE: Self = Self(0.0);

    /// Any, each as likely as the others.
    pub(super) fn draw() -> Self {
        // Every one of the standard library's hashers has keys of its own, so it says something else of the same.
        let random = RandomState::new().hash_one(()) >> 32;
        // Exact, and less than one: the upper half of the hash is an integer of 32 bits.
        Self(random as f64 / 2_f64.powi(32))
    }

    pub(super) fn of(self, spread: Duration) -> Duration {
        spread.mul_f64(self.0)
    }
}

/// How much of the spread that is set fits into a drain of `grace`, after which what is left is cut: half of it, and what ends last has
/// a second to do so.
pub(super) fn fitting(spread: Duration, grace: Duration) -> Duration {
    const LEFT: Duration = Duration::from_secs(1);
    let room = grace.saturating_sub(super::process::margin(grace) + LEFT);
    spread.min(grace / 2).min(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_lie_anywhere_in_the_spread_and_evenly() {
        const COUNT: usize = 10_000;
        let spread = Duration::from_secs(8);
        let mut quarters = [0_usize; 4];
        for _ in 0..COUNT {
            let moment = Share::draw().of(spread);
            assert!(moment < spread);
            quarters[usize::try_from(moment.as_secs() / 2).unwrap()] += 1;
        }
        // Twenty times the standard deviation, which is 43.
        assert!(quarters.iter().all(|count| count.abs_diff(COUNT / 4) < 870), "{quarters:?}");
        assert_eq!(Share::NONE.of(spread), Duration::ZERO);
    }

    #[test]
    fn the_spread_never_takes_more_than_half_of_the_grace_period_and_leaves_a_second_before_the_cut() {
        let seconds = Duration::from_secs;
        assert_eq!(fitting(seconds(10), seconds(30)), seconds(10));
        assert_eq!(fitting(seconds(20), seconds(30)), seconds(15));
        assert_eq!(fitting(seconds(20), seconds(2)), Duration::from_millis(800));
        assert_eq!(fitting(seconds(20), seconds(1)), Duration::ZERO);
        assert_eq!(fitting(Duration::ZERO, seconds(30)), Duration::ZERO);
        assert_eq!(fitting(seconds(1), Duration::ZERO), Duration::ZERO);
    }
}
