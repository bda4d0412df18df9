//! When a slot is filled again: the policy, the pause before it, and the rate beyond which the cluster gives up.

use std::{collections::VecDeque, time::Duration, time::Instant};

use crate::{ExitReason, ExitStatus};

/// Which workers are replaced when they end.
///
/// A stop of the cluster replaces nobody, whatever the policy. A worker that is told to go by itself (TERM, or
/// [`disconnect`](crate::CurrentWorker::disconnect)) drains and is replaced, except under [`Never`](Self::Never).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Restart {
    /// Every worker is replaced, however it ended: for servers, which are not supposed to end.
    #[default]
    Always,
    /// A worker that exits with code 0 by itself has finished and its slot stays empty; any other is replaced.
    OnFailure,
    /// Nobody is replaced. The cluster ends with its last worker.
    Never,
}

impl Restart {
    /// Whether a worker that ended for `reason` (or is about to) gets a successor.
    pub(super) const fn replaces(self, reason: ExitReason) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => !matches!(reason, ExitReason::Finished),
            Self::Never => false,
        }
    }

    /// Whether a worker may end like this before it was ever ready and still have done its work: batch programs listen
    /// on nothing and never say that they are ready.
    pub(super) const fn is_finish(self, status: ExitStatus) -> bool {
        match self {
            Self::Always => false,
            Self::OnFailure | Self::Never => status.is_success(),
        }
    }
}

/// How a worker gave up its seat, as far as the pause before the next one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// It was asked to go after it had served.
    Left,
    /// It had served and ended unasked.
    Failed,
    /// It never served, asked to go or not: a program that disconnects while it starts must not spin either.
    NeverReady,
}

/// The growing pause before a slot is filled again.
///
/// This counts failures only. The moment at which the pause is over belongs to the empty seat that waits for it, so that it
/// cannot outlive the wait.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    /// Readiness that lasted this long ends a series of failures. Mere readiness does not: a program that crashes on its
    /// first request would otherwise be restarted without any pause.
    const LASTING: Duration = Duration::from_secs(10);

    pub(super) fn served(&mut self, readiness: Duration) {
        if readiness >= Self::LASTING {
            self.failures = 0;
        }
    }

    /// Counts a departure and tells the pause after it: none, 100 ms, 200 ms, 400 ms … 30 s.
    pub(super) fn pause_after(&mut self, departure: Departure) -> Duration {
        let counted = self.failures.saturating_add(1);
        self.failures = match departure {
            Departure::Left => return Duration::ZERO,
            Departure::Failed => counted,
            // Only a fresh crash is worth an immediate try: whoever failed to start would most likely fail again.
            Departure::NeverReady => counted.max(2),
        };
        match self.failures {
            0 | 1 => Duration::ZERO,
            // Ten doublings are beyond the longest pause already; more would overflow in the end.
            failures => (Self::FIRST * 2_u32.pow((failures - 2).min(10))).min(Self::LONGEST),
        }
    }
}

/// How many replacements nobody asked for there were of late: the breaker trips on this *rate*.
///
/// Never a count over the whole life: a cluster that loses one worker a day must not give up after some weeks.
#[derive(Debug)]
pub(super) struct Intensity {
    limit: usize,
    ends: VecDeque<Instant>,
}

impl Intensity {
    const PER_SLOT: usize = 10;
    const PERIOD: Duration = Duration::from_secs(60);

    pub(super) fn new(slots: usize) -> Self {
        Self { limit: Self::PER_SLOT * slots, ends: VecDeque::new() }
    }

    /// Counts one more and tells whether these are too many.
    pub(super) fn is_exceeded_at(&mut self, now: Instant) -> bool {
        self.ends.retain(|&end| now.saturating_duration_since(end) <= Self::PERIOD);
        self.ends.push_back(now);
        self.ends.len() > self.limit
    }
}
