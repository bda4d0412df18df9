//! One slot and the workers in it: which state follows which, and who may sit where.
//!
//! ```text
//!            ready            leaving, stop            reaped
//! Starting ────────► Ready ────────────────► Draining ───────►
//!    │                 │                        │
//!    │ start timeout   │ misbehaved             │ deadline          reaped
//!    └─────────────────┴────────────────────────┴────────► Killed ───────►
//! ```
//!
//! A starting worker may also be asked to drain, and every worker may also be reaped at any moment.

use std::{
    mem,
    time::{Duration, Instant},
};

use super::{
    Action, Next,
    restart::{Backoff, Departure, Readiness, Restart},
};
use crate::{Exit, ExitReason, ExitStatus, WorkerId};

/// A position that outlives its workers: a seat for the one that serves, and a place beside it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    seat: Seat,
    /// The predecessor, which drains while its successor has the seat already. Never more than this one, so that a slot
    /// never has more than two processes.
    other: Option<Worker>,
    backoff: Backoff,
    last_exit: Option<Exit>,
}

#[derive(Debug, Default)]
enum Seat {
    #[default]
    Empty,
    Waiting {
        until: Instant,
    },
    Taken(Worker),
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) generation: u64,
    state: WorkerState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerState {
    Starting {
        deadline: Instant,
    },
    Ready {
        since: Instant,
    },
    /// Asked to go; `last` is what it was told of the accept queue.
    Draining {
        deadline: Instant,
        last: bool,
        readiness: Readiness,
    },
    /// Sent SIGKILL; nothing but its exit is of interest any more.
    Killed {
        cause: KillCause,
        readiness: Readiness,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KillCause {
    StartTimeout,
    /// Its time to drain is over, or the operator does not want to wait for it.
    Grace,
    Misbehaviour,
}

/// The state of a worker as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Ready,
    Draining,
    Killed,
}

/// A worker that was reaped, and whether it still had the seat.
#[derive(Debug)]
pub(super) enum Removed {
    FromSeat(Worker),
    FromOther(Worker),
}

impl Slot {
    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        let seated = match &self.seat {
            Seat::Taken(worker) => Some(worker),
            Seat::Empty | Seat::Waiting { .. } => None,
        };
        seated.into_iter().chain(&self.other)
    }

    pub(super) fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        let seated = match &mut self.seat {
            Seat::Taken(worker) => Some(worker),
            Seat::Empty | Seat::Waiting { .. } => None,
        };
        seated.into_iter().chain(&mut self.other)
    }

    /// Nobody is in it and nobody will come.
    pub(super) fn is_vacant(&self) -> bool {
        self.is_closed() && self.other.is_none()
    }

    /// The seat will not be taken again.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.seat, Seat::Empty)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.workers().any(|worker| worker.state() == State::Ready)
    }

    /// Whether the worker that ended last here failed.
    pub(super) fn has_failed(&self) -> bool {
        self.last_exit.is_some_and(|exit| !exit.is_good())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = match self.seat {
            Seat::Waiting { until } => Some(until),
            Seat::Empty | Seat::Taken(_) => None,
        };
        self.workers().filter_map(Worker::deadline).chain(waiting).min()
    }

    /// What is to come in this slot.
    pub(super) fn next(&self, now: Instant) -> Next {
        match self.seat {
            Seat::Empty => Next::Empty,
            Seat::Waiting { until } => Next::Restart { after: until.saturating_duration_since(now) },
            Seat::Taken(_) => Next::Taken,
        }
    }

    /// Opens the seat for the first worker.
    pub(super) const fn open(&mut self, now: Instant) {
        self.seat = Seat::Waiting { until: now };
    }

    /// Gives up waiting for a worker. Whoever is here stays.
    pub(super) fn close(&mut self) {
        match self.seat {
            Seat::Waiting { .. } => self.seat = Seat::Empty,
            Seat::Empty | Seat::Taken(_) => {}
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.seat {
            Seat::Waiting { until } => until <= now,
            Seat::Empty | Seat::Taken(_) => false,
        }
    }

    pub(super) const fn seat(&mut self, id: WorkerId, generation: u64, deadline: Instant) {
        self.seat = Seat::Taken(Worker { id, generation, state: WorkerState::Starting { deadline } });
    }

    /// The worker began to drain by itself.
    pub(super) fn leave(
        &mut self,
        now: Instant,
        id: WorkerId,
        grace: Duration,
        last: bool,
        restart: Restart,
        actions: &mut Vec<Action>,
    ) {
        for worker in self.workers_mut().filter(|worker| worker.id == id) {
            worker.drain(now, grace, last, actions);
        }
        self.make_room(now, restart);
    }

    pub(super) fn misbehave(&mut self, now: Instant, id: WorkerId, actions: &mut Vec<Action>) {
        for worker in self.workers_mut().filter(|worker| worker.id == id) {
            worker.kill(now, KillCause::Misbehaviour, actions);
        }
    }

    /// Takes a worker that has ended out of the slot. The seat that it may have had stays empty until [`refill`](Self::refill).
    pub(super) fn remove(&mut self, id: WorkerId, exit: Exit) -> Option<Removed> {
        let removed = match mem::take(&mut self.seat) {
            Seat::Taken(worker) if worker.id == id => Removed::FromSeat(worker),
            seat @ (Seat::Taken(_) | Seat::Waiting { .. } | Seat::Empty) => {
                self.seat = seat;
                Removed::FromOther(self.other.take_if(|other| other.id == id)?)
            }
        };
        self.last_exit = Some(exit);
        Some(removed)
    }

    /// Lets the slot go on after a worker was reaped.
    pub(super) fn refill(&mut self, now: Instant, removed: &Removed, reason: ExitReason, restart: Restart) {
        match removed {
            Removed::FromSeat(worker) if restart.replaces(reason) => self.wait(now, reason, worker.readiness(now)),
            Removed::FromSeat(_) => {}
            Removed::FromOther(_) => self.make_room(now, restart),
        }
    }

    /// Moves a worker that leaves out of the seat, if a successor is to come and there is room beside it. Otherwise it
    /// drains where it is, and this is tried again when the other one is gone.
    fn make_room(&mut self, now: Instant, restart: Restart) {
        if self.other.is_some() || !restart.replaces(ExitReason::Asked) {
            return;
        }
        match mem::take(&mut self.seat) {
            Seat::Taken(worker) if worker.is_asked_to_go() => {
                self.wait(now, ExitReason::Asked, worker.readiness(now));
                self.other = Some(worker);
            }
            seat @ (Seat::Taken(_) | Seat::Waiting { .. } | Seat::Empty) => self.seat = seat,
        }
    }

    fn wait(&mut self, now: Instant, reason: ExitReason, readiness: Readiness) {
        let departure = if reason.is_asked() { Departure::Left } else { Departure::Failed };
        self.seat = Seat::Waiting { until: now + self.backoff.pause_after(departure, readiness) };
    }
}

impl Removed {
    pub(super) const fn worker(&self) -> &Worker {
        match self {
            Self::FromSeat(worker) | Self::FromOther(worker) => worker,
        }
    }
}

impl Worker {
    pub(super) const fn state(&self) -> State {
        match self.state {
            WorkerState::Starting { .. } => State::Starting,
            WorkerState::Ready { .. } => State::Ready,
            WorkerState::Draining { .. } => State::Draining,
            WorkerState::Killed { .. } => State::Killed,
        }
    }

    /// It serves, or is about to, and nobody has asked it to stop.
    pub(super) const fn stays(&self) -> bool {
        match self.state {
            WorkerState::Starting { .. } | WorkerState::Ready { .. } => true,
            WorkerState::Draining { .. } | WorkerState::Killed { .. } => false,
        }
    }

    pub(super) const fn is_asked_to_go(&self) -> bool {
        match self.state {
            WorkerState::Draining { .. } | WorkerState::Killed { cause: KillCause::Grace, .. } => true,
            WorkerState::Starting { .. }
            | WorkerState::Ready { .. }
            | WorkerState::Killed { cause: KillCause::StartTimeout | KillCause::Misbehaviour, .. } => false,
        }
    }

    /// How long it has served. Neither the time to drain nor the wait for its exit adds to that.
    pub(super) fn readiness(&self, now: Instant) -> Readiness {
        match self.state {
            WorkerState::Starting { .. } => Readiness::Never,
            WorkerState::Ready { since } => Readiness::of(now.saturating_duration_since(since)),
            WorkerState::Draining { readiness, .. } | WorkerState::Killed { readiness, .. } => readiness,
        }
    }

    const fn deadline(&self) -> Option<Instant> {
        match self.state {
            WorkerState::Starting { deadline } | WorkerState::Draining { deadline, .. } => Some(deadline),
            WorkerState::Ready { .. } | WorkerState::Killed { .. } => None,
        }
    }

    pub(super) const fn become_ready(&mut self, now: Instant) {
        match self.state {
            WorkerState::Starting { .. } => self.state = WorkerState::Ready { since: now },
            WorkerState::Ready { .. } | WorkerState::Draining { .. } | WorkerState::Killed { .. } => {}
        }
    }

    /// Asks the worker to go within `grace`. One that is asked already is only told if the accept queue has become its
    /// business, and has no more time for it than it had.
    pub(super) fn drain(&mut self, now: Instant, grace: Duration, last: bool, actions: &mut Vec<Action>) {
        let deadline = match self.state {
            WorkerState::Starting { .. } | WorkerState::Ready { .. } => later(now, grace),
            WorkerState::Draining { deadline, last: false, .. } if last => deadline,
            WorkerState::Draining { .. } | WorkerState::Killed { .. } => return,
        };
        let grace = deadline.saturating_duration_since(now);
        if grace.is_zero() {
            return self.kill(now, KillCause::Grace, actions);
        }
        self.state = WorkerState::Draining { deadline, last, readiness: self.readiness(now) };
        actions.push(Action::Drain { worker: self.id, grace, last });
    }

    pub(super) fn kill(&mut self, now: Instant, cause: KillCause, actions: &mut Vec<Action>) {
        match self.state {
            WorkerState::Starting { .. } | WorkerState::Ready { .. } | WorkerState::Draining { .. } => {
                self.state = WorkerState::Killed { cause, readiness: self.readiness(now) };
                actions.push(Action::Kill(self.id));
            }
            WorkerState::Killed { .. } => {}
        }
    }

    /// Ends the worker if its time is over.
    pub(super) fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.state {
            WorkerState::Starting { deadline } if deadline <= now => self.kill(now, KillCause::StartTimeout, actions),
            WorkerState::Draining { deadline, .. } if deadline <= now => self.kill(now, KillCause::Grace, actions),
            WorkerState::Starting { .. }
            | WorkerState::Ready { .. }
            | WorkerState::Draining { .. }
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
            },
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
    const fn is_good(self) -> bool {
        self.status.is_success() && matches!(self.reason, ExitReason::Finished | ExitReason::Asked)
    }
}

impl ExitReason {
    pub(super) const fn is_asked(self) -> bool {
        match self {
            Self::Asked | Self::GraceExpired => true,
            Self::Finished | Self::Crashed | Self::FailedToStart | Self::StartTimedOut | Self::Misbehaved => false,
        }
    }

    pub(super) const fn is_failed_start(self) -> bool {
        match self {
            Self::FailedToStart | Self::StartTimedOut | Self::Misbehaved => true,
            Self::Asked | Self::GraceExpired | Self::Finished | Self::Crashed => false,
        }
    }
}

/// A moment from now on; a span that is too long for the clock is cut to some decades.
pub(super) fn later(now: Instant, span: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(1 << 30);
    now + span.min(DECADES)
}
