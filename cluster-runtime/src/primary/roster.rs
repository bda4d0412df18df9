//! The list of workers that the user's code may look at: kept by the shell, read from any thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::Pid;

use crate::WorkerId;
use crate::board::{Board, Figures, Line};
use crate::supervisor::State;

/// One worker as it was at the time of the call; from [`PrimaryHandle::workers`](crate::PrimaryHandle::workers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its id, never used again.
    pub id: WorkerId,
    /// The slot that it fills.
    pub slot: usize,
    /// The generation that it belongs to.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// Where it stands.
    pub state: WorkerState,
    /// Whether its messages can be exchanged now: from its hello to the end of its process.
    pub connected: bool,
    /// Whether it has been asked to go, so that its exit will not be a surprise.
    pub exit_asked_for: bool,
    /// Connections that it has, those on their way to it among them.
    pub open: u32,
    /// Connections that it has taken so far.
    pub accepted: u64,
    /// Connections that it has accepted and handed over to others.
    pub handed_over: u64,
    /// HTTP requests that [`serve`](crate::serve()) has given to its app.
    pub requests: u64,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// Spawned, not serving yet.
    Starting,
    /// It serves.
    Ready,
    /// It takes no new work and finishes what it has.
    Draining,
    /// It was sent SIGKILL and is about to be reaped.
    Killed,
}

impl From<State> for WorkerState {
    fn from(state: State) -> Self {
        match state {
            State::Starting => Self::Starting,
            State::Ready => Self::Ready,
            State::Draining => Self::Draining,
            State::Killed => Self::Killed,
        }
    }
}

/// The list itself.
#[derive(Debug)]
pub(super) struct Roster {
    workers: Mutex<Vec<WorkerInfo>>,
    board: Board,
}

impl Roster {
    pub(super) fn new(board: Board) -> Self {
        Self { workers: Mutex::default(), board }
    }

    /// The workers, with what the board says of them at this moment.
    pub(super) fn workers(&self) -> Vec<WorkerInfo> {
        let mut workers = self.list().clone();
        for worker in &mut workers {
            let line = self.board.slot(worker.slot).line_of(worker.id);
            let Figures { open, accepted, handed_over, requests } = line.map(Line::figures).unwrap_or_default();
            *worker = WorkerInfo { open, accepted, handed_over, requests, ..*worker };
        }
        workers
    }

    /// Whether `pid` is a worker's.
    pub(super) fn has(&self, pid: Pid) -> bool {
        self.list().iter().any(|worker| worker.pid.cast_signed() == pid.as_raw())
    }

    pub(super) fn replace(&self, workers: Vec<WorkerInfo>) {
        *self.list() = workers;
    }

    fn list(&self) -> MutexGuard<'_, Vec<WorkerInfo>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
