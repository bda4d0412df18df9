//! A count of what is done by the dozen.

use std::sync::atomic::{AtomicU8, Ordering};

/// How many sends or receives make up one of the steps after which tokio lets other tasks have their turn. They are much quicker than
/// what those steps are made for, and a turn cut short means small writes.
const PER_STEP: u8 = 32;

/// Sends or receives of one kind.
#[derive(Debug, Default)]
pub(crate) struct Steps(AtomicU8);

impl Steps {
    /// Counts another one; whether it makes up a step. A count that several threads get wrong does no harm.
    #[inline]
    pub(crate) fn is_next(&self) -> bool {
        let done = self.0.load(Ordering::Relaxed).wrapping_add(1);
        self.0.store(done, Ordering::Relaxed);
        done.is_multiple_of(PER_STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lot_makes_up_one_step() {
        let steps = Steps::default();
        let made = (0..10 * u32::from(PER_STEP)).filter(|_| steps.is_next()).count();
        assert_eq!(made, 10);
    }
}
