//! What the user's primary function holds: the events, and a handle to act on the cluster.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime;
use tokio::sync::{Notify, mpsc, oneshot};

use super::Happening;
use super::event::Event;
use super::function::Common;
use super::order::{Order, OrderError, ReloadError, UpgradeError};
use super::roster::{Roster, WorkerInfo};
use crate::ipc::{
    Answers, Batch, CallError, Lane, Message, NoMessages, Received, Replies, Reply, SendError, Suspended, TrySendError,
    codec,
};
use crate::{Error, Exit, WorkerId};

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

/// What the handles and the router share.
pub(super) struct Shared<Up, Down> {
    /// From spawn to exit.
    lanes: Mutex<BTreeMap<WorkerId, Lane<Down, Up>>>,
    news: Mutex<VecDeque<News<Up, Down>>>,
    /// Whether there is any: written under the lock, read without.
    has_news: AtomicBool,
    arrivals: Arc<Notify>,
    roster: Arc<Roster>,
    /// Tells the shell to stop the cluster.
    stop: Arc<Notify>,
    shell: mpsc::Sender<Happening>,
    leave: Arc<Leave>,
    /// What the program before has carried over, and what this one will.
    carried: Mutex<Carried>,
    max_message: usize,
    /// Where the events were taken, once the function has left that to the next program.
    intake: Mutex<Option<Box<Intake<Up, Down>>>>,
}

#[derive(Debug, Default)]
struct Carried {
    from_before: Option<Bytes>,
    /// Nothing new means that the old goes on.
    to_come: Option<Bytes>,
}

/// Whether the function is to make room for the next program.
#[derive(Debug, Default)]
pub(super) struct Leave {
    state: AtomicU8,
    /// Nobody takes events any more.
    is_done: AtomicBool,
}

impl Leave {
    const NO: u8 = 0;
    const WANTED: u8 = 1;
    /// The function knows it, and gets no more events.
    const TOLD: u8 = 2;
}

impl Leave {
    pub(super) fn want(&self) {
        self.state.store(Self::WANTED, Ordering::SeqCst);
    }

    /// Takes it back, unless the function knows it already.
    pub(super) fn withdraw(&self) -> bool {
        self.change(Self::WANTED, Self::NO)
    }

    /// It is not wanted any more, whatever the function knows: events go on for whoever still asks.
    pub(super) fn call_off(&self) {
        self.state.store(Self::NO, Ordering::SeqCst);
    }

    /// Whether nobody takes events any more.
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::SeqCst)
    }

    fn is_wanted(&self) -> bool {
        self.state.load(Ordering::SeqCst) != Self::NO
    }

    fn is_told(&self) -> bool {
        self.state.load(Ordering::SeqCst) == Self::TOLD
    }

    /// The function is about to know; `false` if it need not.
    fn tell(&self) -> bool {
        self.change(Self::WANTED, Self::TOLD)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// What the router passes on to whoever takes the events.
pub(super) enum News<Up, Down> {
    Event(Event<Up>),
    /// The worker is online, and messages may come on this lane.
    Online(WorkerId, Lane<Down, Up>),
    Exited(WorkerId, Exit),
    /// The primary is about to become another program; nothing follows here.
    Upgrading,
    /// The cluster has ended; nothing follows.
    Ended,
}

impl<Up: Message, Down: Message> Primary<Up, Down> {
    pub(super) fn new(shared: Arc<Shared<Up, Down>>, runtime: runtime::Handle) -> Self {
        let intake = Intake { shared: Arc::clone(&shared), inlets: Vec::new(), turn: 0, taken: 0, has_ended: false };
        Self { handle: PrimaryHandle { shared }, intake: Some(intake), runtime }
    }

    /// The next event; `None` once the cluster has stopped and every worker's last event was taken, and after
    /// [`Event::Upgrading`].
    ///
    /// After `None`, return soon: the process ends, or becomes another program, with the grace period.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost, so it fits into `tokio::select!`.
    #[inline]
    pub async fn next(&mut self) -> Option<Event<Up>> {
        match &mut self.intake {
            Some(intake) => intake.next().await,
            None => None,
        }
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
        let message = Lane::<Down, Up>::encode_once(message, self.shared.max_message)?;
        let lanes: Vec<_> = self.shared.lanes().values().cloned().collect();
        Ok(Lane::send_to_all(lanes, &message).await)
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
        let mut intake = Box::new(intake);
        let shared = Arc::clone(&intake.shared);
        if shared.leave.is_wanted() {
            return shared.leave_intake(intake);
        }
        self.runtime.spawn(async move {
            while intake.next().await.is_some() {}
            shared.leave_intake(intake);
        });
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

impl<Up: Message, Down: Message> Shared<Up, Down> {
    pub(super) fn new(common: Common) -> Self {
        let Common { roster, stop, shell, leave, carried, max_message } = common;
        Self {
            lanes: Mutex::default(),
            news: Mutex::default(),
            has_news: AtomicBool::new(false),
            arrivals: Arc::default(),
            roster,
            stop,
            shell,
            leave,
            carried: Mutex::new(Carried { from_before: carried, to_come: None }),
            max_message,
            intake: Mutex::new(None),
        }
    }

    /// Makes the lane of a worker that lives since before the upgrade.
    pub(super) fn continue_lane(&self, worker: WorkerId, suspended: Suspended) {
        if let Some(lane) = self.resume(suspended) {
            self.lanes().insert(worker, lane);
        }
    }

    /// A lane that goes on.
    pub(super) fn resume(&self, suspended: Suspended) -> Option<Lane<Down, Up>> {
        let resumed = Lane::resume(suspended, Arc::clone(&self.arrivals));
        resumed.inspect_err(|error| tracing::error!(error, "messages were lost in the upgrade")).ok()
    }

    pub(super) fn take_lanes(&self) -> BTreeMap<WorkerId, Lane<Down, Up>> {
        std::mem::take(&mut self.lanes())
    }

    pub(super) fn put_lane_back(&self, worker: WorkerId, lane: Lane<Down, Up>) {
        self.lanes().insert(worker, lane);
    }

    pub(super) fn take_carried(&self) -> Option<Bytes> {
        let mut carried = lock(&self.carried);
        carried.to_come.take().or(carried.from_before.take())
    }

    fn leave_intake(&self, mut intake: Box<Intake<Up, Down>>) {
        for Inlet { lane, batch, .. } in &mut intake.inlets {
            lane.put_back(batch);
        }
        *lock(&self.intake) = Some(intake);
        self.leave.is_done.store(true, Ordering::SeqCst);
        // One that is full wakes the shell as well.
        _ = self.shell.try_send(Happening::IntakeLeft);
    }

    /// Takes events for nobody: the function has left them, and no next program comes.
    pub(super) fn drain_intake(self: &Arc<Self>) {
        if let Some(mut intake) = lock(&self.intake).take() {
            let shared = Arc::clone(self);
            shared.leave.is_done.store(false, Ordering::SeqCst);
            tokio::spawn(async move {
                while intake.next().await.is_some() {}
                shared.leave_intake(intake);
            });
        }
    }

    /// Workers that are gone and of which something has not been told yet.
    pub(super) fn departed(&self) -> Vec<(WorkerId, Lane<Down, Up>, Exit)> {
        let known = lock(&self.intake).take().map_or_else(Vec::new, |intake| intake.inlets);
        let mut lanes: BTreeMap<_, _> = known.into_iter().map(|it| (it.worker, (it.lane, it.exit))).collect();
        for news in std::mem::take(&mut *lock(&self.news)) {
            match news {
                News::Online(worker, lane) => _ = lanes.insert(worker, (lane, None)),
                News::Exited(worker, exit) => {
                    if let Some((_, known)) = lanes.get_mut(&worker) {
                        *known = Some(exit);
                    }
                }
                News::Event(_) | News::Upgrading | News::Ended => {}
            }
        }
        let living = self.lanes();
        let gone = lanes.into_iter().filter(|(worker, _)| !living.contains_key(worker));
        gone.filter_map(|(worker, (lane, exit))| Some((worker, lane, exit?))).collect()
    }

    /// Makes the lane of a worker that has just been spawned; what is sent on it waits.
    pub(super) fn open_lane(&self, worker: WorkerId) {
        let lane = Lane::new(self.max_message, Arc::clone(&self.arrivals));
        self.lanes().insert(worker, lane);
    }

    pub(super) fn lane_of(&self, worker: WorkerId) -> Option<Lane<Down, Up>> {
        self.lanes().get(&worker).cloned()
    }

    pub(super) fn remove_lane(&self, worker: WorkerId) -> Option<Lane<Down, Up>> {
        self.lanes().remove(&worker)
    }

    /// Unbounded, but small: five small items for each worker that starts, and starts are held back by the backoff. A primary
    /// function that never asks, in a cluster that never stops crashing, leaves about a megabyte a day and slot here.
    pub(super) fn tell(&self, news: News<Up, Down>) {
        let mut waiting = lock(&self.news);
        waiting.push_back(news);
        self.has_news.store(true, Ordering::Release);
        drop(waiting);
        self.arrivals.notify_waiters();
    }

    #[inline]
    fn next_news(&self) -> Option<News<Up, Down>> {
        if !self.has_news.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = lock(&self.news);
        let news = waiting.pop_front();
        self.has_news.store(!waiting.is_empty(), Ordering::Release);
        news
    }

    /// As the next thing to be told.
    fn tell_next(&self, news: News<Up, Down>) {
        let mut waiting = lock(&self.news);
        waiting.push_front(news);
        self.has_news.store(true, Ordering::Release);
    }

    pub(super) fn shell(&self) -> &mpsc::Sender<Happening> {
        &self.shell
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Lane<Down, Up>>> {
        lock(&self.lanes)
    }
}

/// Nothing that runs under these locks can leave them half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many messages are taken from one worker before others have their turn, and other tasks of the thread by and by.
const IN_A_ROW: u8 = 16;

/// The one place that takes news and messages, and gives them their order.
struct Intake<Up, Down> {
    shared: Arc<Shared<Up, Down>>,
    inlets: Vec<Inlet<Up, Down>>,
    /// The inlet that is looked at first, so that a busy worker cannot keep the others from being heard.
    turn: usize,
    /// How many messages came from it since it is.
    taken: u8,
    has_ended: bool,
}

/// What there is now.
enum Look<Up> {
    Event(Event<Up>),
    Nothing,
    /// And nothing will come.
    Ended,
}

/// One worker whose messages may come.
struct Inlet<Up, Down> {
    worker: WorkerId,
    lane: Lane<Down, Up>,
    /// Messages that were taken from the lane together and are handed out one by one.
    batch: Batch,
    /// Its process is gone, and everything that it said to the shell has been told; perhaps not all of its messages.
    exit: Option<Exit>,
}

impl<Up: Message, Down: Message> Intake<Up, Down> {
    async fn next(&mut self) -> Option<Event<Up>> {
        if self.taken == 0 {
            tokio::task::coop::consume_budget().await;
        }
        match self.look() {
            Look::Event(event) => Some(event),
            Look::Ended => None,
            Look::Nothing => self.next_arrival().await,
        }
    }

    #[cold]
    async fn next_arrival(&mut self) -> Option<Event<Up>> {
        let shared = Arc::clone(&self.shared);
        loop {
            let arrival = shared.arrivals.notified();
            match self.look() {
                Look::Event(event) => return Some(event),
                Look::Ended => return None,
                Look::Nothing => arrival.await,
            }
        }
    }

    #[inline(always)]
    fn look(&mut self) -> Look<Up> {
        // The rest is for the next program.
        if self.shared.leave.is_told() {
            return Look::Ended;
        }
        if let Some(event) = self.next_news() {
            return Look::Event(event);
        }
        if let Some(event) = self.next_message() {
            return Look::Event(event);
        }
        if self.has_ended && self.inlets.is_empty() { Look::Ended } else { Look::Nothing }
    }

    fn next_news(&mut self) -> Option<Event<Up>> {
        loop {
            match self.shared.next_news()? {
                News::Event(event) => return Some(event),
                News::Online(worker, lane) => {
                    self.inlets.push(Inlet { worker, lane, batch: Batch::default(), exit: None });
                    return Some(Event::Online(worker));
                }
                News::Exited(worker, exit) => {
                    if let Some(event) = self.exited(worker, exit) {
                        return Some(event);
                    }
                }
                News::Upgrading if self.shared.leave.tell() => return Some(Event::Upgrading),
                News::Upgrading => {}
                News::Ended => self.has_ended = true,
            }
        }
    }

    /// A worker's exit is told when nothing of it is left to be told before.
    fn exited(&mut self, worker: WorkerId, exit: Exit) -> Option<Event<Up>> {
        match self.inlets.iter_mut().find(|inlet| inlet.worker == worker) {
            Some(inlet) => {
                inlet.exit = Some(exit);
                None
            }
            None => Some(Event::Exited(worker, exit)),
        }
    }

    #[inline(always)]
    fn next_message(&mut self) -> Option<Event<Up>> {
        for _ in 0..self.inlets.len() {
            if self.turn >= self.inlets.len() {
                self.turn = 0;
            }
            let Inlet { worker, ref lane, ref mut batch, exit } = self.inlets[self.turn];
            match (lane.try_recv_in_batches(batch), exit) {
                (Received::Empty, _) | (Received::Ended, None) => self.next_turn(),
                (Received::Message(message), _) => {
                    self.taken += 1;
                    if self.taken == IN_A_ROW {
                        self.next_turn();
                    }
                    return Some(Event::Message(worker, message));
                }
                (Received::Ended, Some(exit)) => {
                    self.inlets.remove(self.turn);
                    self.taken = 0;
                    // Without its inlet, the exit is the next thing to be told.
                    self.shared.tell_next(News::Exited(worker, exit));
                    return Some(Event::Disconnected(worker));
                }
            }
        }
        None
    }

    fn next_turn(&mut self) {
        self.turn += 1;
        self.taken = 0;
    }
}

impl<Up, Down> std::fmt::Debug for Intake<Up, Down> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("inlets", &self.inlets.len()).finish_non_exhaustive()
    }
}
