//! The worker's side: its life from the handshake to the exit, and what the user's code holds of it.
//!
//! One task (`attend`) speaks with the primary over the control lane. One small thread (`guard`) waits for the primary's
//! death and ends a worker that does not end by itself.

mod guard;
mod peer;
mod peers;
mod process;
mod pulse;
mod spread;
mod visitors;

use std::future::Future;
use std::ops::Deref;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::coop;

pub use peer::{Peer, Sender};
pub(crate) use process::{Claim, Phase, Process, cut, draining, turn_of};
pub(crate) use pulse::ring;
#[cfg(feature = "axum")]
pub(crate) use spread::Share;

use peers::Peers;
use visitors::Next;

use crate::board::{Board, Tag};
use crate::boot::Inheritance;
use crate::config::Settings;
use crate::control::{Control, FromWorker, Schema, ToWorker};
use crate::error::exit_code;
use crate::ipc::{Answers, CallError, Lane, LaneEnd, Message, NoMessages, Replies, Reply, SendError, TrySendError};
use crate::listen::exchange::Exchange;
use crate::listen::mailbox::Mailboxes;
use crate::listen::reception::{Reception, Seat};
use crate::report::say;
use crate::reserve::Reserve;
use crate::run::WorkerMain;
use crate::{WorkerId, boot, metrics, os};

/// What a worker's `main` gets: who it is, and the messages between it, the primary and other workers.
///
/// Cheap to clone and usable from any task, as axum's state for instance. It dereferences to [`CurrentWorker`], which has
/// the methods that need no message types.
///
/// `Up` is what workers send to the primary, `Down` what the primary and workers send to workers; see [`Message`].
pub struct Worker<Up: Message = NoMessages, Down: Message = NoMessages> {
    current: CurrentWorker,
    lane: Lane<Up, Down>,
    peers: Arc<Peers<Down>>,
}

/// The worker that this code runs in; from [`worker`], or by dereferencing a [`Worker`].
#[derive(Debug)]
pub struct CurrentWorker {
    process: Arc<Process>,
    /// Up to which order to open logs anew this handle has heard of them.
    reopens_seen: AtomicU64,
}

/// The worker that this code runs in.
///
/// ```no_run
/// # fn f() -> String {
/// format!("hello from worker {} (pid {})", cluster::worker().id(), std::process::id())
/// # }
/// ```
///
/// # Panics
/// In a process that is no worker, such as the primary; [`is_worker`](crate::is_worker) tells.
#[must_use]
pub fn worker() -> CurrentWorker {
    CurrentWorker::of(Arc::clone(Process::current()))
}

impl Clone for CurrentWorker {
    fn clone(&self) -> Self {
        let reopens_seen = self.reopens_seen.load(Ordering::Relaxed).into();
        Self { process: Arc::clone(&self.process), reopens_seen }
    }
}

impl CurrentWorker {
    fn of(process: Arc<Process>) -> Self {
        let reopens_seen = (*process.reopens().borrow()).into();
        Self { process, reopens_seen }
    }

    /// This worker's id, never used again in this cluster.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.process.identity().worker
    }

    /// The slot that this worker fills, from 0; its replacement gets the same.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.process.identity().slot
    }

    /// The generation that this worker belongs to, from 1; it rises when the cluster's code is reloaded.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.process.identity().generation
    }

    /// Tells the primary that this worker serves.
    ///
    /// [`serve`](crate::serve()) and the first [`listen`](crate::listen()) imply it, so only workers that do neither need it;
    /// without it the start timeout would end them. Further calls do nothing.
    pub fn ready(&self) {
        self.process.ready();
    }

    /// Waits until this worker is to end: the cluster stops, the primary is gone, TERM came, or [`disconnect`](Self::disconnect)
    /// was called.
    ///
    /// Finish what runs, then return from `main`, within the grace period. A program that never asks for this, in no task, ends at
    /// its next `await` once its last connection is closed.
    ///
    /// ```no_run
    /// # async fn f(app: axum::Router) -> std::io::Result<()> {
    /// let listener = cluster::listen("127.0.0.1:3000").await?;
    /// let shutdown = cluster::worker().shutdown();
    /// axum::serve(listener, app).with_graceful_shutdown(shutdown).await
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel safe; once it has completed, every further call completes at once.
    pub fn shutdown(&self) -> impl Future<Output = ()> + Send + 'static {
        self.process.expect_main_to_end();
        draining(self.process.phase())
    }

    /// Like [`shutdown`](Self::shutdown), but each call completes at a moment of its own, drawn from the
    /// [`drain_spread`](crate::Config::drain_spread) after the drain has begun.
    ///
    /// For connections that last, such as WebSockets and server-sent events: their clients come back to other workers one after another,
    /// and not all at once. By default the spread is zero, and this the same as `shutdown`.
    ///
    /// ```no_run
    /// # async fn next_event() -> String { String::new() }
    /// # async fn send(_: String) {}
    /// # async fn f() {
    /// let mut shutdown = std::pin::pin!(cluster::worker().shutdown_spread());
    /// loop {
    ///     tokio::select! {
    ///         event = next_event() => send(event).await,
    ///         () = &mut shutdown => break,
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel safe, if the same future is awaited again: a new call draws a new moment.
    pub fn shutdown_spread(&self) -> impl Future<Output = ()> + Send + 'static {
        self.process.expect_main_to_end();
        turn_of(self.process.draw_share(), self.process.phase())
    }

    /// Whether new work should come here: from [`ready`](Self::ready) until the stop of the cluster is announced
    /// ([`drain_delay`](crate::Config::drain_delay)) or this worker drains.
    ///
    /// For the health check of a load balancer. An unhealthy worker still serves what comes.
    ///
    /// ```no_run
    /// use axum::{Router, http::StatusCode, routing::get};
    ///
    /// #[cluster::main(workers = "auto")]
    /// async fn main() -> cluster::Result {
    ///     let app = Router::new().route("/healthz", get(healthz));
    ///     cluster::serve("0.0.0.0:3000", app).await
    /// }
    ///
    /// async fn healthz() -> StatusCode {
    ///     if cluster::worker().is_healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    /// }
    /// ```
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.process.is_healthy()
    }

    /// Waits until USR1 comes to the primary: log files were renamed, so open those anew that this program writes.
    ///
    /// What goes to [`Output::File`](crate::Output::File) goes to the new file already when this completes.
    ///
    /// ```no_run
    /// # async fn f(path: &str) -> std::io::Result<()> {
    /// # fn use_from_now_on(_: std::fs::File) {}
    /// let worker = cluster::worker(); // kept, so that nothing is missed between two turns of the loop
    /// loop {
    ///     worker.logs_to_reopen().await;
    ///     use_from_now_on(std::fs::File::options().append(true).create(true).open(path)?);
    /// }
    /// # }
    /// ```
    ///
    /// Each handle counts for itself, from when it was made by [`worker`] or given to `main`; a clone goes on from where the original
    /// is. A USR1 that came since the last call on this handle completed, completes the next one at once; several are as one. Calls that
    /// wait on one handle at the same time all complete.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped before it has completed, nothing counts as heard.
    pub async fn logs_to_reopen(&self) {
        let seen = self.reopens_seen.load(Ordering::Relaxed);
        let mut reopens = self.process.reopens();
        // An error would mean that the process is gone, which this handle keeps.
        if let Ok(count) = reopens.wait_for(|count| *count > seen).await {
            self.reopens_seen.fetch_max(*count, Ordering::Relaxed);
        }
    }

    /// Leaves the cluster gracefully: this worker drains and, unless the policy is never to restart, is replaced at once.
    pub fn disconnect(&self) {
        self.process.leave();
    }
}

impl<Up: Message, Down: Message> Worker<Up, Down> {
    /// Sends a message to the primary function; waits while it is slow to take what was sent before.
    ///
    /// When this returns, the message is on its way and in order; it reaches the primary even if `main` returns next.
    /// ([`flush`](Self::flush) before an abrupt end, such as `std::process::exit`.)
    ///
    /// # Errors
    /// [`SendError::Gone`] when the primary is gone; other kinds when the message itself cannot be sent.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped while it waits, nothing is sent.
    #[inline]
    pub fn send(&self, message: Up) -> impl Future<Output = Result<(), SendError>> + Send {
        self.lane.send(message)
    }

    /// Sends a message if there is room for it now.
    ///
    /// # Errors
    /// [`TrySendError::Full`] while the primary is slow, and those of [`send`](Self::send).
    pub fn try_send(&self, message: Up) -> Result<(), TrySendError> {
        self.lane.try_send(message)
    }

    /// Sends a request and waits for the answer; `make` puts the [`Reply`] into the message.
    ///
    /// ```no_run
    /// # use cluster::{Message, Reply, Worker, NoMessages};
    /// #[derive(Message)]
    /// enum ToPrimary { Total(Reply<u64>), Add { n: u64, sum: Reply<u64> } }
    ///
    /// # async fn f(worker: Worker<ToPrimary>) -> cluster::Result {
    /// let total = worker.call(ToPrimary::Total).await?;
    /// let sum = worker.call(|sum| ToPrimary::Add { n: 2, sum }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// There is no time limit; wrap it into `tokio::time::timeout` for one.
    ///
    /// # Errors
    /// [`CallError::Unanswered`] when the primary function dropped the reply, [`CallError::Gone`] when the primary is gone, and
    /// what [`send`](Self::send) may say.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the question: an answer that still comes is ignored.
    pub async fn call<T, F>(&self, make: F) -> Result<T, CallError>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(Reply<T>) -> Up,
    {
        self.lane.call(make).await
    }

    /// Sends a request for a stream of answers and returns the end that they come out of; `make` puts the [`Replies`] into the
    /// message.
    ///
    /// ```no_run
    /// # use cluster::{Message, Replies, Worker};
    /// #[derive(Message)]
    /// enum ToPrimary { Tail { lines: Replies<String> } }
    ///
    /// # async fn f(worker: Worker<ToPrimary>) -> cluster::Result {
    /// let mut lines = worker.stream(|lines| ToPrimary::Tail { lines }).await?;
    /// while let Some(line) = lines.next().await? {
    ///     println!("{line}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`send`](Self::send). Whether the request is answered is known by [`Answers::next`].
    ///
    /// # Cancel safety
    /// Cancel safe: dropped while it waits, nothing is sent.
    pub async fn stream<T, F>(&self, make: F) -> Result<Answers<T>, SendError>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(Replies<T>) -> Up,
    {
        self.lane.stream(make).await
    }

    /// The worker of a slot, to send messages to: of the type that the primary sends, and taken by [`recv`](Self::recv) there.
    ///
    /// For a slot that has no worker, or that does not exist, sending says [`SendError::Gone`].
    #[must_use]
    pub fn peer(&self, slot: usize) -> Peer<Down> {
        self.peers.peer(slot)
    }

    /// Sends a message to the worker of every other slot, and returns how many it was sent to. Slots without a worker, and workers
    /// that go meanwhile, are passed over; one that is slow makes this wait, but not the message to the others.
    ///
    /// # Errors
    /// When the message itself cannot be sent.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the workers that it waits for do not get the message.
    pub async fn broadcast(&self, message: Down) -> Result<usize, SendError> {
        let slots = self.process.reception().exchange().mailboxes().len();
        let others: Vec<_> = (0..slots).filter(|slot| *slot != self.slot()).map(|slot| self.peer(slot)).collect();
        // What is to be opened is opened all at once.
        others.iter().for_each(|peer| _ = peer.way());
        let mut lanes = Vec::new();
        for peer in &others {
            lanes.extend(peer.lane().await);
        }
        Lane::send_to_all(lanes, self.peers.max_message(), message).await
    }

    /// The next message from the primary or from another worker; `None` once the primary is gone, and the workers that have talked to
    /// this one, and everything was taken.
    ///
    /// Messages of one sender come in the order in which they were sent, and senders have their turn one after another. What was sent
    /// before the first call is kept, and a worker that takes nothing makes the senders wait. Several tasks may call it; each message
    /// goes to one of them. Workers that have lost their primary may wait for each other here: shortly before the grace period is over
    /// they get `None`, too.
    ///
    /// # Cancel safety
    /// Cancel safe: no message is lost.
    pub async fn recv(&self) -> Option<Down> {
        self.recv_from().await.map(|(_, message)| message)
    }

    /// [`recv`](Self::recv), and who has sent it.
    ///
    /// ```no_run
    /// # use cluster::{Message, NoMessages, Sender, Worker};
    /// # #[derive(Message)]
    /// # enum ToWorker { Ping, Pong }
    /// # async fn f(worker: Worker<NoMessages, ToWorker>) -> cluster::Result {
    /// while let Some((sender, message)) = worker.recv_from().await {
    ///     if let (Sender::Worker { slot, .. }, ToWorker::Ping) = (sender, message) {
    ///         worker.peer(slot).send(ToWorker::Pong).await?;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel safe: no message is lost.
    pub async fn recv_from(&self) -> Option<(Sender, Down)> {
        let visitors = self.peers.visitors();
        if visitors.steps.is_next() {
            coop::consume_budget().await;
        }
        // The usual case under load, without a place in the queue of those who wait.
        if let Next::Message(sender, message) = visitors.next(&self.lane) {
            return Some((sender, message));
        }
        loop {
            let arrival = visitors.arrival();
            match visitors.next(&self.lane) {
                Next::Message(sender, message) => return Some((sender, message)),
                Next::Ended => return None,
                Next::Nothing { is_primary_gone: false } => arrival.await,
                Next::Nothing { is_primary_gone: true } => tokio::select! {
                    () = arrival => {}
                    () = cut(self.process.phase()) => return None,
                },
            }
        }
    }

    /// Waits until everything sent so far, to the primary and to workers, is in the kernel's hands and survives this process.
    pub async fn flush(&self) {
        self.lane.flush().await;
        self.peers.flush().await;
    }
}

impl<Up: Message, Down: Message> Deref for Worker<Up, Down> {
    type Target = CurrentWorker;

    fn deref(&self) -> &CurrentWorker {
        &self.current
    }
}

impl<Up: Message, Down: Message> Clone for Worker<Up, Down> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), lane: self.lane.clone(), peers: Arc::clone(&self.peers) }
    }
}

impl<Up: Message, Down: Message> std::fmt::Debug for Worker<Up, Down> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.current.fmt(f)
    }
}

/// How long the last messages may take to reach the kernel after `main` has returned.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a `main` that does not wait for the shutdown may take to come to listening, and its listeners to empty their queues.
const LAST_ACCEPTS: Duration = Duration::from_secs(1);

/// The life of a worker: returns what the user's `main` returns.
pub(crate) fn live<M: WorkerMain<A>, A>(inherited: Inheritance, settings: Settings, main: M) -> M::Output {
    boot::name_process();
    let runtime = Background::build(settings.threads).unwrap_or_else(|error| give_up(&error));
    runtime.block_on(async {
        let Inheritance { identity, primary, control, messages } = inherited;
        let reserve = Arc::new(Reserve::new(os::most_descriptors()).unwrap_or_else(|error| give_up(&error)));
        let control = Control::new(control).unwrap_or_else(|error| give_up(&error)).with_reserve(Arc::clone(&reserve));
        let Some(welcome) = shake_hands::<M::Up, M::Down>(&control).await else { exit(exit_code::CONFIG.into()) };
        let Welcome { grace, line, max_message, fds, mailboxes, drain } = welcome;
        let primary = guard::start(primary, grace).unwrap_or_else(|error| give_up(&error));
        let [board, bell, mailbox] = fds;
        let board = Board::open(board.as_fd()).unwrap_or_else(|error| give_up(&error));
        let arrivals = Arc::<Notify>::default();
        let (peers, peers_line) = Peers::start(board, max_message, Arc::clone(&arrivals));
        let process = Process::start(identity, control, primary, grace, settings.drain_spread, peers_line, |streams| {
            metrics::enter(board, metrics::Place::Worker { slot: identity.slot, line });
            let line = &board.slot(identity.slot).lines()[line];
            pulse::start(board, line, bell);
            let seat = Seat { slot: identity.slot, tag: Tag::of(identity.worker), line };
            Reception::new(seat, Exchange::new(board, mailboxes, settings.dispatch), mailbox, streams, reserve)
        });
        let process = process.unwrap_or_else(|error| give_up(&error));
        if let Some(drain) = drain {
            process.obey(drain, Vec::new());
        }
        let lane = Lane::new(max_message, arrivals);
        tokio::spawn(leave_if_violated(lane.drive(messages.into()), Arc::clone(&process)));
        let worker = Worker { current: CurrentWorker::of(Arc::clone(&process)), lane: lane.clone(), peers: Arc::clone(&peers) };
        let output = tokio::select! {
            output = main.start(worker) => Some(output),
            () = nothing_left_to_do(&process) => None,
        };
        process.say_last();
        lane.close();
        peers.close();
        let flushing = async {
            lane.flush().await;
            peers.flush().await;
        };
        tokio::select! {
            () = flushing => {}
            () = give_up_flushing(&process) => tracing::warn!("nobody takes this worker's last messages; they are lost"),
        }
        output.unwrap_or_else(|| exit(0))
    })
}

/// Completes when the worker drains, `main` is not known to wait for that, and the last connection is closed.
async fn nothing_left_to_do(process: &Process) {
    draining(process.phase()).await;
    if !process.is_ready() {
        // It has not come to listening, and connections may wait for it to do so.
        tokio::time::sleep(LAST_ACCEPTS).await;
    }
    if !process.is_main_to_end() {
        _ = tokio::time::timeout(LAST_ACCEPTS, process.listeners().none_left()).await;
        process.streams().none_left().await;
        process.carried().none_left().await;
    }
    if process.is_main_to_end() {
        std::future::pending::<()>().await;
    }
}

/// A worker that cannot understand what it is sent is of no use; its replacement may be.
async fn leave_if_violated(driving: impl Future<Output = LaneEnd>, process: Arc<Process>) {
    if let LaneEnd::Violation(text) = driving.await {
        say(format_args!("worker {} leaves, as its messages cannot be read: {text}", process.identity().worker));
        process.leave();
    }
}

async fn give_up_flushing(process: &Process) {
    // One that was told to go has its end fixed; then it is to exit by itself, and not to be killed.
    _ = tokio::time::timeout(LAST_WORDS, cut(process.phase())).await;
}

/// What the primary gives a worker that it lets in.
struct Welcome {
    grace: Duration,
    line: usize,
    max_message: usize,
    /// The board, the bell and the mailbox.
    fds: [OwnedFd; 3],
    mailboxes: Mailboxes,
    /// An order to drain that came before all this.
    drain: Option<ToWorker>,
}

/// Says hello and hears the welcome. `None` when the primary is gone or refuses this build.
async fn shake_hands<Up: Message, Down: Message>(control: &Control) -> Option<Welcome> {
    let hello = FromWorker::Hello { up: Schema::of::<Up>(), down: Schema::of::<Down>() };
    control.send(&hello).await.ok()?;
    let mailboxes = Mailboxes::default();
    let mut drain = None;
    loop {
        match control.receive().await {
            Ok(Some((ToWorker::Mailboxes { first }, fds))) => mailboxes.put(first, fds),
            Ok(Some((ToWorker::Welcome { grace, line, max_message }, fds))) => {
                let fds = fds.try_into().unwrap_or_else(|_| give_up(&Errno::EMFILE.into()));
                return Some(Welcome { grace, line, max_message, fds, mailboxes, drain });
            }
            // No code of the user's has run, so none of its files is open.
            Ok(Some((ToWorker::Reopen, fds))) => process::redirect_output(&fds),
            // The cluster stops already. Connections may wait for this worker, so it goes on, to serve and to drain.
            Ok(Some((order @ ToWorker::Drain { .. }, _))) => drain = Some(order),
            // The primary says why; two voices would say it twice.
            Ok(_) | Err(_) => return None,
        }
    }
}

/// A runtime whose end does not wait for blocking tasks, which nobody can end: neither when `main` returns nor when it panics.
struct Background(Option<Runtime>);

impl Background {
    fn build(threads: usize) -> std::io::Result<Self> {
        let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        pulse::attend(&mut builder, threads);
        Ok(Self(Some(builder.worker_threads(threads).enable_all().build()?)))
    }
}

impl Deref for Background {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken by drop only")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.take().expect("it is taken here only").shutdown_background();
    }
}

fn give_up(error: &std::io::Error) -> ! {
    say(format_args!("this worker cannot start: {error}"));
    exit(exit_code::CONFIG.into())
}
