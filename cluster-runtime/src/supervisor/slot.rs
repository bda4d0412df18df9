//! One slot and the workers in it: who has the seat, who comes after, and who goes.
//!
//! ```text
//! seat:   Empty ◄──► Waiting ──► Taken      the one that serves, or is about to
//! beside: Nobody ──► Successor              starts while the other serves; ready, it takes the seat
//!                    Predecessor            drains while the other has the seat already
//! ```
//!
//! A worker that goes makes room: it moves aside and the seat is for the next. A worker that ends leaves it.

use std::{mem, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Action, Next,
    restart::{Backoff, Departure, Readiness, Restart},
    worker::{KillCause, State, Worker},
};
use crate::{Exit, ExitReason, WorkerId, moment::Moment};

/// A position that outlives its workers: a seat for the one that serves, and a place beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Slot {
    seat: Seat,
    /// Never more than one, so that a slot never has more than two processes.
    beside: Beside,
    /// Of what served here last: what is spawned after a crash is the same.
    generation: u64,
    backoff: Backoff,
    last_exit: Option<Exit>,
    /// It was opened again while its worker was on the way out: somebody is to come, whatever the policy.
    is_wanted: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
enum Seat {
    #[default]
    Empty,
    Waiting {
        until: Moment,
    },
    Taken(Worker),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
enum Beside {
    #[default]
    Nobody,
    Successor(Worker),
    Predecessor(Worker),
}

/// A worker that was reaped, and where it was.
#[derive(Debug)]
pub(super) enum Removed {
    FromSeat(Worker),
    Successor(Worker),
    Predecessor(Worker),
}

impl Slot {
    /// A slot in which nobody is.
    pub(super) fn new(generation: u64) -> Self {
        Self {
            seat: Seat::Empty,
            beside: Beside::Nobody,
            generation,
            backoff: Backoff::default(),
            last_exit: None,
            is_wanted: false,
        }
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        let beside = match &self.beside {
            Beside::Successor(worker) | Beside::Predecessor(worker) => Some(worker),
            Beside::Nobody => None,
        };
        self.seated().into_iter().chain(beside)
    }

    pub(super) fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        let seated = match &mut self.seat {
            Seat::Taken(worker) => Some(worker),
            Seat::Empty | Seat::Waiting { .. } => None,
        };
        let beside = match &mut self.beside {
            Beside::Successor(worker) | Beside::Predecessor(worker) => Some(worker),
            Beside::Nobody => None,
        };
        seated.into_iter().chain(beside)
    }

    /// Nobody is in it and nobody will come.
    pub(super) const fn is_vacant(&self) -> bool {
        self.is_closed() && self.has_room()
    }

    /// The seat will not be taken again.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.seat, Seat::Empty)
    }

    /// The seat is for a worker that is still to be spawned.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.seat, Seat::Waiting { .. })
    }

    /// Nobody is beside the one in the seat.
    pub(super) const fn has_room(&self) -> bool {
        matches!(self.beside, Beside::Nobody)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.workers().any(|worker| worker.state() == State::Ready)
    }

    /// The worker that is to be replaced because it has had its share.
    pub(super) fn worn_out(&self) -> Option<WorkerId> {
        self.seated().filter(|worker| worker.is_worn_out()).map(|worker| worker.id)
    }

    /// Whether somebody serves here, or will, once `leaver` is gone.
    pub(super) fn will_serve(&self, leaver: Option<WorkerId>, restart: Restart) -> bool {
        let stays = |worker: &Worker| worker.stays() && Some(worker.id) != leaver;
        let is_refilled = match &self.seat {
            Seat::Empty => false,
            Seat::Waiting { .. } => true,
            Seat::Taken(_) => self.is_wanted || restart.replaces(ExitReason::Asked),
        };
        is_refilled || self.workers().any(stays)
    }

    /// Whether the worker that ended last here failed.
    pub(super) fn has_failed(&self) -> bool {
        self.last_exit.is_some_and(|exit| !exit.is_good())
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        let waiting = match self.seat {
            Seat::Waiting { until } => Some(until),
            Seat::Empty | Seat::Taken(_) => None,
        };
        self.workers().filter_map(Worker::deadline).chain(waiting).min()
    }

    /// What is to come in this slot.
    pub(super) fn next(&self, now: Moment) -> Next {
        match self.seat {
            Seat::Empty => Next::Empty,
            Seat::Waiting { until } => Next::Restart { after: until.since(now) },
            Seat::Taken(_) => Next::Taken,
        }
    }

    /// The generation of what is spawned here when nothing else is wanted.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Wants a worker as soon as there is room for it.
    pub(super) fn open(&mut self, now: Moment) {
        match self.seat {
            Seat::Empty => self.seat = Seat::Waiting { until: now },
            Seat::Waiting { .. } => {}
            Seat::Taken(_) => {
                self.is_wanted = true;
                self.make_room(now, Restart::Never);
            }
        }
    }

    /// Gives up waiting for a worker. Whoever is here stays.
    pub(super) fn close(&mut self) {
        self.is_wanted = false;
        match self.seat {
            Seat::Waiting { .. } => self.seat = Seat::Empty,
            Seat::Empty | Seat::Taken(_) => {}
        }
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        match self.seat {
            Seat::Waiting { until } => until <= now,
            Seat::Empty | Seat::Taken(_) => false,
        }
    }

    /// Puts a worker that is about to be spawned into the seat, or if that is taken, beside it.
    pub(super) fn place(&mut self, worker: Worker) {
        match self.seat {
            Seat::Empty | Seat::Waiting { .. } => self.seat = Seat::Taken(worker),
            Seat::Taken(_) => self.beside = Beside::Successor(worker),
        }
    }

    /// The worker serves. A successor takes the seat, and whom it succeeds drains.
    pub(super) fn become_ready(
        &mut self,
        now: Moment,
        id: WorkerId,
        max_age: Option<Duration>,
        grace: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.workers_mut().filter(|worker| worker.id == id).for_each(|worker| worker.become_ready(now, max_age));
        if let Beside::Successor(worker) = &self.beside
            && worker.state() == State::Ready
        {
            self.swap();
            if let Beside::Predecessor(worker) = &mut self.beside {
                worker.drain(now, grace, false, actions);
            }
        }
        if let Some(worker) = self.seated()
            && worker.state() == State::Ready
        {
            self.generation = worker.generation;
        }
    }

    /// The worker is to go: it has begun to by itself, or was told to.
    pub(super) fn leave(
        &mut self,
        now: Moment,
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

    /// Everybody here is to go and nobody comes.
    pub(super) fn retire(&mut self, now: Moment, grace: Duration, actions: &mut Vec<Action>) {
        self.close();
        self.workers_mut().for_each(|worker| worker.drain(now, grace, false, actions));
    }

    /// The successor, if there is one, is not wanted any more.
    pub(super) fn dismiss_successor(&mut self, now: Moment, grace: Duration, actions: &mut Vec<Action>) {
        self.beside = match mem::take(&mut self.beside) {
            Beside::Successor(mut worker) => {
                worker.drain(now, grace, false, actions);
                Beside::Predecessor(worker)
            }
            beside @ (Beside::Predecessor(_) | Beside::Nobody) => beside,
        };
    }

    /// The worker that has had its share serves on, until then at least.
    pub(super) fn put_off(&mut self, until: Moment) {
        if let Seat::Taken(worker) = &mut self.seat
            && worker.is_worn_out()
        {
            worker.last_until(until);
        }
    }

    pub(super) fn misbehave(&mut self, now: Moment, id: WorkerId, actions: &mut Vec<Action>) {
        for worker in self.workers_mut().filter(|worker| worker.id == id) {
            worker.kill(now, KillCause::Misbehaviour, actions);
        }
    }

    /// Takes a worker that has ended out of the slot. The seat that it may have had stays empty until [`refill`](Self::refill).
    pub(super) fn remove(&mut self, id: WorkerId, exit: Exit) -> Option<Removed> {
        let removed = match (mem::take(&mut self.seat), mem::take(&mut self.beside)) {
            (Seat::Taken(worker), beside) if worker.id == id => {
                self.beside = beside;
                Removed::FromSeat(worker)
            }
            (seat, Beside::Successor(worker)) if worker.id == id => {
                self.seat = seat;
                Removed::Successor(worker)
            }
            (seat, Beside::Predecessor(worker)) if worker.id == id => {
                self.seat = seat;
                Removed::Predecessor(worker)
            }
            (seat, beside) => {
                (self.seat, self.beside) = (seat, beside);
                return None;
            }
        };
        self.last_exit = Some(exit);
        Some(removed)
    }

    /// Lets the slot go on after a worker was reaped.
    pub(super) fn refill(&mut self, now: Moment, removed: &Removed, reason: ExitReason, restart: Restart) {
        match removed {
            Removed::FromSeat(worker) => match mem::take(&mut self.beside) {
                // It comes anyway.
                Beside::Successor(successor) if successor.stays() => {
                    self.is_wanted = false;
                    self.seat = Seat::Taken(successor);
                }
                Beside::Successor(leaver) | Beside::Predecessor(leaver) => {
                    self.beside = Beside::Predecessor(leaver);
                    self.replace(now, worker, reason, restart);
                }
                Beside::Nobody => self.replace(now, worker, reason, restart),
            },
            Removed::Successor(_) | Removed::Predecessor(_) => self.make_room(now, restart),
        }
    }

    fn replace(&mut self, now: Moment, worker: &Worker, reason: ExitReason, restart: Restart) {
        if restart.replaces(reason) || self.is_wanted {
            self.wait(now, reason, worker.readiness(now));
        }
    }

    /// Moves a worker that leaves out of the seat, if another is there or to come and there is room beside it. Otherwise it
    /// drains where it is, and this is tried again when the one beside is gone.
    fn make_room(&mut self, now: Moment, restart: Restart) {
        let Some(leaver) = self.seated().filter(|worker| worker.is_asked_to_go()) else { return };
        let readiness = leaver.readiness(now);
        match &self.beside {
            Beside::Successor(worker) if worker.stays() => self.swap(),
            Beside::Nobody if restart.replaces(ExitReason::Asked) || self.is_wanted => {
                if let Seat::Taken(worker) = mem::take(&mut self.seat) {
                    self.beside = Beside::Predecessor(worker);
                }
                self.wait(now, ExitReason::Asked, readiness);
            }
            Beside::Successor(_) | Beside::Predecessor(_) | Beside::Nobody => {}
        }
    }

    /// The successor takes the seat; whoever had it moves aside.
    fn swap(&mut self) {
        match (mem::take(&mut self.seat), mem::take(&mut self.beside)) {
            (Seat::Taken(old), Beside::Successor(new)) => {
                self.seat = Seat::Taken(new);
                self.beside = Beside::Predecessor(old);
            }
            (seat, beside) => (self.seat, self.beside) = (seat, beside),
        }
    }

    fn wait(&mut self, now: Moment, reason: ExitReason, readiness: Readiness) {
        let departure = if reason.is_asked() { Departure::Left } else { Departure::Failed };
        self.is_wanted = false;
        self.seat = Seat::Waiting { until: now + self.backoff.pause_after(departure, readiness) };
    }

    const fn seated(&self) -> Option<&Worker> {
        match &self.seat {
            Seat::Taken(worker) => Some(worker),
            Seat::Empty | Seat::Waiting { .. } => None,
        }
    }
}

impl Removed {
    pub(super) const fn worker(&self) -> &Worker {
        match self {
            Self::FromSeat(worker) | Self::Successor(worker) | Self::Predecessor(worker) => worker,
        }
    }
}
