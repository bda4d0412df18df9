//! What the user's primary function orders, and what it is answered.

use nix::sys::signal::{Signal, kill};
use tokio::sync::oneshot;
use tracing::Level;

use super::reign::{DESCRIPTORS_TO_SPARE, descriptor_limit};
use super::{Shell, Stop};
use crate::board::MOST_SLOTS;
use crate::supervisor::{self, Abandoned, State};
use crate::{Exit, WorkerId};

/// An order, and where its answer goes. Who does not wait for it has dropped the other end.
#[derive(Debug)]
pub(super) enum Order {
    Reload(Answer<u64, ReloadError>),
    Scale(usize, Answer<(), OrderError>),
    Fork(Answer<WorkerId, OrderError>),
    Disconnect(WorkerId, Answer<(), OrderError>),
    Signal(WorkerId, i32, Answer<(), OrderError>),
    Upgrade(Answer<(), UpgradeError>),
}

pub(super) type Answer<T, E> = oneshot::Sender<Result<T, E>>;

/// Why something that the primary function wanted was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The cluster stops, or has ended.
    #[error("the cluster stops")]
    Stopping,
    /// There is no such worker (any more), or it has been killed already.
    #[error("worker {0} is gone")]
    Gone(WorkerId),
    /// It makes no sense; the text says why.
    #[error("{0}")]
    Invalid(String),
}

/// Why a reload was abandoned. What served before serves on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A worker of the new generation ended, or was killed, before it was ready.
    #[error("worker {worker} of the new generation {exit}{}", detail.as_ref().map_or(String::new(), |text| format!(": {text}")))]
    Failed {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
        /// What else the primary knows: that it is of another build, say.
        detail: Option<String>,
    },
    /// The cluster stops, or has ended.
    #[error("the cluster stops")]
    Stopping,
}

/// Why the primary did not become another program. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The program cannot be run, or cannot go on; the text says why.
    #[error("{0}")]
    Refused(String),
    /// An upgrade is under way already.
    #[error("an upgrade is under way already")]
    Busy,
    /// The cluster stops, or has ended.
    #[error("the cluster stops")]
    Stopping,
}

/// Lanes, what tells of its end, and pipes for its output.
const DESCRIPTORS_OF_A_WORKER: usize = 7;
/// A mailbox; and for each port a socket.
const DESCRIPTORS_OF_A_SLOT: usize = 3;

/// Those who wait for a reload.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    /// For the one that runs.
    running: Vec<Answer<u64, ReloadError>>,
    /// For the next one.
    joined: Vec<Answer<u64, ReloadError>>,
}

impl Shell {
    pub(super) fn ordered(&mut self, order: Order) -> Option<supervisor::Event> {
        match order {
            Order::Reload(answer) => {
                if self.stop != Stop::No {
                    _ = answer.send(Err(ReloadError::Stopping));
                    return None;
                }
                self.reloads.joined.push(answer);
                Some(supervisor::Event::Reload)
            }
            Order::Scale(count, answer) => {
                let outcome = self.check_scale(count);
                let is_good = outcome.is_ok();
                _ = answer.send(outcome);
                is_good.then(|| self.scaling(count))
            }
            Order::Fork(answer) => {
                if let Err(error) = self.check_scale(self.supervisor.wanted() + 1) {
                    _ = answer.send(Err(error));
                    return None;
                }
                self.forks.push((None, answer));
                Some(supervisor::Event::Fork)
            }
            Order::Disconnect(worker, answer) => {
                let is_there = self.find(worker).is_ok();
                _ = answer.send(self.find(worker).map(drop));
                is_there.then_some(supervisor::Event::Leaving(worker))
            }
            Order::Upgrade(answer) => {
                self.want_upgrade(Some(answer));
                None
            }
            Order::Signal(worker, number, answer) => {
                _ = answer.send(self.signal(worker, number));
                None
            }
        }
    }

    /// One worker more or fewer, as a signal asks for it.
    pub(super) fn scale_by(&mut self, step: isize) -> Option<supervisor::Event> {
        let count = self.supervisor.wanted().checked_add_signed(step)?;
        match self.check_scale(count) {
            Ok(()) => Some(self.scaling(count)),
            Err(error) => {
                self.reporter.cluster(Level::WARN, format_args!("cannot scale: {error}"));
                None
            }
        }
    }

    fn scaling(&mut self, count: usize) -> supervisor::Event {
        let workers = if count == 1 { "worker" } else { "workers" };
        self.reporter.cluster(Level::INFO, format_args!("scaling to {count} {workers}"));
        supervisor::Event::Scale(count)
    }

    fn check_scale(&self, count: usize) -> Result<(), OrderError> {
        match count {
            _ if self.stop != Stop::No => Err(OrderError::Stopping),
            1..=MOST_SLOTS => self.check_room_for(count),
            _ => Err(OrderError::Invalid(format!("a cluster has 1 to {MOST_SLOTS} workers, not {count}"))),
        }
    }

    /// Whether there are descriptors for so many workers and their slots.
    fn check_room_for(&self, count: usize) -> Result<(), OrderError> {
        let workers = count.saturating_sub(self.supervisor.wanted());
        let slots = count.saturating_sub(self.ports.slots());
        let used = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let needed = used + workers * DESCRIPTORS_OF_A_WORKER + slots * (DESCRIPTORS_OF_A_SLOT + self.ports.count());
        let (needed, limit) = (needed + DESCRIPTORS_TO_SPARE, descriptor_limit());
        if workers == 0 || needed <= limit {
            return Ok(());
        }
        let text = format!(
            "{count} workers take {needed} descriptors, and the limit is {limit}; raise it (ulimit -n, LimitNOFILE=)"
        );
        Err(OrderError::Invalid(text))
    }

    fn find(&self, worker: WorkerId) -> Result<nix::unistd::Pid, OrderError> {
        let member = self.fleet.get(&worker).filter(|_| self.state_of(worker) != Some(State::Killed));
        member.map(|member| member.pid).ok_or(OrderError::Gone(worker))
    }

    fn signal(&self, worker: WorkerId, number: i32) -> Result<(), OrderError> {
        let pid = self.find(worker)?;
        let signal = Signal::try_from(number)
            .map_err(|_| OrderError::Invalid(format!("there is no signal {number}; 15 is TERM, 9 is KILL")))?;
        // It is not reaped, so the pid is still its own.
        kill(pid, signal).map_err(|error| OrderError::Invalid(error.to_string()))
    }

    /// A worker comes; whoever waits for one in that slot is told which.
    pub(super) fn forked(&mut self, worker: WorkerId, slot: usize) {
        for (_, answer) in self.forks.extract_if(.., |(waiting, _)| *waiting == Some(slot)) {
            _ = answer.send(Ok(worker));
        }
    }

    pub(super) fn reload_begins(&mut self, generation: u64) {
        self.reporter.cluster(Level::INFO, format_args!("reloading: generation {generation} takes over"));
        self.service.reloading();
        self.reloads.running = std::mem::take(&mut self.reloads.joined);
        match self.program.image() {
            Ok(image) => _ = self.images.insert(generation, image),
            // Its first worker will not be spawned, and the reload abandoned for that.
            Err(error) => self.reporter.cluster(Level::ERROR, format_args!("the program cannot be opened: {error}")),
        }
    }

    pub(super) fn reload_ended(&mut self, generation: u64, outcome: Result<(), Abandoned>) {
        let outcome = match outcome {
            Ok(()) => Ok(generation),
            Err(Abandoned::Stopping) => Err(ReloadError::Stopping),
            Err(Abandoned::Failed { worker, exit }) => {
                Err(ReloadError::Failed { worker, exit, detail: self.complaints.get(&worker).cloned() })
            }
        };
        match &outcome {
            Ok(_) => {
                let text = format_args!("reloaded: all workers are of generation {generation}");
                self.reporter.cluster(Level::INFO, text);
            }
            Err(error) => {
                let text = format_args!("reload abandoned: {error}; what served before serves on");
                self.reporter.cluster(Level::ERROR, text);
            }
        }
        if outcome != Err(ReloadError::Stopping) {
            self.service.reloaded();
        }
        for answer in self.reloads.running.drain(..) {
            _ = answer.send(outcome.clone());
        }
    }

    /// The stop has begun: nothing that waits for its turn will have it.
    pub(super) fn refuse_orders(&mut self) {
        for answer in self.reloads.joined.drain(..) {
            _ = answer.send(Err(ReloadError::Stopping));
        }
        self.refuse_upgrade(&UpgradeError::Stopping);
        for (_, answer) in self.forks.drain(..) {
            _ = answer.send(Err(OrderError::Stopping));
        }
    }

    /// Lets go of programs that nobody will run any more.
    pub(super) fn tidy_up(&mut self) {
        let generations = self.supervisor.generations();
        self.images.retain(|generation, _| generations.contains(generation));
        self.complaints.retain(|worker, _| self.fleet.contains_key(worker));
    }
}
