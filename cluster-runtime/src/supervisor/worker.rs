//! One worker: which state follows which, and what its end means.
//!
//! ```text
//!            ready            leaving, stop            reaped
//! Starting ────────► Ready ────────────────► Draining ───────►
//!    │                 │ │ stuck                │
//!    │                 │ └───► Aborting         │ deadline
//!    │ start timeout   │          │ deadline    │                  reaped
//!    └─────────────────┴──────────┴─────────────┴────────► Killed ───────►
//! ```
//!
//! A starting worker may also be asked to drain, and every worker may also be reaped at any moment.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Action,
    restart::{Readiness, Restart},
};
use crate::{Exit, ExitReason, ExitStatus, WorkerId, moment::Moment};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) generation: u64,
    state: WorkerState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum WorkerState {
    Starting {
        deadline: Moment,
    },
    Ready {
        since: Moment,
        wear: Wear,
    },
    /// Asked to go; `last` is what it was told of the accept queue.
    Draining {
        deadline: Moment,
        last: bool,
        readiness: Readiness,
    },
    /// Sent SIGABRT; until the deadline it may write its core.
    Aborting {
        deadline: Moment,
        readiness: Readiness,
    },
    /// Sent SIGKILL; nothing but its exit is of interest any more.
    Killed {
        cause: KillCause,
        readiness: Readiness,
    },
}

/// Whether a worker that serves has had its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Wear {
    Fresh { until: Option<Moment> },
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum KillCause {
    StartTimeout,
    /// Its time to drain is over, or the operator does not want to wait for it.
    Grace,
    Misbehaviour,
    Stuck,
}

/// The state of a worker as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Ready,
    Draining,
    Killed,
}

/// How long a worker that was aborted may take to write its core.
const TO_DUMP_CORE: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) const fn starting(id: WorkerId, generation: u64, deadline: Moment) -> Self {
        Self { id, generation, state: WorkerState::Starting { deadline } }
    }

    pub(super) const fn state(&self) -> State {
        match self.state {
            WorkerState::Starting { .. } => State::Starting,
            WorkerState::Ready { .. } => State::Ready,
            WorkerState::Draining { .. } => State::Draining,
            WorkerState::Aborting { .. } | WorkerState::Killed { .. } => State::Killed,
        }
    }

    /// It serves, or is about to, and nobody has asked it to stop.
    pub(super) const fn stays(&self) -> bool {
        match self.state {
            WorkerState::Starting { .. } | WorkerState::Ready { .. } => true,
            WorkerState::Draining { .. } | WorkerState::Aborting { .. } | WorkerState::Killed { .. } => false,
        }
    }

    /// It serves and has had its share.
    pub(super) const fn is_worn_out(&self) -> bool {
        matches!(self.state, WorkerState::Ready { wear: Wear::Out, .. })
    }

    pub(super) const fn is_asked_to_go(&self) -> bool {
        match self.state {
            WorkerState::Draining { .. } | WorkerState::Killed { cause: KillCause::Grace, .. } => true,
            WorkerState::Starting { .. }
            | WorkerState::Ready { .. }
            | WorkerState::Aborting { .. }
            | WorkerState::Killed {
                cause: KillCause::StartTimeout | KillCause::Misbehaviour | KillCause::Stuck, ..
            } => false,
        }
    }

    /// How long it has served. Neither the time to drain nor the wait for its exit adds to that.
    pub(super) fn readiness(&self, now: Moment) -> Readiness {
        match self.state {
            WorkerState::Starting { .. } => Readiness::Never,
            WorkerState::Ready { since, .. } => Readiness::of(now.since(since)),
            WorkerState::Draining { readiness, .. }
            | WorkerState::Aborting { readiness, .. }
            | WorkerState::Killed { readiness, .. } => readiness,
        }
    }

    pub(super) const fn deadline(&self) -> Option<Moment> {
        match self.state {
            WorkerState::Starting { deadline }
            | WorkerState::Draining { deadline, .. }
            | WorkerState::Aborting { deadline, .. } => Some(deadline),
            WorkerState::Ready { wear: Wear::Fresh { until }, .. } => until,
            WorkerState::Ready { wear: Wear::Out, .. } | WorkerState::Killed { .. } => None,
        }
    }

    /// With `max_age`, it serves until about that time has passed.
    pub(super) fn become_ready(&mut self, now: Moment, max_age: Option<Duration>) {
        match self.state {
            WorkerState::Starting { .. } => {
                let until = max_age.map(|age| now + age * share_of_limit(self.id) / 1000);
                self.state = WorkerState::Ready { since: now, wear: Wear::Fresh { until } };
            }
            WorkerState::Ready { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Aborting { .. }
            | WorkerState::Killed { .. } => {}
        }
    }

    /// It has had its share.
    pub(super) const fn wear_out(&mut self) {
        if let WorkerState::Ready { wear, .. } = &mut self.state {
            *wear = Wear::Out;
        }
    }

    /// It has had its share and serves on nevertheless, until then at least.
    pub(super) const fn last_until(&mut self, until: Moment) {
        if let WorkerState::Ready { wear, .. } = &mut self.state {
            *wear = Wear::Fresh { until: Some(until) };
        }
    }

    /// Asks the worker to go within `grace`. One that is asked already is only told if the accept queue has become its
    /// business, and has no more time for it than it had.
    pub(super) fn drain(&mut self, now: Moment, grace: Duration, last: bool, actions: &mut Vec<Action>) {
        let deadline = match self.state {
            WorkerState::Starting { .. } | WorkerState::Ready { .. } => now + grace,
            WorkerState::Draining { deadline, last: false, .. } if last => deadline,
            WorkerState::Aborting { ref mut deadline, .. } => {
                *deadline = (*deadline).min(now + grace);
                return self.expire(now, actions);
            }
            WorkerState::Draining { .. } | WorkerState::Killed { .. } => return,
        };
        let grace = deadline.since(now);
        if grace.is_zero() {
            return self.kill(now, KillCause::Grace, actions);
        }
        self.state = WorkerState::Draining { deadline, last, readiness: self.readiness(now) };
        actions.push(Action::Drain { worker: self.id, grace, last });
    }

    pub(super) fn kill(&mut self, now: Moment, cause: KillCause, actions: &mut Vec<Action>) {
        match self.state {
            WorkerState::Starting { .. } | WorkerState::Ready { .. } | WorkerState::Draining { .. } => {
                self.state = WorkerState::Killed { cause, readiness: self.readiness(now) };
                actions.push(Action::Kill(self.id));
            }
            // Why it has to go is settled.
            WorkerState::Aborting { readiness, .. } => {
                self.state = WorkerState::Killed { cause: KillCause::Stuck, readiness };
                actions.push(Action::Kill(self.id));
            }
            WorkerState::Killed { .. } => {}
        }
    }

    /// Ends a worker whose runtime is stuck. One that starts or drains has its deadline already.
    pub(super) fn abort(&mut self, now: Moment, actions: &mut Vec<Action>) {
        match self.state {
            WorkerState::Ready { .. } => {
                self.state = WorkerState::Aborting { deadline: now + TO_DUMP_CORE, readiness: self.readiness(now) };
                actions.push(Action::Abort(self.id));
            }
            WorkerState::Starting { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Aborting { .. }
            | WorkerState::Killed { .. } => {}
        }
    }

    /// Sees to what its time is over for: its start, its drain, its life.
    pub(super) fn expire(&mut self, now: Moment, actions: &mut Vec<Action>) {
        match self.state {
            WorkerState::Starting { deadline } if deadline <= now => self.kill(now, KillCause::StartTimeout, actions),
            WorkerState::Draining { deadline, .. } if deadline <= now => self.kill(now, KillCause::Grace, actions),
            WorkerState::Aborting { deadline, .. } if deadline <= now => self.kill(now, KillCause::Stuck, actions),
            WorkerState::Ready { wear: Wear::Fresh { until: Some(until) }, .. } if until <= now => self.wear_out(),
            WorkerState::Starting { .. }
            | WorkerState::Ready { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Aborting { .. }
            | WorkerState::Killed { .. } => {}
        }
    }

    /// What it means that the worker ended like this.
    pub(super) const fn exit_reason(&self, status: ExitStatus, restart: Restart) -> ExitReason {
        match self.state {
            WorkerState::Starting { .. } if restart.is_finish(status) => ExitReason::Finished,
            WorkerState::Starting { .. } => ExitReason::FailedToStart,
            WorkerState::Ready { .. } if status.is_success() => ExitReason::Finished,
            WorkerState::Ready { .. } => ExitReason::Crashed,
            WorkerState::Draining { .. } if status.is_obedient() => ExitReason::Asked,
            WorkerState::Draining { .. } => ExitReason::Crashed,
            // Whatever the status: it may have ended by itself just before the signal arrived.
            WorkerState::Killed { cause, .. } => match cause {
                KillCause::StartTimeout => ExitReason::StartTimedOut,
                KillCause::Grace => ExitReason::GraceExpired,
                KillCause::Misbehaviour => ExitReason::Misbehaved,
                KillCause::Stuck => ExitReason::Stuck,
            },
            WorkerState::Aborting { .. } => ExitReason::Stuck,
        }
    }
}

impl ExitStatus {
    /// Whether a worker that was asked to go may end like this. A program without a handler yet ends by the very signal that
    /// asked it, as service managers and terminals send it to the whole group; SIGSEGV is a crash even now.
    const fn is_obedient(self) -> bool {
        matches!(self, Self::Code(_) | Self::Signal(libc::SIGTERM | libc::SIGINT))
    }
}

impl Exit {
    pub(super) const fn is_good(self) -> bool {
        self.status.is_success() && matches!(self.reason, ExitReason::Finished | ExitReason::Asked)
    }
}

impl ExitReason {
    pub(super) const fn is_asked(self) -> bool {
        match self {
            Self::Asked | Self::GraceExpired => true,
            Self::Finished
            | Self::Crashed
            | Self::FailedToStart
            | Self::StartTimedOut
            | Self::Misbehaved
            | Self::Stuck => false,
        }
    }

    pub(super) const fn is_failed_start(self) -> bool {
        match self {
            Self::FailedToStart | Self::StartTimedOut | Self::Misbehaved => true,
            Self::Asked | Self::GraceExpired | Self::Finished | Self::Crashed | Self::Stuck => false,
        }
    }
}

/// The share of a limit, in thousandths, after which this worker is worn out: from nine tenths on to all of it, so that workers
/// which were spawned together do not all go together.
pub(crate) fn share_of_limit(worker: WorkerId) -> u32 {
    // The golden ratio spreads neighbours as far apart as can be.
    let spread = worker.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    1000 - u32::try_from((spread * 101) >> 32).unwrap_or(0)
}
