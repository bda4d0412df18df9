//! The lanes between this worker and others: those that it has opened, by slot, and those of its visitors.
//!
//! A lane is opened on first use. The board says which worker leads a slot; if there is no lane to that one, the primary is asked
//! for one: it makes a socket pair, and gives one end to each of the two. Sends go over lanes that this worker has opened, and what comes
//! is taken from those that visitors have, so that two who open at once are no special case.
//!
//! What the board says is a hint: it is followed only as far as the primary makes lanes, and a lane to a worker of the slot that
//! is open is used rather than none.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc};

use super::peer::Peer;
use super::visitors::Visitors;
use crate::WorkerId;
use crate::board::{Board, MOST_SLOTS, Slot};
use crate::ipc::{Lane, LaneEnd, Limits, Message};
use crate::report::say;

/// All lanes between this worker and others.
pub(super) struct Peers<Down> {
    board: Board,
    limits: Limits,
    routes: Mutex<BTreeMap<usize, Arc<Route<Down>>>>,
    visitors: Visitors<Down>,
    asks: Arc<Asks>,
}

/// A lane that the primary is to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) slot: usize,
    pub(super) worker: WorkerId,
}

/// What the primary says of lanes between workers.
#[derive(Debug)]
pub(super) enum Introduction {
    /// A worker has opened a lane to this one.
    Visitor { from: WorkerId, slot: usize, socket: OwnedFd },
    /// Of a lane that this worker has asked for; without a socket it is refused.
    Answer { ask: Ask, socket: Option<OwnedFd> },
    /// The primary is gone.
    NoMore,
}

/// The ends that the task has which attends to the primary.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) asks: mpsc::UnboundedReceiver<Ask>,
    pub(super) introductions: mpsc::UnboundedSender<Introduction>,
}

/// The way to the worker of one slot.
pub(super) struct Route<Down> {
    slot: usize,
    place: &'static Slot,
    limits: Limits,
    lanes: Mutex<Lanes<Down>>,
    answered: Notify,
    asks: Arc<Asks>,
}

/// Where a message goes.
pub(super) enum Way<Down> {
    Open {
        to: WorkerId,
        lane: Lane<Down, Down>,
    },
    /// The lane to the right one is being opened; for who cannot wait there is another, or the same.
    Opening {
        meanwhile: Lane<Down, Down>,
    },
    None,
}

/// This worker's lanes to the workers of one slot: during a reload two.
struct Lanes<Down> {
    known: Vec<Known<Down>>,
    /// The last one to whom there is no lane any more, or never was: it is not asked for again.
    over: Option<WorkerId>,
}

struct Known<Down> {
    to: WorkerId,
    lane: Lane<Down, Down>,
    /// Its socket is there.
    is_open: bool,
}

struct Asks {
    sender: mpsc::UnboundedSender<Ask>,
    /// No lanes are opened any more: the primary is gone, or this worker is about to be.
    is_over: AtomicBool,
}

impl<Down: Message> Peers<Down> {
    /// Begins to attend to what the primary says. Must be called inside the runtime.
    pub(super) fn start(board: Board, limits: Limits, arrivals: Arc<Notify>) -> (Arc<Self>, Line) {
        let (sender, asks) = mpsc::unbounded_channel();
        let (introductions, introduced) = mpsc::unbounded_channel();
        let peers = Arc::new(Self {
            board,
            limits,
            routes: Mutex::default(),
            visitors: Visitors::new(arrivals),
            asks: Arc::new(Asks { sender, is_over: AtomicBool::new(false) }),
        });
        tokio::spawn(attend(Arc::clone(&peers), introduced));
        (peers, Line { asks, introductions })
    }

    pub(super) fn peer(&self, slot: usize) -> Peer<Down> {
        Peer::new(slot, (slot < MOST_SLOTS).then(|| self.route(slot)))
    }

    /// The most bytes of a message or an answer.
    pub(super) const fn max_message(&self) -> usize {
        self.limits.message
    }

    pub(super) const fn visitors(&self) -> &Visitors<Down> {
        &self.visitors
    }

    /// Waits until everything sent so far is with the kernel.
    pub(super) async fn flush(&self) {
        for lane in self.lanes() {
            lane.flush().await;
        }
    }

    /// Nothing is sent any more.
    pub(super) fn close(&self) {
        self.asks.is_over.store(true, Ordering::SeqCst);
        self.lanes().iter().for_each(Lane::close);
    }

    fn lanes(&self) -> Vec<Lane<Down, Down>> {
        let known = |route: &Arc<Route<Down>>| {
            lock(&route.lanes).known.iter().map(|known| known.lane.clone()).collect::<Vec<_>>()
        };
        self.routes().iter().flat_map(known).chain(self.visitors.lanes()).collect()
    }

    fn route(&self, slot: usize) -> Arc<Route<Down>> {
        let make = || {
            let place = self.board.slot(slot);
            Arc::new(Route {
                slot,
                place,
                limits: self.limits,
                lanes: Mutex::new(Lanes { known: Vec::new(), over: None }),
                answered: Notify::new(),
                asks: Arc::clone(&self.asks),
            })
        };
        Arc::clone(lock(&self.routes).entry(slot).or_insert_with(make))
    }

    fn routes(&self) -> Vec<Arc<Route<Down>>> {
        lock(&self.routes).values().cloned().collect()
    }

    fn heard(self: &Arc<Self>, introduction: Introduction) {
        match introduction {
            Introduction::Visitor { from, slot, socket } => {
                let limits = agreed(self.limits, self.board.slot(slot), from);
                let lane = self.visitors.enter(from, slot, limits);
                if self.asks.is_over.load(Ordering::SeqCst) {
                    lane.close();
                }
                let driving = lane.drive(UnixStream::from(socket));
                let peers = Arc::clone(self);
                tokio::spawn(async move {
                    tell_violation(from, &driving.await);
                    peers.visitors.ended(from);
                });
            }
            Introduction::Answer { ask, socket } => {
                let route = self.route(ask.slot);
                match socket.and_then(|socket| Some(route.open(ask.worker)?.drive(UnixStream::from(socket)))) {
                    Some(driving) => {
                        tokio::spawn(async move {
                            tell_violation(ask.worker, &driving.await);
                            route.forget(ask.worker);
                        });
                    }
                    None => route.forget(ask.worker),
                }
            }
            Introduction::NoMore => {
                self.asks.is_over.store(true, Ordering::SeqCst);
                self.routes().iter().for_each(|route| route.forget_unopened());
            }
        }
    }
}

/// Does what the primary says, which comes from the task that attends to it.
async fn attend<Down: Message>(peers: Arc<Peers<Down>>, mut introduced: mpsc::UnboundedReceiver<Introduction>) {
    while let Some(introduction) = introduced.recv().await {
        peers.heard(introduction);
    }
}

/// The most bytes of a message between this worker and another one of that slot: the smaller one of two limits, which differ where one
/// of them was spawned before an upgrade that has changed `max_message`. Both ends of a lane find the same.
fn agreed(ours: Limits, place: &Slot, other: WorkerId) -> Limits {
    // One without a line is gone.
    let message = place.max_message_of(other).map_or(ours.message, |theirs| theirs.min(ours.message));
    Limits { message, ..ours }
}

/// A worker that talks nonsense to another loses that lane; what else becomes of it is for the primary to decide.
fn tell_violation(other: WorkerId, end: &LaneEnd) {
    if let LaneEnd::Violation(text) = end {
        say(format_args!("the messages between this worker and worker {other} end, as they cannot be read: {text}"));
    }
}

impl<Down: Message> Route<Down> {
    /// Where a message goes now; has a lane opened to whoever leads the slot, if there is none.
    pub(super) fn way(&self) -> Way<Down> {
        let lead = self.place.lead();
        let mut lanes = lock(&self.lanes);
        let found = lanes.known.iter().find(|known| Some(known.to) == lead);
        if let Some(&Known { to, ref lane, is_open: true }) = found {
            return Way::Open { to, lane: lane.clone() };
        }
        let pending = match (found, lead) {
            (Some(asked_for), _) => Some(asked_for.lane.clone()),
            (None, Some(to)) if lanes.over != Some(to) && self.ask(to) => {
                // What comes on it is taken by nobody: whoever has something to say to this worker opens a lane.
                let lane = Lane::new(agreed(self.limits, self.place, to), Arc::default());
                lanes.known.push(Known { to, lane: lane.clone(), is_open: false });
                Some(lane)
            }
            (None, _) => None,
        };
        let other = lanes.known.iter().filter(|known| known.is_open).max_by_key(|known| known.to);
        match (pending, other) {
            (Some(pending), other) => Way::Opening { meanwhile: other.map_or(pending, |other| other.lane.clone()) },
            (None, Some(&Known { to, ref lane, .. })) => Way::Open { to, lane: lane.clone() },
            (None, None) => Way::None,
        }
    }

    /// Whether this is the worker that leads the slot.
    pub(super) fn is_led_by(&self, worker: WorkerId) -> bool {
        self.place.lead() == Some(worker)
    }

    /// Completes when the primary has answered, from this call on.
    pub(super) fn answered(&self) -> Notified<'_> {
        self.answered.notified()
    }

    /// Asks the primary for a lane; `false` if that is over. Called under the lock of the lanes, so that [`forget_unopened`](Self::forget_unopened) finds
    /// what was asked for before.
    fn ask(&self, worker: WorkerId) -> bool {
        let ask = Ask { slot: self.slot, worker };
        !self.asks.is_over.load(Ordering::SeqCst) && self.asks.sender.send(ask).is_ok()
    }

    /// The socket of a lane has come.
    fn open(&self, to: WorkerId) -> Option<Lane<Down, Down>> {
        let mut lanes = lock(&self.lanes);
        let known = lanes.known.iter_mut().find(|known| known.to == to && !known.is_open)?;
        known.is_open = true;
        let lane = known.lane.clone();
        drop(lanes);
        self.answered.notify_waiters();
        Some(lane)
    }

    /// There is no lane to this worker any more, or there will be none.
    fn forget(&self, to: WorkerId) {
        let mut lanes = lock(&self.lanes);
        lanes.over = Some(to);
        let forgotten: Vec<_> = lanes.known.extract_if(.., |known| known.to == to).collect();
        drop(lanes);
        forgotten.iter().for_each(|known| known.lane.peer_exited());
        self.answered.notify_waiters();
    }

    fn forget_unopened(&self) {
        let unopened: Vec<_> = lock(&self.lanes).known.iter().filter(|it| !it.is_open).map(|it| it.to).collect();
        unopened.into_iter().for_each(|to| self.forget(to));
    }
}

/// Nothing that runs under these locks can leave them half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
