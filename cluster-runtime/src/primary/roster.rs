//! The list of workers that the user's code may look at: kept by the shell, read from any thread.

use std::sync::{Mutex, PoisonError};

use nix::unistd::Pid;

use crate::WorkerId;
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
#[derive(Debug, Default)]
pub(super) struct Roster(Mutex<Vec<WorkerInfo>>);

impl Roster {
    pub(super) fn workers(&self) -> Vec<WorkerInfo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `pid` is a worker's.
    pub(super) fn has(&self, pid: Pid) -> bool {
        self.workers().iter().any(|worker| worker.pid.cast_signed() == pid.as_raw())
    }

    pub(super) fn replace(&self, workers: Vec<WorkerInfo>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = workers;
    }
}
