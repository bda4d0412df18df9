//! What comes in for this worker: from the primary, and from the workers that have opened a lane to it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::peer::Sender;
use crate::WorkerId;
use crate::ipc::{Lane, Limits, Message, Received};
use crate::steps::Steps;

/// The lanes of the workers that talk to this one.
pub(super) struct Visitors<Down> {
    /// Copied when it changes, so that whoever goes through it holds no lock while messages are decoded.
    list: Mutex<Arc<Vec<Visitor<Down>>>>,
    /// Whether there are any: most workers have none, and get what the primary sends without a lock more.
    are_any: AtomicBool,
    /// Shared by all lanes on which something for the user may come.
    arrivals: Arc<Notify>,
    /// Whose turn it is, times [`LOT`], and how much was taken from there.
    turn: AtomicUsize,
    pub(super) steps: Steps,
}

struct Visitor<Down> {
    id: WorkerId,
    slot: usize,
    lane: Lane<Down, Down>,
    has_ended: bool,
}

/// What is there to be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<Down> {
    Message(Sender, Down),
    /// Nothing now.
    Nothing {
        is_primary_gone: bool,
    },
    /// Nothing now and never again.
    Ended,
}

/// So many messages are taken from one lane before it is the next one's turn.
const LOT: usize = 32;
/// Lanes of workers of the same slot that are gone, and whose messages nobody has taken. A slot whose worker crashes again and again
/// must not fill this worker's memory.
const MOST_LEFT: usize = 2;

impl<Down: Message> Visitors<Down> {
    pub(super) fn new(arrivals: Arc<Notify>) -> Self {
        Self {
            list: Mutex::default(),
            are_any: AtomicBool::new(false),
            arrivals,
            turn: AtomicUsize::new(0),
            steps: Steps::default(),
        }
    }

    /// Completes when something may have come, from this call on.
    pub(super) fn arrival(&self) -> Notified<'_> {
        self.arrivals.notified()
    }

    /// The next message of anybody, the primary among them; in turn, so that one who floods does not keep the others from being heard.
    #[inline]
    pub(super) fn next<Up: Message>(&self, primary: &Lane<Up, Down>) -> Next<Down> {
        if self.are_any.load(Ordering::Acquire) {
            return self.next_of_many(primary);
        }
        match primary.try_recv() {
            Received::Message(message) => Next::Message(Sender::Primary, message),
            Received::Empty => Next::Nothing { is_primary_gone: false },
            Received::Ended => Next::Ended,
        }
    }

    fn next_of_many<Up: Message>(&self, primary: &Lane<Up, Down>) -> Next<Down> {
        let visitors = Arc::clone(&lock(&self.list));
        let sources = visitors.len() + 1;
        let turn = self.turn.load(Ordering::Relaxed);
        let mut is_primary_gone = false;
        let mut has_more_to_come = false;
        // Each call looks at all of them: others may call at the same time, and never again.
        for source in (turn / LOT..).take(sources).map(|source| source % sources) {
            let (sender, received) = match source.checked_sub(1).map(|index| &visitors[index]) {
                None => (Sender::Primary, primary.try_recv()),
                Some(&Visitor { id, slot, ref lane, .. }) => (Sender::Worker { id, slot }, lane.try_recv()),
            };
            match (received, sender) {
                (Received::Message(message), _) => {
                    let taken = if turn / LOT % sources == source { turn % LOT } else { 0 };
                    self.turn.store(source * LOT + taken + 1, Ordering::Relaxed);
                    return Next::Message(sender, message);
                }
                (Received::Empty, _) => has_more_to_come = true,
                (Received::Ended, Sender::Primary) => is_primary_gone = true,
                (Received::Ended, Sender::Worker { id, .. }) => self.remove(id),
            }
        }
        if has_more_to_come { Next::Nothing { is_primary_gone } } else { Next::Ended }
    }

    /// A worker has opened a lane to this one, with the limits that hold between the two.
    pub(super) fn enter(&self, id: WorkerId, slot: usize, limits: Limits) -> Lane<Down, Down> {
        let lane = Lane::new(limits, Arc::clone(&self.arrivals));
        let visitor = Visitor { id, slot, lane: lane.clone(), has_ended: false };
        let mut list = lock(&self.list);
        Arc::make_mut(&mut list).push(visitor);
        self.are_any.store(true, Ordering::Release);
        drop(list);
        // Whoever waits must wait for this one, too, when the primary is gone.
        self.arrivals.notify_waiters();
        lane
    }

    /// A lane has ended; what came on it can still be taken.
    pub(super) fn ended(&self, id: WorkerId) {
        let mut list = lock(&self.list);
        let list = Arc::make_mut(&mut list);
        let Some(visitor) = list.iter_mut().find(|visitor| visitor.id == id) else { return };
        visitor.has_ended = true;
        let slot = visitor.slot;
        let left = |visitor: &Visitor<Down>| visitor.slot == slot && visitor.has_ended;
        if list.iter().filter(|visitor| left(visitor)).count() > MOST_LEFT
            && let Some(oldest) = list.iter().position(left)
        {
            let Visitor { id, slot, .. } = list.remove(oldest);
            tracing::debug!(%id, slot, "what was left of a worker's messages is dropped: others of its slot have come and gone");
        }
    }

    pub(super) fn lanes(&self) -> Vec<Lane<Down, Down>> {
        lock(&self.list).iter().map(|visitor| visitor.lane.clone()).collect()
    }

    /// Whether the lane of this visitor has ended, or it is gone altogether.
    #[cfg(test)]
    pub(super) fn has_ended(&self, id: WorkerId) -> bool {
        lock(&self.list).iter().find(|visitor| visitor.id == id).is_none_or(|visitor| visitor.has_ended)
    }

    fn remove(&self, id: WorkerId) {
        let mut list = lock(&self.list);
        Arc::make_mut(&mut list).retain(|visitor| visitor.id != id);
        self.are_any.store(!list.is_empty(), Ordering::Release);
    }
}

impl<Down> Clone for Visitor<Down> {
    fn clone(&self) -> Self {
        Self { id: self.id, slot: self.slot, lane: self.lane.clone(), has_ended: self.has_ended }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
