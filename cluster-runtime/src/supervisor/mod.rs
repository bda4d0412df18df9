//! Decides what the cluster does: events and time in, actions out.
//!
//! There is no clock, no process and no I/O in here, so that every situation can be played in a test within microseconds; a
//! clippy list guards it. The shell in `primary/` waits for an event or for [`Supervisor::next_deadline`], calls
//! [`Supervisor::step`], and performs the actions in their order. Whatever can fail in that comes back as an event.
//!
//! - `worker`: one worker, and which state follows which.
//! - `slot`: a slot and its workers: who has the seat, who comes after.
//! - `renewal`: reload and recycling: who gets a successor while it serves.
//! - `restart`: the policy, the backoff of a slot, and the rate beyond which the cluster gives up.
//!
//! All of it is plain data that can be written down: an upgrade of the primary carries it over.
//!
//! What holds after every step, and is checked by a random walk in `tests`:
//!
//! - A slot has at most two processes. Two that are not on their way out are one that serves and its successor, and so it is in at
//!   most as many slots as the surge allows in a reload, and in one else.
//! - Nobody who serves is asked to go for the sake of a successor before that is ready.
//! - Reloads never overlap, and each one that began ends, told once: complete, or abandoned with its reason.
//! - A worker id is used once. Every worker that was spawned is reaped once. Unknown and late ids are ignored.
//! - No deadline lies in the past: a shell that waits for the next one cannot spin.
//! - After [`Action::Shutdown`] nothing is spawned. [`Action::Exit`] comes last, once, and when no worker is left.
#![deny(clippy::disallowed_methods)]

mod renewal;
mod restart;
mod slot;
#[cfg(test)]
mod tests;
mod worker;

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use renewal::Reload;
pub use restart::Restart;
use restart::{Intensity, Readiness};
use slot::{Removed, Slot};
use worker::{KillCause, Worker};
pub(crate) use worker::{State, share_of_limit};

use crate::{Exit, ExitReason, ExitStatus, WorkerId, moment::Moment};

/// What a cluster is set to; validated before it comes here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// At first.
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
    /// The worker is to go, and be replaced if the policy is so: it began to drain by itself, as it got TERM directly or disconnected; or
    /// the user's primary function wants it so.
    Leaving(WorkerId),
    /// The worker broke the protocol on one of its lanes.
    Misbehaved(WorkerId),
    /// The worker was reaped.
    Exited(WorkerId, ExitStatus),
    /// A new generation shall take over. While one does, another follows.
    Reload,
    /// There shall be so many slots, one at least.
    Scale(usize),
    /// There shall be one worker more: in a slot that its policy has left empty, or else in a new one.
    Fork,
    /// The worker's runtime is stuck.
    Stuck(WorkerId),
    /// The worker has had its share and shall be replaced.
    WornOut(WorkerId),
    /// The cluster shall stop.
    Stop(StopCause),
    /// Time passed. Every step looks at the deadlines; this one does nothing else.
    Tick,
}

/// Who wants the cluster to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Have the worker dump core.
    Abort(WorkerId),
    Kill(WorkerId),
    /// The slot is open (again): a worker comes.
    Open {
        slot: usize,
    },
    /// A reload begins; what belongs to this generation is the program as it is on disk now.
    Reloading {
        generation: u64,
    },
    /// That reload has ended: all serve that are to, or what served before serves on.
    Reloaded {
        generation: u64,
        outcome: Result<(), Abandoned>,
    },
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
    /// The stop begins; nothing is spawned any more. After the delay, the workers are asked to drain.
    Shutdown {
        cause: ShutdownCause,
        delay: Duration,
    },
    /// The end. No worker is left and there will be no more actions.
    Exit(Outcome),
}

/// Why a reload was abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// A worker of the new generation ended before it was ready.
    Failed { worker: WorkerId, exit: Exit },
    /// The cluster stops.
    Stopping,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    memory: Memory,
}

/// All that the supervisor knows, but for its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    slots: Vec<Slot>,
    /// So many of the slots are to have workers; from there on they are retired.
    wanted: usize,
    phase: Phase,
    intensity: Intensity,
    /// Of the last complete reload: new slots begin with it.
    generation: u64,
    /// The highest number that a generation has had.
    last_generation: u64,
    reload: Option<Reload>,
    /// Another reload is to follow the one that runs, or the start.
    wants_reload: bool,
    /// The number of the worker that was spawned last.
    last_id: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Phase {
    Idle,
    /// The first start. The awaited slots have not been ready yet; a failure in one of them ends the cluster.
    Starting {
        awaited: BTreeSet<usize>,
    },
    Serving,
    Stopping {
        outcome: Outcome,
        /// When the workers are asked to drain, if they are not yet.
        drain_at: Option<Moment>,
    },
    Ended,
}

/// What stands in for the status of a process that never was: the shell's code for a command that could not be run.
const NOT_SPAWNED: ExitStatus = ExitStatus::Code(127);

impl Supervisor {
    pub(crate) fn new(settings: Settings) -> Self {
        let memory = Memory {
            slots: (0..settings.slots).map(|_| Slot::new(1)).collect(),
            wanted: settings.slots,
            phase: Phase::Idle,
            intensity: Intensity::new(settings.slots),
            generation: 1,
            last_generation: 1,
            reload: None,
            wants_reload: false,
            last_id: 0,
        };
        Self { settings, memory }
    }

    /// Goes on where another one has stopped, with settings that may differ.
    pub(crate) const fn adopt(settings: Settings, memory: Memory) -> Self {
        Self { settings, memory }
    }

    /// All that a supervisor has to know to go on from here.
    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes one event and appends what is to be done about it, and about the time.
    ///
    /// The event comes before the deadlines: a worker that is ready, or gone, at the last moment is so in time.
    pub(crate) fn step(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Start => self.start(now),
            Event::SpawnFailed(worker) => self.spawn_failed(now, worker, actions),
            Event::Ready(worker) => self.ready(now, worker, actions),
            Event::Leaving(worker) => self.leaving(now, worker, actions),
            Event::Misbehaved(worker) => self.misbehaved(now, worker, actions),
            Event::Exited(worker, status) => self.exited(now, worker, status, actions),
            Event::Reload => self.want_reload(),
            Event::Scale(count) => self.scale(now, count, actions),
            Event::Fork => self.fork(now, actions),
            Event::Stuck(worker) => self.stuck(now, worker, actions),
            Event::WornOut(worker) => self.worn_out(worker),
            Event::Stop(cause) => self.stop(now, cause, actions),
            Event::Tick => {}
        }
        self.complete_start(actions);
        // Before the renewal, as a worker's time may be over; and after, as what is spawned may have no time at all.
        self.expire(now, actions);
        self.renew(now, actions);
        self.spawn_due(now, actions);
        self.expire(now, actions);
        self.tell_the_last(now, actions);
        self.conclude(actions);
    }

    /// When [`step`](Self::step) has to be called even if nothing happens; always later than the last step.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        let drain_at = match self.memory.phase {
            Phase::Stopping { drain_at, .. } => drain_at,
            Phase::Idle | Phase::Starting { .. } | Phase::Serving | Phase::Ended => None,
        };
        self.memory.slots.iter().filter_map(Slot::deadline).chain(drain_at).min()
    }

    /// The first start is over, and no reload runs or waits: an upgrade does not get into the way of anything.
    pub(crate) const fn is_at_rest(&self) -> bool {
        matches!(self.memory.phase, Phase::Serving) && self.memory.reload.is_none() && !self.memory.wants_reload
    }

    /// How many workers are wanted.
    pub(crate) const fn wanted(&self) -> usize {
        self.memory.wanted
    }

    /// The generations of which a worker lives or may still be spawned.
    pub(crate) fn generations(&self) -> BTreeSet<u64> {
        let alive = self.memory.slots.iter().flat_map(Slot::workers).map(|worker| worker.generation);
        let to_come = self.memory.slots.iter().map(Slot::generation);
        let reload = self.memory.reload.iter().map(Reload::generation);
        alive.chain(to_come).chain(reload).chain([self.memory.generation]).collect()
    }

    /// Every worker that is not reaped yet, by slot; the one in the seat comes first.
    pub(crate) fn status(&self) -> impl Iterator<Item = WorkerStatus> {
        self.memory.slots.iter().enumerate().flat_map(|(index, slot)| {
            slot.workers().map(move |worker| WorkerStatus {
                worker: worker.id,
                slot: index,
                generation: worker.generation,
                state: worker.state(),
                asked_to_go: worker.is_asked_to_go(),
            })
        })
    }

    fn start(&mut self, now: Moment) {
        match self.memory.phase {
            Phase::Idle => {
                self.memory.phase = Phase::Starting { awaited: (0..self.memory.slots.len()).collect() };
                self.memory.slots.iter_mut().for_each(|slot| slot.open(now));
            }
            Phase::Starting { .. } | Phase::Serving | Phase::Stopping { .. } | Phase::Ended => {}
        }
    }

    fn ready(&mut self, now: Moment, id: WorkerId, actions: &mut Vec<Action>) {
        let Some(index) = self.slot_of(id) else { return };
        let Settings { grace, max_age, .. } = self.settings;
        let slot = &mut self.memory.slots[index];
        slot.become_ready(now, id, max_age, grace, actions);
        let is_ready = self.worker(id).is_some_and(|worker| worker.state() == State::Ready);
        if is_ready {
            self.note_success(id);
        }
        let slot = &self.memory.slots[index];
        if let Phase::Starting { awaited } = &mut self.memory.phase
            && slot.is_ready()
        {
            awaited.remove(&index);
        }
    }

    fn leaving(&mut self, now: Moment, id: WorkerId, actions: &mut Vec<Action>) {
        // What waits in the queue of a slot that stays empty is for whoever stays.
        let last = self.leaves_nobody(Some(id));
        if let Some(index) = self.slot_of(id) {
            let restart = self.restart(index);
            self.memory.slots[index].leave(now, id, self.settings.grace, last, restart, actions);
        }
    }

    /// Once nobody stays, all that leave have to empty their queues, which they could not know before.
    fn tell_the_last(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.leaves_nobody(None) {
            let grace = self.settings.grace;
            let leavers = self.workers_mut().filter(|worker| worker.state() == State::Draining);
            leavers.for_each(|worker| worker.drain(now, grace, true, actions));
        }
    }

    /// Whether nobody stays, or comes, once `leaver` is gone.
    fn leaves_nobody(&self, leaver: Option<WorkerId>) -> bool {
        let mut slots = self.memory.slots.iter().enumerate();
        !slots.any(|(index, slot)| slot.will_serve(leaver, self.restart(index)))
    }

    fn scale(&mut self, now: Moment, count: usize, actions: &mut Vec<Action>) {
        if !self.is_running() {
            return;
        }
        let before = std::mem::replace(&mut self.memory.wanted, count.max(1));
        for index in self.memory.wanted..before {
            self.withdraw_from_reload(index);
            self.memory.slots[index].retire(now, self.settings.grace, actions);
        }
        (before..self.memory.wanted).for_each(|index| self.open(now, index, actions));
        self.memory.intensity.set_slots(self.memory.wanted);
    }

    fn fork(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if !self.is_running() {
            return;
        }
        let closed = self.memory.slots[..self.memory.wanted].iter().position(Slot::is_closed);
        match closed {
            Some(index) => self.open(now, index, actions),
            None => self.scale(now, self.memory.wanted + 1, actions),
        }
    }

    /// Opens a slot that has never been, or that has been closed or retired.
    fn open(&mut self, now: Moment, index: usize, actions: &mut Vec<Action>) {
        if index == self.memory.slots.len() {
            self.memory.slots.push(Slot::new(self.memory.generation));
        }
        self.memory.slots[index].open(now);
        if let Phase::Starting { awaited } = &mut self.memory.phase {
            awaited.insert(index);
        }
        self.add_to_reload(index);
        actions.push(Action::Open { slot: index });
    }

    fn stuck(&mut self, now: Moment, id: WorkerId, actions: &mut Vec<Action>) {
        self.workers_mut().filter(|worker| worker.id == id).for_each(|worker| worker.abort(now, actions));
    }

    fn worn_out(&mut self, id: WorkerId) {
        self.workers_mut().filter(|worker| worker.id == id).for_each(Worker::wear_out);
    }

    fn misbehaved(&mut self, now: Moment, id: WorkerId, actions: &mut Vec<Action>) {
        if let Some(index) = self.slot_of(id) {
            self.memory.slots[index].misbehave(now, id, actions);
        }
    }

    fn spawn_failed(&mut self, now: Moment, id: WorkerId, actions: &mut Vec<Action>) {
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

    fn exited(&mut self, now: Moment, id: WorkerId, status: ExitStatus, actions: &mut Vec<Action>) {
        let reason = self.worker(id).map(|worker| worker.exit_reason(status, self.settings.restart));
        if let Some(reason) = reason {
            self.reap(now, id, Exit { status, reason }, actions);
        }
    }

    fn reap(&mut self, now: Moment, id: WorkerId, exit: Exit, actions: &mut Vec<Action>) {
        let Some(index) = self.slot_of(id) else { return };
        let Some(removed) = self.memory.slots[index].remove(id, exit) else { return };
        let fatal = self.fatal(now, index, &removed, exit);
        let restart = match fatal {
            Some(_) => Restart::Never,
            None => self.restart(index),
        };
        self.memory.slots[index].refill(now, &removed, exit.reason, restart);
        actions.push(Action::Reaped {
            worker: id,
            slot: index,
            generation: removed.worker().generation,
            exit,
            next: if fatal.is_some() || self.is_stopping() {
                Next::Stopping
            } else {
                self.memory.slots[index].next(now)
            },
        });
        self.note_forced(exit.reason);
        if let Some(cause) = fatal {
            self.shut_down(now, cause, actions);
        }
        self.note_failure(now, index, &removed, exit, actions);
    }

    /// Whether the cluster cannot go on after this end. One that left the seat before cannot be the reason.
    fn fatal(&mut self, now: Moment, index: usize, removed: &Removed, exit: Exit) -> Option<ShutdownCause> {
        let worker = match removed {
            Removed::FromSeat(worker) => worker,
            Removed::Successor(_) | Removed::Predecessor(_) => return None,
        };
        match &self.memory.phase {
            Phase::Starting { awaited } if awaited.contains(&index) && exit.reason.is_failed_start() => {
                Some(ShutdownCause::StartFailed { worker: worker.id, exit })
            }
            Phase::Starting { .. } | Phase::Serving => {
                self.trips_breaker(now, index, worker.readiness(now), exit.reason).then_some(ShutdownCause::Breaker)
            }
            Phase::Idle | Phase::Stopping { .. } | Phase::Ended => None,
        }
    }

    /// Counts the ends that show that nothing serves. As long as a worker is ready the rest may fail as it likes, and whoever
    /// had served for long is no sign of a broken program.
    fn trips_breaker(&mut self, now: Moment, index: usize, readiness: Readiness, reason: ExitReason) -> bool {
        self.restart(index).replaces(reason)
            && !reason.is_asked()
            && readiness != Readiness::Lasting
            && !self.memory.slots.iter().any(Slot::is_ready)
            && self.memory.intensity.is_exceeded_at(now)
    }

    fn stop(&mut self, now: Moment, cause: StopCause, actions: &mut Vec<Action>) {
        match &mut self.memory.phase {
            Phase::Idle | Phase::Starting { .. } | Phase::Serving => {
                self.shut_down(now, ShutdownCause::Stop(cause), actions);
            }
            Phase::Stopping { outcome, .. } => match cause {
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

    fn shut_down(&mut self, now: Moment, cause: ShutdownCause, actions: &mut Vec<Action>) {
        let delay = match cause {
            ShutdownCause::Stop(StopCause::Terminate) if self.memory.slots.iter().any(Slot::is_ready) => {
                self.settings.drain_delay
            }
            ShutdownCause::Stop(_) | ShutdownCause::StartFailed { .. } | ShutdownCause::Breaker => Duration::ZERO,
        };
        self.memory.phase = Phase::Stopping { outcome: cause.into(), drain_at: Some(now + delay) };
        self.abandon_reload(Abandoned::Stopping, now, actions);
        actions.push(Action::Shutdown { cause, delay });
        self.memory.slots.iter_mut().for_each(Slot::close);
        self.drain_all_if_due(now, actions);
    }

    /// Begins the drain of a cluster that stops.
    fn drain_all_if_due(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let Phase::Stopping { drain_at, .. } = &mut self.memory.phase else { return };
        if drain_at.take_if(|time| *time <= now).is_some() {
            let grace = self.settings.grace;
            self.workers_mut().for_each(|worker| worker.drain(now, grace, true, actions));
        }
    }

    fn note_forced(&mut self, reason: ExitReason) {
        if let Phase::Stopping { outcome: Outcome::Stopped { forced, .. }, .. } = &mut self.memory.phase {
            *forced |= reason == ExitReason::GraceExpired;
        }
    }

    /// Fills the seats that wait for a worker.
    fn spawn_due(&mut self, now: Moment, actions: &mut Vec<Action>) {
        for (index, slot) in self.memory.slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_due(now)) {
            self.memory.last_id += 1;
            let worker = WorkerId::new(self.memory.last_id);
            let generation = slot.generation();
            slot.place(Worker::starting(worker, generation, now + self.settings.start_timeout));
            actions.push(Action::Spawn { worker, slot: index, generation });
        }
    }

    fn expire(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.drain_all_if_due(now, actions);
        self.workers_mut().for_each(|worker| worker.expire(now, actions));
    }

    fn complete_start(&mut self, actions: &mut Vec<Action>) {
        let Phase::Starting { awaited } = &mut self.memory.phase else { return };
        awaited.retain(|&index| index < self.memory.wanted && !self.memory.slots[index].is_closed());
        if awaited.is_empty() && self.memory.slots.iter().any(Slot::is_ready) {
            self.memory.phase = Phase::Serving;
            actions.push(Action::AllReady);
        }
    }

    fn conclude(&mut self, actions: &mut Vec<Action>) {
        if !self.memory.slots.iter().all(Slot::is_vacant) {
            return;
        }
        let outcome = match self.memory.phase {
            Phase::Idle | Phase::Ended => return,
            Phase::Starting { .. } | Phase::Serving => {
                Outcome::AllFinished { failed: self.memory.slots.iter().any(Slot::has_failed) }
            }
            Phase::Stopping { outcome, .. } => outcome,
        };
        self.memory.phase = Phase::Ended;
        actions.push(Action::Exit(outcome));
    }

    /// The policy as it applies to a slot now: a cluster that stops replaces nobody, and in a slot that is retired nobody is
    /// replaced.
    const fn restart(&self, index: usize) -> Restart {
        if self.is_running() && index < self.memory.wanted { self.settings.restart } else { Restart::Never }
    }

    const fn is_running(&self) -> bool {
        matches!(self.memory.phase, Phase::Starting { .. } | Phase::Serving)
    }

    const fn is_stopping(&self) -> bool {
        matches!(self.memory.phase, Phase::Stopping { .. })
    }

    fn slot_of(&self, id: WorkerId) -> Option<usize> {
        self.memory.slots.iter().position(|slot| slot.workers().any(|worker| worker.id == id))
    }

    fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.memory.slots.iter().flat_map(Slot::workers).find(|worker| worker.id == id)
    }

    fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.memory.slots.iter_mut().flat_map(Slot::workers_mut)
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
