//! Reload and recycling: who gets a successor while it serves.
//!
//! A *reload* gives every slot a worker of a new generation, a few at a time; what is not ready in time ends it, and all that served
//! before serve on. *Recycling* gives a worker that has had its share a successor of its own generation, one at a time in the whole
//! cluster, and never during a reload.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Abandoned, Action, Phase, Supervisor, slot::Removed, worker::Worker};
use crate::{Exit, WorkerId, moment::Moment};

/// A reload that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reload {
    generation: u64,
    /// The slots whose turn has not come.
    waiting: BTreeSet<usize>,
    /// The workers of the new generation that are not ready yet.
    candidates: BTreeSet<WorkerId>,
}

/// How long a worker that has had its share serves on after its successor has failed, before another one is tried.
const ANOTHER_TRY: Duration = Duration::from_secs(30);

impl Reload {
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }
}

impl Supervisor {
    pub(super) const fn want_reload(&mut self) {
        if self.is_running() {
            self.memory.wants_reload = true;
        }
    }

    /// Does what there is to do for the reload, or else for whoever has had its share.
    pub(super) fn renew(&mut self, now: Moment, actions: &mut Vec<Action>) {
        // What starts for the first time is of one generation.
        if !matches!(self.memory.phase, Phase::Serving) {
            return;
        }
        loop {
            if self.memory.reload.is_none() {
                if !std::mem::take(&mut self.memory.wants_reload) {
                    break;
                }
                self.begin_reload(actions);
            }
            self.advance_reload(now, actions);
            if !self.finish_reload(actions) {
                return;
            }
        }
        self.recycle(now, actions);
    }

    /// A slot has been opened while a reload runs, or may.
    pub(super) fn add_to_reload(&mut self, index: usize) {
        if let Some(reload) = &mut self.memory.reload {
            reload.waiting.insert(index);
        }
    }

    /// A slot is retired while a reload runs, or may.
    pub(super) fn withdraw_from_reload(&mut self, index: usize) {
        if let Some(reload) = &mut self.memory.reload {
            reload.waiting.remove(&index);
            self.memory.slots[index].workers().for_each(|worker| _ = reload.candidates.remove(&worker.id));
        }
    }

    /// A worker is ready.
    pub(super) fn note_success(&mut self, id: WorkerId) {
        if let Some(reload) = &mut self.memory.reload {
            reload.candidates.remove(&id);
        }
    }

    /// A worker is gone that may have been a successor.
    pub(super) fn note_failure(
        &mut self,
        now: Moment,
        index: usize,
        removed: &Removed,
        exit: Exit,
        actions: &mut Vec<Action>,
    ) {
        let worker = removed.worker().id;
        let is_candidate = self.memory.reload.as_ref().is_some_and(|reload| reload.candidates.contains(&worker));
        if is_candidate {
            self.abandon_reload(Abandoned::Failed { worker, exit }, now, actions);
        } else if matches!(removed, Removed::Successor(_)) {
            self.memory.slots[index].put_off(now + ANOTHER_TRY);
        }
    }

    /// What serves goes on serving, of whichever generation it is. Candidates that have their slot for themselves may come up.
    pub(super) fn abandon_reload(&mut self, why: Abandoned, now: Moment, actions: &mut Vec<Action>) {
        if why == Abandoned::Stopping {
            self.memory.wants_reload = false;
        }
        let Some(Reload { generation, candidates, .. }) = self.memory.reload.take() else { return };
        let grace = self.settings.grace;
        for slot in &mut self.memory.slots {
            // In a stop all are told by it.
            if why != Abandoned::Stopping && slot.workers().any(|worker| candidates.contains(&worker.id)) {
                slot.dismiss_successor(now, grace, actions);
            }
        }
        actions.push(Action::Reloaded { generation, outcome: Err(why) });
    }

    fn begin_reload(&mut self, actions: &mut Vec<Action>) {
        self.memory.last_generation += 1;
        let generation = self.memory.last_generation;
        let waiting = (0..self.memory.wanted).collect();
        self.memory.reload = Some(Reload { generation, waiting, candidates: BTreeSet::new() });
        actions.push(Action::Reloading { generation });
    }

    /// Spawns successors as far as the surge allows.
    fn advance_reload(&mut self, now: Moment, actions: &mut Vec<Action>) {
        loop {
            // A slot that its policy leaves empty, or will, needs none.
            let stays_open = |index: &usize| self.memory.slots[*index].will_serve(None, self.restart(*index));
            let left: BTreeSet<usize> = match &self.memory.reload {
                Some(reload) => reload.waiting.iter().copied().filter(stays_open).collect(),
                None => return,
            };
            // Where nobody serves is first.
            let has_room = left.iter().copied().filter(|index| self.memory.slots[*index].has_room());
            let next = has_room.min_by_key(|index| !self.memory.slots[*index].is_waiting());
            let Some(reload) = &mut self.memory.reload else { return };
            reload.waiting = left;
            let Some(index) = next.filter(|_| reload.candidates.len() < self.settings.surge) else { return };
            reload.waiting.remove(&index);
            let generation = reload.generation;
            let worker = self.spawn_successor(now, index, generation, actions);
            if let Some(reload) = &mut self.memory.reload {
                reload.candidates.insert(worker);
            }
        }
    }

    /// Whether the reload is complete.
    fn finish_reload(&mut self, actions: &mut Vec<Action>) -> bool {
        let is_done = |reload: &mut Reload| reload.waiting.is_empty() && reload.candidates.is_empty();
        let Some(Reload { generation, .. }) = self.memory.reload.take_if(is_done) else { return false };
        self.memory.generation = generation;
        actions.push(Action::Reloaded { generation, outcome: Ok(()) });
        true
    }

    fn recycle(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if !self.memory.slots.iter().all(|slot| slot.has_room()) {
            return;
        }
        let worn_out = self.memory.slots.iter().enumerate().filter_map(|(index, slot)| Some((slot.worn_out()?, index)));
        if let Some((_, index)) = worn_out.min() {
            let generation = self.memory.slots[index].generation();
            self.spawn_successor(now, index, generation, actions);
        }
    }

    fn spawn_successor(&mut self, now: Moment, index: usize, generation: u64, actions: &mut Vec<Action>) -> WorkerId {
        self.memory.last_id += 1;
        let worker = WorkerId::new(self.memory.last_id);
        self.memory.slots[index].place(Worker::starting(worker, generation, now + self.settings.start_timeout));
        actions.push(Action::Spawn { worker, slot: index, generation });
        worker
    }
}
