//! When a slot is filled again: the policy, the pause before it, and the rate beyond which the cluster gives up.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ExitReason, ExitStatus, moment::Moment};

/// Which workers are replaced when they end.
///
/// A stop of the cluster replaces nobody, whatever the policy. A worker that is told to go by itself (TERM, or
/// [`disconnect`](crate::CurrentWorker::disconnect)) drains and is replaced meanwhile, except under [`Never`](Self::Never).
/// The replacement comes at once, but if the next one ends or goes too before it was ready for ten seconds, after a pause that
/// grows from 100 ms to 30 s.
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

/// How long a worker that gives up its seat had been ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Readiness {
    Never,
    /// Not for long: mere readiness proves nothing, a program may crash on its first request.
    Brief,
    /// For [`LASTING`](Self::LASTING) or longer: the program works.
    Lasting,
}

impl Readiness {
    const LASTING: Duration = Duration::from_secs(10);

    pub(super) fn of(span: Duration) -> Self {
        if span >= Self::LASTING { Self::Lasting } else { Self::Brief }
    }
}

/// How a worker gave up its seat, as far as the pause before the next one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// It was asked to go or began to by itself, and ended so, in time or not.
    Left,
    /// It ended unasked.
    Failed,
}

/// The growing pause before a slot is filled again.
///
/// This counts the departures of a series, which a [lasting](Readiness::Lasting) readiness ends. The moment at which the pause
/// is over belongs to the empty seat that waits for it, so that it cannot outlive the wait.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Backoff {
    departures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);

    /// Counts a departure and tells the pause after it: none, 100 ms, 200 ms, 400 ms … 30 s.
    ///
    /// Whoever leaves counts too, or a program that leaves as soon as it is ready would spin.
    pub(super) fn pause_after(&mut self, departure: Departure, readiness: Readiness) -> Duration {
        let counted = self.departures.saturating_add(1);
        self.departures = match (departure, readiness) {
            (Departure::Left, Readiness::Lasting) => 0,
            (Departure::Failed, Readiness::Lasting) => 1,
            (Departure::Left | Departure::Failed, Readiness::Brief) => counted,
            // Only one that was ready is worth an immediate try: whoever failed to start would most likely fail again.
            (Departure::Left | Departure::Failed, Readiness::Never) => counted.max(2),
        };
        match self.departures {
            0 | 1 => Duration::ZERO,
            // Ten doublings are beyond the longest pause already; more would overflow in the end.
            departures => (Self::FIRST * 2_u32.pow((departures - 2).min(10))).min(Self::LONGEST),
        }
    }
}

/// The rate of ends on which the breaker trips.
///
/// The rule: the cluster gives up when, while no worker was ready, more than 10 per slot ended unasked within 15 minutes, each
/// before it had been ready for 10 seconds. Only such ends are told to this.
///
/// Never a count over the whole life: a cluster that loses one worker a day must not give up after some weeks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Intensity {
    limit: usize,
    ends: VecDeque<Moment>,
}

impl Intensity {
    const PER_SLOT: usize = 10;
    /// So long that eleven attempts fit in with the longest pause after each, even if one takes the default start timeout of
    /// 30 s and then a readiness that almost lasts. What takes longer than 60 s from spawn to end is retried for ever, which
    /// needs a start timeout of more than that.
    const PERIOD: Duration = Duration::from_secs(15 * 60);

    pub(super) fn new(slots: usize) -> Self {
        Self { limit: Self::PER_SLOT * slots, ends: VecDeque::new() }
    }

    /// The cluster has so many slots now.
    pub(super) fn set_slots(&mut self, slots: usize) {
        self.limit = Self::PER_SLOT * slots;
    }

    /// Counts one more and tells whether these are too many. If so the cluster ends, so that this stays small.
    pub(super) fn is_exceeded_at(&mut self, now: Moment) -> bool {
        self.ends.retain(|&end| now.since(end) <= Self::PERIOD);
        self.ends.push_back(now);
        self.ends.len() > self.limit
    }
}
