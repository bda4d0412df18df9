//! Decides what the cluster does: events and time in, actions out.
//!
//! There is no clock, no process and no I/O in here, so that every situation can be played in a test within microseconds; a
//! clippy list guards it. The shell in `primary/` waits for an event or for [`Supervisor::next_deadline`], calls
//! [`Supervisor::step`], and performs the actions in their order. Whatever can fail in that comes back as an event.
//!
//! - `slot`: a slot and its workers, and which state follows which.
//! - `restart`: the policy, the backoff of a slot, and the rate beyond which the cluster gives up.
//!
//! What holds after every step, and is checked by a random walk in `tests`:
//!
//! - A slot has at most one worker that is not on its way out, and at most two processes.
//! - A worker id is used once. Every worker that was spawned is reaped once. Unknown and late ids are ignored.
//! - No deadline lies in the past: a shell that waits for the next one cannot spin.
//! - After [`Action::Shutdown`] nothing is spawned. [`Action::Exit`] comes last, once, and when no worker is left.
#![deny(clippy::disallowed_methods)]

mod restart;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

pub use restart::Restart;
use restart::{Intensity, Readiness};
pub(crate) use slot::State;
use slot::{KillCause, Removed, Slot, Worker, later};

use crate::{Exit, ExitReason, ExitStatus, WorkerId};

/// What a cluster is set to; validated before it comes here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) slots: usize,
    pub(crate) restart: Restart,
    /// A worker that is not ready by then is killed.
    pub(crate) start_timeout: Duration,
    /// A worker that was asked to go and is not gone by then is killed; zero kills without asking.
    pub(crate) grace: Duration,
    /// How long the workers go on serving after TERM before they drain.
    pub(crate) drain_delay: Duration,
    /// Successors that may start at a time in a reload.
    pub(crate) surge: usize,
    /// A worker that has been ready for so long is replaced.
    pub(crate) max_age: Option<Duration>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The cluster shall start. Only the first one counts.
    Start,
    /// An [`Action::Spawn`] could not be performed: there is no process, and there will be no [`Event::Exited`].
    SpawnFailed(WorkerId),
    /// The worker serves.
    Ready(WorkerId),
    /// The worker began to drain by itself: it got TERM directly, or disconnected.
    Leaving(WorkerId),
    /// The worker broke the protocol on one of its lanes.
    Misbehaved(WorkerId),
    /// The worker was reaped.
    Exited(WorkerId, ExitStatus),
    /// The cluster shall stop.
    Stop(StopCause),
    /// Time passed. Every step looks at the deadlines; this one does nothing else.
    Tick,
}

/// Who wants the cluster to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// TERM or QUIT, from a service manager say. While the cluster stops it does nothing: it may well be repeated, and that
    /// must not cost the connections that still drain.
    Terminate,
    /// Ctrl-C. While the cluster stops, for whatever cause, it kills all that is left.
    Interrupt,
    /// The user's primary function called for it, or returned.
    Asked,
    /// The user's primary function returned an error or panicked.
    PrimaryFailed,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Spawn {
        worker: WorkerId,
        slot: usize,
        generation: u64,
    },
    /// Ask the worker to go. A worker that is [`Leaving`](Event::Leaving) is asked too, and so learns its deadline.
    Drain {
        worker: WorkerId,
        /// What is left of the grace period.
        grace: Duration,
        /// Neither a successor nor another worker takes the accept queue over: drain that too.
        last: bool,
    },
    Kill(WorkerId),
    /// A worker is gone: the one account of its end. Comes once for each worker that was to be spawned.
    Reaped {
        worker: WorkerId,
        slot: usize,
        generation: u64,
        exit: Exit,
        next: Next,
    },
    /// Every slot has been ready: the first start is complete. A slot that finished without a word is not waited for.
    AllReady,
    /// The stop begins; nothing is spawned any more.
    Shutdown(ShutdownCause),
    /// The end. No worker is left and there will be no more actions.
    Exit(Outcome),
}

/// What becomes of the slot of a worker that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Its replacement is spawned after this time, in the same step if that is zero.
    Restart { after: Duration },
    /// Another worker has the slot already.
    Taken,
    /// The restart policy leaves it empty.
    Empty,
    /// The cluster stops.
    Stopping,
}

/// Why the cluster stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShutdownCause {
    Stop(StopCause),
    /// A worker failed before its slot was ever ready: the program is broken, and trying again would not mend it.
    StartFailed {
        worker: WorkerId,
        exit: Exit,
    },
    /// While no worker was ready, more than 10 per slot ended unasked within 15 minutes, each before it had been ready for 10
    /// seconds.
    Breaker,
}

/// How the cluster ended. The first failure stays: what goes wrong while the cluster stops does not hide why it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was stopped; `forced` if a worker did not go in time and was killed.
    Stopped { cause: StopCause, forced: bool },
    /// The operator did not want to wait for the workers.
    Killed,
    /// See [`ShutdownCause::StartFailed`].
    StartFailed { worker: WorkerId, exit: Exit },
    /// See [`ShutdownCause::Breaker`].
    Breaker,
    /// All workers ended by themselves and the restart policy replaces none; `failed` unless the last one of each slot ended
    /// well.
    AllFinished { failed: bool },
}

/// One worker as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerStatus {
    pub(crate) worker: WorkerId,
    pub(crate) slot: usize,
    pub(crate) generation: u64,
    pub(crate) state: State,
    /// Its exit, when it comes, was asked for.
    pub(crate) asked_to_go: bool,
}

/// The state of the whole cluster.
#[derive(Debug)]
pub(crate) struct Supervisor {
    settings: Settings,
    slots: Vec<Slot>,
    phase: Phase,
    intensity: Intensity,
    generation: u64,
    /// The number of the worker that was spawned last.
    last_id: u64,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// The first start. The awaited slots have not been ready yet; a failure in one of them ends the cluster.
    Starting {
        awaited: BTreeSet<usize>,
    },
    Serving,
    Stopping {
        outcome: Outcome,
    },
    Ended,
}

/// What stands in for the status of a process that never was: the shell's code for a command that could not be run.
const NOT_SPAWNED: ExitStatus = ExitStatus::Code(127);

impl Supervisor {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            slots: (0..settings.slots).map(|_| Slot::default()).collect(),
            phase: Phase::Idle,
            intensity: Intensity::new(settings.slots),
            generation: 1,
            last_id: 0,
        }
    }

    /// Takes one event and appends what is to be done about it, and about the time.
    ///
    /// The event comes before the deadlines: a worker that is ready, or gone, at the last moment is so in time.
    pub(crate) fn step(&mut self, now: Instant, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Start => self.start(now),
            Event::SpawnFailed(worker) => self.spawn_failed(now, worker, actions),
            Event::Ready(worker) => self.ready(now, worker),
            Event::Leaving(worker) => self.leaving(now, worker, actions),
            Event::Misbehaved(worker) => self.misbehaved(now, worker, actions),
            Event::Exited(worker, status) => self.exited(now, worker, status, actions),
            Event::Stop(cause) => self.stop(now, cause, actions),
            Event::Tick => {}
        }
        self.spawn_due(now, actions);
        self.expire(now, actions);
        self.tell_the_last(now, actions);
        self.complete_start(actions);
        self.conclude(actions);
    }

    /// When [`step`](Self::step) has to be called even if nothing happens; always later than the last step.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().filter_map(Slot::deadline).min()
    }

    /// Every worker that is not reaped yet, by slot; the one in the seat comes first.
    pub(crate) fn status(&self) -> impl Iterator<Item = WorkerStatus> {
        self.slots.iter().enumerate().flat_map(|(index, slot)| {
            slot.workers().map(move |worker| WorkerStatus {
                worker: worker.id,
                slot: index,
                generation: worker.generation,
                state: worker.state(),
                asked_to_go: worker.is_asked_to_go(),
            })
        })
    }

    fn start(&mut self, now: Instant) {
        match self.phase {
            Phase::Idle => {
                self.phase = Phase::Starting { awaited: (0..self.slots.len()).collect() };
                self.slots.iter_mut().for_each(|slot| slot.open(now));
            }
            Phase::Starting { .. } | Phase::Serving | Phase::Stopping { .. } | Phase::Ended => {}
        }
    }

    fn ready(&mut self, now: Instant, id: WorkerId) {
        let Some(index) = self.slot_of(id) else { return };
        let slot = &mut self.slots[index];
        slot.workers_mut().filter(|worker| worker.id == id).for_each(|worker| worker.become_ready(now));
        if let Phase::Starting { awaited } = &mut self.phase
            && slot.is_ready()
        {
            awaited.remove(&index);
        }
    }

    fn leaving(&mut self, now: Instant, id: WorkerId, actions: &mut Vec<Action>) {
        let restart = self.restart();
        // What waits in the queue of a slot that stays empty is for whoever stays.
        let last = self.leaves_nobody(Some(id));
        if let Some(index) = self.slot_of(id) {
            self.slots[index].leave(now, id, self.settings.grace, last, restart, actions);
        }
    }

    /// Once nobody stays, all that leave have to empty their queues, which they could not know before.
    fn tell_the_last(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.leaves_nobody(None) {
            let grace = self.settings.grace;
            self.workers_mut().for_each(|worker| worker.drain(now, grace, true, actions));
        }
    }

    /// Whether nobody stays, or comes, once `leaver` is gone.
    fn leaves_nobody(&self, leaver: Option<WorkerId>) -> bool {
        let mut others = self.slots.iter().flat_map(Slot::workers).filter(|other| Some(other.id) != leaver);
        !self.restart().replaces(ExitReason::Asked) && !others.any(Worker::stays)
    }

    fn misbehaved(&mut self, now: Instant, id: WorkerId, actions: &mut Vec<Action>) {
        if let Some(index) = self.slot_of(id) {
            self.slots[index].misbehave(now, id, actions);
        }
    }

    fn spawn_failed(&mut self, now: Instant, id: WorkerId, actions: &mut Vec<Action>) {
        match self.worker(id).map(Worker::state) {
            // A worker that has spoken was spawned.
            None | Some(State::Ready) => {}
            // The order to drain or to kill may have come between the attempt and the news of it.
            Some(State::Starting | State::Draining | State::Killed) => {
                let exit = Exit { status: NOT_SPAWNED, reason: ExitReason::FailedToStart };
                self.reap(now, id, exit, actions);
            }
        }
    }

    fn exited(&mut self, now: Instant, id: WorkerId, status: ExitStatus, actions: &mut Vec<Action>) {
        let reason = self.worker(id).map(|worker| worker.exit_reason(status, self.settings.restart));
        if let Some(reason) = reason {
            self.reap(now, id, Exit { status, reason }, actions);
        }
    }

    fn reap(&mut self, now: Instant, id: WorkerId, exit: Exit, actions: &mut Vec<Action>) {
        let Some(index) = self.slot_of(id) else { return };
        let Some(removed) = self.slots[index].remove(id, exit) else { return };
        let fatal = self.fatal(now, index, &removed, exit);
        let restart = match fatal {
            Some(_) => Restart::Never,
            None => self.restart(),
        };
        self.slots[index].refill(now, &removed, exit.reason, restart);
        actions.push(Action::Reaped {
            worker: id,
            slot: index,
            generation: removed.worker().generation,
            exit,
            next: if fatal.is_some() || self.is_stopping() { Next::Stopping } else { self.slots[index].next(now) },
        });
        self.note_forced(exit.reason);
        if let Some(cause) = fatal {
            self.shut_down(now, cause, actions);
        }
    }

    /// Whether the cluster cannot go on after this end. One that left the seat before cannot be the reason.
    fn fatal(&mut self, now: Instant, index: usize, removed: &Removed, exit: Exit) -> Option<ShutdownCause> {
        let worker = match removed {
            Removed::FromSeat(worker) => worker,
            Removed::FromOther(_) => return None,
        };
        match &self.phase {
            Phase::Starting { awaited } if awaited.contains(&index) && exit.reason.is_failed_start() => {
                Some(ShutdownCause::StartFailed { worker: worker.id, exit })
            }
            Phase::Starting { .. } | Phase::Serving => {
                self.trips_breaker(now, worker.readiness(now), exit.reason).then_some(ShutdownCause::Breaker)
            }
            Phase::Idle | Phase::Stopping { .. } | Phase::Ended => None,
        }
    }

    /// Counts the ends that show that nothing serves. As long as a worker is ready the rest may fail as it likes, and whoever
    /// had served for long is no sign of a broken program.
    fn trips_breaker(&mut self, now: Instant, readiness: Readiness, reason: ExitReason) -> bool {
        self.restart().replaces(reason)
            && !reason.is_asked()
            && readiness != Readiness::Lasting
            && !self.slots.iter().any(Slot::is_ready)
            && self.intensity.is_exceeded_at(now)
    }

    fn stop(&mut self, now: Instant, cause: StopCause, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Idle | Phase::Starting { .. } | Phase::Serving => {
                self.shut_down(now, ShutdownCause::Stop(cause), actions);
            }
            Phase::Stopping { outcome } => match cause {
                StopCause::Interrupt => {
                    outcome.fail_by_kill();
                    self.workers_mut().for_each(|worker| worker.kill(now, KillCause::Grace, actions));
                }
                StopCause::PrimaryFailed => outcome.fail_by_primary(),
                StopCause::Terminate | StopCause::Asked => {}
            },
            Phase::Ended => {}
        }
    }

    fn shut_down(&mut self, now: Instant, cause: ShutdownCause, actions: &mut Vec<Action>) {
        self.phase = Phase::Stopping { outcome: cause.into() };
        actions.push(Action::Shutdown(cause));
        let grace = self.settings.grace;
        self.slots.iter_mut().for_each(Slot::close);
        self.workers_mut().for_each(|worker| worker.drain(now, grace, true, actions));
    }

    fn note_forced(&mut self, reason: ExitReason) {
        if let Phase::Stopping { outcome: Outcome::Stopped { forced, .. } } = &mut self.phase {
            *forced |= reason == ExitReason::GraceExpired;
        }
    }

    /// The only place that spawns: whatever wants a worker leaves a seat that waits for it.
    fn spawn_due(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_due(now)) {
            self.last_id += 1;
            let worker = WorkerId::new(self.last_id);
            slot.seat(worker, self.generation, later(now, self.settings.start_timeout));
            actions.push(Action::Spawn { worker, slot: index, generation: self.generation });
        }
    }

    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.workers_mut().for_each(|worker| worker.expire(now, actions));
    }

    fn complete_start(&mut self, actions: &mut Vec<Action>) {
        let Phase::Starting { awaited } = &mut self.phase else { return };
        awaited.retain(|&index| !self.slots[index].is_closed());
        if awaited.is_empty() && self.slots.iter().any(Slot::is_ready) {
            self.phase = Phase::Serving;
            actions.push(Action::AllReady);
        }
    }

    fn conclude(&mut self, actions: &mut Vec<Action>) {
        if !self.slots.iter().all(Slot::is_vacant) {
            return;
        }
        let outcome = match self.phase {
            Phase::Idle | Phase::Ended => return,
            Phase::Starting { .. } | Phase::Serving => {
                Outcome::AllFinished { failed: self.slots.iter().any(Slot::has_failed) }
            }
            Phase::Stopping { outcome } => outcome,
        };
        self.phase = Phase::Ended;
        actions.push(Action::Exit(outcome));
    }

    /// The policy as it applies now: a cluster that stops replaces nobody.
    const fn restart(&self) -> Restart {
        match self.phase {
            Phase::Starting { .. } | Phase::Serving => self.settings.restart,
            Phase::Idle | Phase::Stopping { .. } | Phase::Ended => Restart::Never,
        }
    }

    const fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. })
    }

    fn slot_of(&self, id: WorkerId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.workers().any(|worker| worker.id == id))
    }

    fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.slots.iter().flat_map(Slot::workers).find(|worker| worker.id == id)
    }

    fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.slots.iter_mut().flat_map(Slot::workers_mut)
    }
}

impl Outcome {
    const fn fail_by_kill(&mut self) {
        match self {
            Self::Stopped { cause: StopCause::Terminate | StopCause::Interrupt | StopCause::Asked, .. } => {
                *self = Self::Killed;
            }
            Self::Stopped { cause: StopCause::PrimaryFailed, .. }
            | Self::Killed
            | Self::StartFailed { .. }
            | Self::Breaker
            | Self::AllFinished { .. } => {}
        }
    }

    const fn fail_by_primary(&mut self) {
        match self {
            Self::Stopped { cause, .. } => *cause = StopCause::PrimaryFailed,
            Self::Killed | Self::StartFailed { .. } | Self::Breaker | Self::AllFinished { .. } => {}
        }
    }
}

impl From<ShutdownCause> for Outcome {
    fn from(cause: ShutdownCause) -> Self {
        match cause {
            ShutdownCause::Stop(cause) => Self::Stopped { cause, forced: false },
            ShutdownCause::StartFailed { worker, exit } => Self::StartFailed { worker, exit },
            ShutdownCause::Breaker => Self::Breaker,
        }
    }
}
