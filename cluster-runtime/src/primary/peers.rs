//! The primary's part in messages between workers: it says on the board who leads a slot, and makes the lanes.
//!
//! A lane is a socket pair of which it keeps nothing: whatever goes through it costs the primary nothing, and goes on without it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tracing::Level;

use super::{MemberLane, Shell};
use crate::WorkerId;
use crate::control::ToWorker;
use crate::supervisor::{self, State};

impl Shell {
    /// Says who leads each slot. Done before anybody is told to go, so that what is sent from then on goes to the successor.
    pub(super) fn appoint_leads(&mut self) {
        let known = self.supervisor.status().filter(|status| self.has_said_hello(status.worker));
        let leads = leads(known.map(|status| (status.slot, status.worker, status.state)));
        for slot in 0..self.ports.slots() {
            self.ports.set_lead(slot, leads.get(&slot).map(|&(_, worker)| worker));
        }
    }

    /// Makes a lane from one worker to another, which is thought to be in `slot`.
    ///
    /// Whoever has had one to the same worker gets no second one, so that nobody has more visitors than there are workers. That is no
    /// fault, and neither is a worker that does not exist: the asker goes by the board, on which others can write.
    pub(super) fn introduce(&mut self, asker: WorkerId, slot: usize, worker: WorkerId) -> Option<supervisor::Event> {
        let socket = self.visit(asker, slot, worker);
        let member = self.fleet.get_mut(&asker)?;
        if socket.is_some() {
            member.peers.insert(worker);
        }
        let fds: Vec<_> = socket.iter().map(|socket| socket.as_fd()).collect();
        let sent = Arc::clone(&member.control).send_now(&ToWorker::Peer { slot, worker }, &fds);
        self.check_sent(asker, &sent)
    }

    /// Gives one end of a new pair to the worker that is to be visited, and returns the other.
    fn visit(&mut self, asker: WorkerId, slot: usize, worker: WorkerId) -> Option<UnixStream> {
        let from = self.fleet.get(&asker)?;
        let to = self.fleet.get(&worker)?;
        let is_reachable = self.has_said_hello(worker) && self.state_of(worker).is_some_and(|it| rank(it).is_some());
        if to.identity.slot != slot || !is_reachable || from.peers.contains(&worker) {
            return None;
        }
        let pair = UnixStream::pair().and_then(|(theirs, ours)| {
            let visitor = ToWorker::Visitor { from: asker, slot: from.identity.slot };
            to.control.send_now(&visitor, &[theirs.as_fd()])?;
            Ok(ours)
        });
        match pair {
            Ok(ours) => Some(ours),
            // It is gone, or busy with something else for so long that its lane is full.
            Err(error) if is_the_visited_ones(&error) => None,
            Err(error) => {
                let text = format_args!("cannot be connected with worker {worker}: {error}");
                self.reporter.worker(Level::WARN, from.identity, Some(from.pid), text);
                None
            }
        }
    }

    /// A worker is gone.
    pub(super) fn forget_peer(&mut self, worker: WorkerId) {
        for member in self.fleet.values_mut() {
            member.peers.remove(&worker);
        }
    }

    fn has_said_hello(&self, worker: WorkerId) -> bool {
        self.fleet.get(&worker).is_some_and(|member| matches!(member.lane, MemberLane::HandedOver))
    }
}

fn is_the_visited_ones(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, WouldBlock};
    matches!(error.kind(), BrokenPipe | ConnectionReset | WouldBlock)
}

/// Who leads each slot, of these workers.
fn leads(workers: impl Iterator<Item = (usize, WorkerId, State)>) -> BTreeMap<usize, (Rank, WorkerId)> {
    let mut leads = BTreeMap::new();
    for (slot, worker, state) in workers {
        if let Some(rank) = rank(state) {
            let lead = leads.entry(slot).or_insert((rank, worker));
            *lead = (*lead).max((rank, worker));
        }
    }
    leads
}

/// How fit a worker is to lead its slot: one that serves before one that will, and the younger of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Leaving,
    Coming,
    Serving,
}

const fn rank(state: State) -> Option<Rank> {
    match state {
        State::Ready => Some(Rank::Serving),
        State::Starting => Some(Rank::Coming),
        State::Draining => Some(Rank::Leaving),
        State::Killed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(workers: &[(u64, State)]) -> Option<u64> {
        let workers = workers.iter().map(|&(id, state)| (3, WorkerId::new(id), state));
        leads(workers).remove(&3).map(|(_, worker)| worker.get())
    }

    #[test]
    fn in_a_reload_the_slot_is_the_predecessors_until_its_successor_serves() {
        assert_eq!(lead(&[(1, State::Ready)]), Some(1));
        assert_eq!(lead(&[(1, State::Ready), (2, State::Starting)]), Some(1));
        assert_eq!(lead(&[(2, State::Ready), (1, State::Ready)]), Some(2));
        assert_eq!(lead(&[(2, State::Ready), (1, State::Draining)]), Some(2));
    }

    #[test]
    fn one_that_is_yet_to_serve_leads_before_one_that_goes() {
        assert_eq!(lead(&[(1, State::Draining), (2, State::Starting)]), Some(2));
        assert_eq!(lead(&[(1, State::Draining)]), Some(1), "it still takes messages");
    }

    #[test]
    fn nobody_is_sent_to_one_that_is_killed() {
        assert_eq!(lead(&[(1, State::Killed)]), None);
        assert_eq!(lead(&[(1, State::Draining), (2, State::Killed)]), Some(1));
        assert_eq!(lead(&[]), None);
    }
}
