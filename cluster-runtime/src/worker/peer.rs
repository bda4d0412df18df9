//! What the user's code holds of another worker.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::peers::{Route, Way};
use crate::WorkerId;
use crate::ipc::{Answers, CallError, Lane, Message, Replies, Reply, SendError, TrySendError};

/// The worker of a slot, whichever that is at the time; from [`Worker::peer`](crate::Worker::peer).
///
/// Cheap to clone and usable from any task. Messages go to the worker that serves in the slot: over a socket between the two
/// workers, which the primary makes when the first message is sent, and has no part in afterwards. They arrive in the order in
/// which they were sent. During a reload they go to the successor as soon as it is ready, in order among themselves; what was sent
/// to its predecessor before is taken by that as long as its `main` runs.
///
/// A worker's own slot is a slot like any other: its messages come back to itself, or go to its successor once that serves. So
/// who spreads work by a hash of a key need not ask whose it is. A task that calls its own worker must not be the one that takes the
/// messages.
///
/// ```no_run
/// use cluster::{Message, Reply, Worker, NoMessages};
///
/// #[derive(Message)]
/// enum ToWorker { Forget { key: u64 }, Lookup { key: u64, value: Reply<Option<String>> } }
///
/// async fn lookup(worker: &Worker<NoMessages, ToWorker>, key: u64) -> Result<Option<String>, cluster::CallError> {
///     worker.peer(key as usize % 4).call(|value| ToWorker::Lookup { key, value }).await
/// }
/// ```
pub struct Peer<Down: Message> {
    slot: usize,
    /// `None` for a slot that no cluster has.
    route: Option<Arc<Route<Down>>>,
    /// The first lane that was used, without a lock as long as that worker leads the slot. Others are looked up.
    first: OnceLock<(WorkerId, Lane<Down, Down>)>,
}

/// Who has sent a message; from [`Worker::recv_from`](crate::Worker::recv_from).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sender {
    /// The primary function.
    Primary,
    /// A worker: [`Worker::peer`](crate::Worker::peer) of the slot is the way back.
    #[non_exhaustive]
    Worker {
        /// Its id; in its slot there may be another one by now.
        id: WorkerId,
        /// Its slot.
        slot: usize,
    },
}

impl<Down: Message> Peer<Down> {
    pub(super) fn new(slot: usize, route: Option<Arc<Route<Down>>>) -> Self {
        Self { slot, route, first: OnceLock::new() }
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Sends a message to the worker; waits while that is slow to take what was sent before, and for the primary if it has to connect
    /// the two first.
    ///
    /// When this returns, the message is on its way and in order; it reaches the other worker even if `main` returns next.
    ///
    /// # Errors
    /// [`SendError::Gone`] when there is no worker in the slot now, or it is just going; a replacement may come soon. Other kinds when
    /// the message itself cannot be sent.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped while it waits, nothing is sent.
    pub async fn send(&self, message: Down) -> Result<(), SendError> {
        if let Some(lane) = self.first_lane() {
            return lane.send(message).await;
        }
        self.lane().await.ok_or(SendError::Gone)?.send(message).await
    }

    /// Sends a message if there is room for it now. While the two workers are being connected it is kept, and lost if that comes
    /// to nothing; while a successor is, it goes to the predecessor.
    ///
    /// # Errors
    /// [`TrySendError::Full`] while the other worker is slow, and those of [`send`](Self::send).
    pub fn try_send(&self, message: Down) -> Result<(), TrySendError> {
        if let Some(lane) = self.first_lane() {
            return lane.try_send(message);
        }
        match self.way() {
            Way::Open { lane, .. } | Way::Opening { meanwhile: lane } => lane.try_send(message),
            Way::None => Err(SendError::Gone.into()),
        }
    }

    /// Sends a request and waits for the answer; `make` puts the [`Reply`] into the message.
    ///
    /// There is no time limit; wrap it into `tokio::time::timeout` for one.
    ///
    /// # Errors
    /// [`CallError::Unanswered`] when the other worker dropped the reply; [`CallError::Gone`] when there is none in the slot, or it ends
    /// before it answers; and what [`send`](Self::send) may say.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the question: an answer that still comes is ignored.
    pub async fn call<T, F>(&self, make: F) -> Result<T, CallError>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(Reply<T>) -> Down,
    {
        self.lane().await.ok_or(CallError::Gone)?.call(make).await
    }

    /// Sends a request for a stream of answers and returns the end that they come out of; `make` puts the [`Replies`] into the
    /// message. The stream stays with the worker that got the request.
    ///
    /// # Errors
    /// Those of [`send`](Self::send). Whether the request is answered is known by [`Answers::next`].
    ///
    /// # Cancel safety
    /// Cancel safe: dropped while it waits, nothing is sent.
    pub async fn stream<T, F>(&self, make: F) -> Result<Answers<T>, SendError>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(Replies<T>) -> Down,
    {
        self.lane().await.ok_or(SendError::Gone)?.stream(make).await
    }

    /// Waits until it is known whom to send to, if it is anybody.
    pub(super) async fn lane(&self) -> Option<Lane<Down, Down>> {
        let route = self.route.as_ref()?;
        loop {
            let answered = route.answered();
            match self.way() {
                Way::Open { lane, .. } => return Some(lane),
                Way::Opening { .. } => answered.await,
                Way::None => return None,
            }
        }
    }

    /// Where a message would go now; has a lane opened if there is none.
    pub(super) fn way(&self) -> Way<Down> {
        let way = self.route.as_ref().map_or(Way::None, |route| route.way());
        if let Way::Open { to, lane } = &way {
            self.first.get_or_init(|| (*to, lane.clone()));
        }
        way
    }

    fn first_lane(&self) -> Option<&Lane<Down, Down>> {
        let (to, lane) = self.first.get()?;
        self.route.as_ref()?.is_led_by(*to).then_some(lane)
    }
}

impl<Down: Message> Clone for Peer<Down> {
    fn clone(&self) -> Self {
        Self::new(self.slot, self.route.clone())
    }
}

impl<Down: Message> fmt::Debug for Peer<Down> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("slot", &self.slot).finish_non_exhaustive()
    }
}
