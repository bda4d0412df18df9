//! What the user's primary function holds: the events, and a handle to act on the cluster.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::runtime;
use tokio::sync::oneshot;

use super::Happening;
use super::event::Event;
use super::intake::Intake;
use super::order::{Order, OrderError, ReloadError, UpgradeError};
use super::roster::WorkerInfo;
use super::shared::{Shared, lock};
use crate::ipc::{Answers, CallError, Lane, Message, NoMessages, Replies, Reply, SendError, TrySendError, codec};
use crate::{Error, WorkerId};

/// The cluster as its primary function sees it: [events](Event) come out, and by [`PrimaryHandle`], to which it
/// dereferences, one acts on it.
///
/// ```no_run
/// use cluster::{Event, Message, Primary, Reply};
///
/// #[derive(Message)]
/// enum ToPrimary { Hit, Total(Reply<u64>) }
///
/// async fn count(mut primary: Primary<ToPrimary>) -> cluster::Result {
///     let mut hits = 0;
///     while let Some(event) = primary.next().await {
///         match event {
///             Event::Message(_, ToPrimary::Hit) => hits += 1,
///             Event::Message(_, ToPrimary::Total(reply)) => reply.send(hits),
///             _ => {}
///         }
///     }
///     Ok(())
/// }
/// ```
///
/// Dropped, what workers send from then on is dropped too, and their requests fail at once.
#[derive(Debug)]
pub struct Primary<Up: Message = NoMessages, Down: Message = NoMessages> {
    handle: PrimaryHandle<Up, Down>,
    /// Taken by `drop` only.
    intake: Option<Intake<Up, Down>>,
    runtime: runtime::Handle,
}

/// Acts on the cluster from anywhere in the primary's code; cheap to clone, from [`Primary::handle`].
pub struct PrimaryHandle<Up: Message = NoMessages, Down: Message = NoMessages> {
    shared: Arc<Shared<Up, Down>>,
}

impl<Up: Message, Down: Message> Primary<Up, Down> {
    pub(super) fn new(shared: Arc<Shared<Up, Down>>, runtime: runtime::Handle) -> Self {
        let intake = Intake::new(Arc::clone(&shared));
        Self { handle: PrimaryHandle { shared }, intake: Some(intake), runtime }
    }

    /// The next event; `None` once the cluster has stopped and every worker's last event was taken, and after
    /// [`Event::Upgrading`].
    ///
    /// After `None`, return soon: the process ends, or becomes another program, with the grace period.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost, so it fits into `tokio::select!`.
    #[expect(clippy::should_implement_trait, reason = "it returns a future")]
    #[inline]
    pub fn next(&mut self) -> impl Future<Output = Option<Event<Up>>> + Send {
        poll_fn(|cx| match &mut self.intake {
            Some(intake) => intake.poll_next(cx),
            None => Poll::Ready(None),
        })
    }

    /// A handle that can be cloned and sent to other tasks and threads.
    #[must_use]
    pub fn handle(&self) -> PrimaryHandle<Up, Down> {
        self.handle.clone()
    }
}

impl<Up: Message, Down: Message> PrimaryHandle<Up, Down> {
    /// Every worker that has not been reaped yet, by slot.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.shared.roster.workers()
    }

    /// Sends a message to one worker; waits while that worker is slow to take what was sent before.
    ///
    /// # Errors
    /// [`SendError::Gone`] when there is no such worker (any more); other kinds when the message itself cannot be sent.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped while it waits, nothing is sent.
    pub async fn send(&self, worker: WorkerId, message: Down) -> Result<(), SendError> {
        self.lane(worker).ok_or(SendError::Gone)?.send(message).await
    }

    /// Sends a message to one worker if there is room for it now.
    ///
    /// # Errors
    /// [`TrySendError::Full`] while the worker is slow, and those of [`send`](Self::send).
    pub fn try_send(&self, worker: WorkerId, message: Down) -> Result<(), TrySendError> {
        self.lane(worker).ok_or(SendError::Gone)?.try_send(message)
    }

    /// Sends a message to every worker, and returns how many it was sent to. Workers that are gone or go meanwhile are passed
    /// over; one that is slow makes this wait, but not the message to the others.
    ///
    /// # Errors
    /// When the message itself cannot be sent.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the slow workers that it waits for do not get the message.
    pub async fn broadcast(&self, message: Down) -> Result<usize, SendError> {
        let lanes: Vec<_> = self.shared.lanes().values().cloned().collect();
        Lane::send_to_all(lanes, self.shared.limits.message, message).await
    }

    /// Sends a request to one worker and waits for the answer; `make` puts the [`Reply`] into the message.
    ///
    /// Events need not be taken meanwhile: the answer passes the messages that wait.
    ///
    /// # Errors
    /// [`CallError::Unanswered`] when the worker dropped the reply, [`CallError::Gone`] when it is gone, and what
    /// [`send`](Self::send) may say.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the question: an answer that still comes is ignored.
    pub async fn call<T, F>(&self, worker: WorkerId, make: F) -> Result<T, CallError>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(Reply<T>) -> Down,
    {
        self.lane(worker).ok_or(CallError::Gone)?.call(make).await
    }

    /// Sends one worker a request for a stream of answers and returns the end that they come out of; `make` puts the [`Replies`] into
    /// the message.
    ///
    /// Events need not be taken meanwhile: answers pass the messages that wait.
    ///
    /// # Errors
    /// Those of [`send`](Self::send). Whether the request is answered is known by [`Answers::next`].
    ///
    /// # Cancel safety
    /// Cancel safe: dropped while it waits, nothing is sent.
    pub async fn stream<T, F>(&self, worker: WorkerId, make: F) -> Result<Answers<T>, SendError>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(Replies<T>) -> Down,
    {
        self.lane(worker).ok_or(SendError::Gone)?.stream(make).await
    }

    /// Gives every slot a worker of the program as it is on disk now, as HUP does; returns the number of the new generation once all
    /// of it serve. What they replace may still drain.
    ///
    /// One slot after the other (`surge` of them at a time): the successor starts, becomes ready, takes over, and only then its
    /// predecessor drains. While a reload runs, another one is queued, and all who ask meanwhile share it.
    ///
    /// # Errors
    /// [`ReloadError::Failed`] as soon as a worker of the new generation ends, is refused because its messages are others, or is not ready
    /// within the start timeout: the reload is abandoned, and everything that served goes on serving.
    /// [`ReloadError::Stopping`] when the cluster stops.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the reload.
    pub async fn reload(&self) -> Result<u64, ReloadError> {
        self.order(Order::Reload).await.unwrap_or(Err(ReloadError::Stopping))
    }

    /// Sets the number of workers, 1 to 1024; returns at once, and the workers come or go in their time. Whoever goes drains, and
    /// what waits in its queue is served by the others.
    ///
    /// # Errors
    /// [`OrderError::Invalid`] for a number that cannot be, [`OrderError::Stopping`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take the order back.
    pub async fn scale(&self, workers: usize) -> Result<(), OrderError> {
        self.order(|answer| Order::Scale(workers, answer)).await.unwrap_or(Err(OrderError::Stopping))
    }

    /// Spawns one worker more, in a slot that the restart policy has left empty or in a new one, and returns its id. For those who
    /// decide themselves who is restarted, with `restart = "never"`.
    ///
    /// # Errors
    /// [`OrderError::Invalid`] beyond 1024 workers, [`OrderError::Stopping`]. That the worker cannot be spawned, or fails later, is told
    /// by [`Event::Exited`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take the order back.
    pub async fn fork(&self) -> Result<WorkerId, OrderError> {
        self.order(Order::Fork).await.unwrap_or(Err(OrderError::Stopping))
    }

    /// Has a worker drain, as TERM to it does: unless the policy is never to restart, it is replaced meanwhile.
    ///
    /// # Errors
    /// [`OrderError::Gone`], [`OrderError::Stopping`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take the order back.
    pub async fn disconnect(&self, worker: WorkerId) -> Result<(), OrderError> {
        self.order(|answer| Order::Disconnect(worker, answer)).await.unwrap_or(Err(OrderError::Stopping))
    }

    /// Sends a signal to a worker, by its number, such as `libc::SIGKILL` or 9. It cannot hit another process: a pid is used only
    /// while it is the worker's. What becomes of the worker is told by [`Event::Exited`], and a replacement follows as after a crash.
    ///
    /// # Errors
    /// [`OrderError::Gone`], [`OrderError::Invalid`] for a number that is no signal, [`OrderError::Stopping`].
    ///
    /// # Cancel safety
    /// Dropping the future does not take the order back.
    pub async fn kill(&self, worker: WorkerId, signal: i32) -> Result<(), OrderError> {
        self.order(|answer| Order::Signal(worker, signal, answer)).await.unwrap_or(Err(OrderError::Stopping))
    }

    /// Has the primary become the program as it is on disk now, in the same process, as USR2 does: the same pid, workers, sockets and
    /// connections, and messages that nobody has taken. A reload follows. Returns once that program was tried and found fit to go on.
    ///
    /// Next, the primary function hears [`Event::Upgrading`] and returns; so do not wait for anything after this but the next event.
    ///
    /// # Errors
    /// [`UpgradeError::Refused`] if the program cannot be run, does not answer, or cannot go on, with the reason: nothing has changed.
    /// [`UpgradeError::Busy`] if an upgrade is under way, [`UpgradeError::Stopping`].
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the upgrade.
    pub async fn upgrade(&self) -> Result<(), UpgradeError> {
        self.order(Order::Upgrade).await.unwrap_or(Err(UpgradeError::Stopping))
    }

    /// Keeps a value for the primary function of the next program, which gets it by [`carried`](Self::carried): after an upgrade, or
    /// after one that did not come about. Each call replaces what was kept before.
    ///
    /// ```no_run
    /// # use cluster::{Event, Primary};
    /// async fn count(mut primary: Primary) -> cluster::Result {
    ///     let mut exits: u64 = primary.carried()?.unwrap_or_default();
    ///     while let Some(event) = primary.next().await {
    ///         match event {
    ///             Event::Exited(..) => exits += 1,
    ///             Event::Upgrading => primary.carry(&exits)?,
    ///             _ => {}
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the value cannot be written down.
    pub fn carry<T: serde::Serialize>(&self, value: &T) -> Result<(), Error> {
        let bytes =
            codec::encode_state(value).map_err(|error| Error::other(format!("cannot carry this value: {error}")))?;
        lock(&self.shared.carried).to_come = Some(bytes.into());
        Ok(())
    }

    /// What the primary function of the program before has [kept](Self::carry); `None` if nothing, or if this is the first.
    ///
    /// # Errors
    /// When it is no `T`. The bytes say nothing of their type, so another one may also come out wrong: carry a type that says of
    /// itself which version it is.
    pub fn carried<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let bytes = lock(&self.shared.carried).from_before.clone();
        let read = |bytes: Bytes| codec::decode_state(&bytes);
        let value = bytes.map(read).transpose();
        value.map_err(|error| Error::other(format!("what was carried over is something else: {error}")))
    }

    /// Stops the cluster gracefully, as TERM does but without the drain delay; returns at once. The events go on until the last worker
    /// has exited.
    pub fn shutdown(&self) {
        self.shared.stop.notify_one();
    }

    /// `None` once the shell takes no orders any more.
    async fn order<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.shared.shell.send(Happening::Ordered(make(answer))).await.ok()?;
        answered.await.ok()
    }

    fn lane(&self, worker: WorkerId) -> Option<Lane<Down, Up>> {
        self.shared.lanes().get(&worker).cloned()
    }
}

impl<Up: Message, Down: Message> Deref for Primary<Up, Down> {
    type Target = PrimaryHandle<Up, Down>;

    fn deref(&self) -> &PrimaryHandle<Up, Down> {
        &self.handle
    }
}

impl<Up: Message, Down: Message> Drop for Primary<Up, Down> {
    /// Somebody must go on taking what workers send, or they would wait for ever.
    fn drop(&mut self) {
        let Some(intake) = self.intake.take() else { return };
        let intake = Box::new(intake);
        let shared = &self.handle.shared;
        if shared.leave.is_wanted() {
            shared.leave_intake(intake);
        } else {
            self.runtime.spawn(intake.drain());
        }
    }
}

impl<Up: Message, Down: Message> Clone for PrimaryHandle<Up, Down> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<Up: Message, Down: Message> std::fmt::Debug for PrimaryHandle<Up, Down> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrimaryHandle").field("workers", &self.workers()).finish()
    }
}
