//! Hands what waits in one queue that nobody serves, or that is the primary's to serve, to whoever serves.
//!
//! A source from which nothing can come any more ends its task, which says why: the shell puts another in its place.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::task::coop::consume_budget;
use tokio::time::{sleep, timeout};

use crate::board;
use crate::listen::exchange::{Choice, Exchange, Outgoing};
use crate::listen::mailbox::{self, BATCH, Connection};
use crate::listen::place::Readiness;
use crate::listen::{Address, PortId, is_about_one_connection};
use crate::os;

/// Where connections wait that the primary may hand to others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Shard(PortId, usize),
    Shared(PortId),
    Mailbox(usize),
}

impl Source {
    /// The slot that it is the queue of, where it is one's.
    pub(super) const fn slot(self) -> Option<usize> {
        match self {
            Self::Shard(_, slot) | Self::Mailbox(slot) => Some(slot),
            Self::Shared(_) => None,
        }
    }
}

/// A task that looks after a source, until this is dropped. What it holds then it still hands over.
pub(super) struct Tended {
    task: JoinHandle<()>,
    failure: Arc<OnceLock<io::Error>>,
    _dropped_to_stop: oneshot::Sender<()>,
}

impl Tended {
    /// Must be called inside the runtime.
    pub(super) fn start(
        fd: BorrowedFd<'_>,
        source: Source,
        exchange: &Arc<Exchange>,
        last_rescue: &Arc<LastRescue>,
        at_work: &AtWork,
    ) -> io::Result<Self> {
        let fd = os::register(fd.try_clone_to_owned()?, Interest::READABLE)?;
        let (sender, stopped) = oneshot::channel();
        let tending = tend(fd, source, Arc::clone(exchange), Arc::clone(last_rescue), Stop(stopped));
        let presence = at_work.0.subscribe();
        let failure = Arc::<OnceLock<io::Error>>::default();
        let told = Arc::clone(&failure);
        let task = tokio::spawn(async move {
            if let Err(error) = tending.await {
                // Nothing else sets it.
                _ = told.set(error);
            }
            drop(presence);
        });
        Ok(Self { task, failure, _dropped_to_stop: sender })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Why nothing can come from the source any more.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.get()
    }
}

/// How many tasks look after sources; also those that were told to stop, while they have something to hand over.
#[derive(Debug, Default)]
pub(super) struct AtWork(watch::Sender<()>);

impl AtWork {
    pub(super) fn count(&self) -> usize {
        self.0.receiver_count()
    }

    /// Waits for the end of the last one. Cancel safe.
    pub(super) async fn nobody(&self) {
        self.0.closed().await;
    }
}

/// When a connection was last taken out of a queue that is another's to serve.
#[derive(Debug, Default)]
pub(super) struct LastRescue(AtomicU64);

impl LastRescue {
    fn note(&self) {
        self.0.store(board::now(), Ordering::Relaxed);
    }

    pub(super) fn elapsed(&self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}

/// Connections to one port that are taken and not handed over.
pub(super) struct Waiting {
    pub(super) port: PortId,
    pub(super) connections: Vec<Connection>,
}

/// Batches that are swept out of one source at most: more than a queue holds.
const MOST_SWEPT: usize = 4096;

/// Hands over what waits in `source` now, each connection after `mend` had it; returns what nobody can take.
pub(super) fn sweep(
    fd: BorrowedFd<'_>,
    source: Source,
    exchange: &Exchange,
    mend: impl Fn(BorrowedFd<'_>),
) -> Vec<Waiting> {
    let mut left = Vec::new();
    for _ in 0..MOST_SWEPT {
        match take(fd, source, exchange) {
            Ok(taken) => {
                taken.connections.iter().for_each(|connection| mend(connection.fd.as_fd()));
                left.push(hand_over(taken, exchange));
            }
            // A letter that makes no sense does not hide those behind it.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(_) => break,
        }
    }
    left.retain(|waiting| !waiting.connections.is_empty());
    left
}

/// How long a connection waits in its queue for a worker that is free, before one that is busy has to do.
const PATIENCE: Duration = Duration::from_millis(10);
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Hands over what comes, until it is stopped.
///
/// # Errors
/// Why nothing can come any more.
async fn tend(
    fd: AsyncFd<OwnedFd>,
    source: Source,
    exchange: Arc<Exchange>,
    last_rescue: Arc<LastRescue>,
    mut stop: Stop,
) -> io::Result<()> {
    let mut pause = SHORTEST_PAUSE;
    let mut waited = Duration::ZERO;
    let mut is_failing = false;
    loop {
        // Whatever the source does, others have their turn.
        consume_budget().await;
        let readable = tokio::select! {
            biased;
            () = stop.wait() => return Ok(()),
            readable = fd.readable() => readable,
        };
        let Ok(mut readable) = readable else { return Ok(()) };
        // Asked before what waits there is taken: tokio never forgets it, and such a socket is readable for ever.
        let is_over = readable.ready().is_read_closed();
        if source.has_taker(&exchange) {
            waited = Duration::ZERO;
        } else if waited < PATIENCE {
            // Better in the kernel's queue than in ours.
            waited += SHORTEST_PAUSE;
            stop.wait_at_most(SHORTEST_PAUSE).await;
            continue;
        }
        let taken = match take(fd.get_ref().as_fd(), source, &exchange) {
            Ok(taken) => taken,
            Err(error) if is_shortage(&error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "cannot take connections over; trying again until it works");
                }
                stop.wait_at_most(LONGEST_PAUSE).await;
                continue;
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock if is_over => return Err(Errno::ESHUTDOWN.into()),
                io::ErrorKind::WouldBlock => {
                    is_failing = false;
                    readable.clear_ready();
                    continue;
                }
                // A letter that makes no sense does not hide those behind it.
                io::ErrorKind::InvalidData => continue,
                _ => return Err(error),
            },
        };
        if source.slot().is_some() {
            last_rescue.note();
        }
        let left = hand_over(taken, &exchange);
        if left.connections.is_empty() {
            pause = SHORTEST_PAUSE;
            tokio::task::yield_now().await;
        } else {
            put_back(left, source, &exchange).await;
            stop.wait_at_most(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Source {
    /// Whether somebody can take what waits there.
    fn has_taker(self, exchange: &Exchange) -> bool {
        let now = board::now();
        let is_ready = |port, slot| exchange.readiness(slot, port, now) == Readiness::Ready;
        match self {
            Self::Shard(port, _) | Self::Shared(port) => {
                (0..exchange.mailboxes().len()).any(|slot| is_ready(port, slot))
            }
            // It may be for any port.
            Self::Mailbox(_) => true,
        }
    }
}

/// An error that passes when others give descriptors or memory back.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// Into a mailbox, as nobody can take it now: there it outlives whatever becomes of this task.
pub(super) async fn put_back(waiting: Waiting, source: Source, exchange: &Exchange) {
    let Waiting { port, mut connections } = hand_over(waiting, exchange);
    let slot = source.slot().unwrap_or_else(|| exchange.some_manned());
    let mut pause = SHORTEST_PAUSE;
    loop {
        connections = exchange.leave_with(slot, port, connections);
        if connections.is_empty() {
            return;
        }
        // It is full.
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        connections = hand_over(Waiting { port, connections }, exchange).connections;
    }
}

/// Takes up to a batch of connections.
///
/// # Errors
/// `WouldBlock` if there is none.
pub(super) fn take(fd: BorrowedFd<'_>, source: Source, exchange: &Exchange) -> io::Result<Waiting> {
    let port = match source {
        Source::Shard(port, _) | Source::Shared(port) => port,
        Source::Mailbox(slot) => {
            let letter = mailbox::receive(fd)?;
            for _ in &letter.connections {
                exchange.withdraw(slot, letter.counted_by());
            }
            return Ok(Waiting { port: letter.cover.port, connections: letter.connections });
        }
    };
    // The open file is shared with workers, and an inherited one with others: who of them makes it block must not stop us.
    os::set_nonblocking(fd)?;
    let mut connections = Vec::new();
    while connections.len() < BATCH {
        match os::accept(fd) {
            Ok((fd, client)) => connections.push(Connection { fd, client: Address::of_stream(&client) }),
            Err(error) if is_about_one_connection(&error) => {}
            Err(_) if !connections.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Waiting { port, connections })
}

/// Returns what nobody can take now.
fn hand_over(waiting: Waiting, exchange: &Exchange) -> Waiting {
    let Waiting { port, connections } = waiting;
    let mut outgoing = Outgoing::default();
    let mut left = Vec::new();
    let is_unplaced = exchange.dispatch().head_key().is_some();
    for connection in connections {
        match exchange.place_again(port, &connection.client) {
            Choice::There { slot, counted_by } => outgoing.push(slot, counted_by, connection),
            Choice::Here | Choice::Undecided => left.push(connection),
        }
    }
    left.extend(exchange.send(port, is_unplaced, outgoing));
    Waiting { port, connections: left }
}

/// Tells a task to stop.
struct Stop(oneshot::Receiver<()>);

impl Stop {
    /// Waits for the word; once it has come, this never waits again.
    async fn wait(&mut self) {
        if matches!(self.0.try_recv(), Err(TryRecvError::Empty)) {
            _ = (&mut self.0).await;
        }
    }

    async fn wait_at_most(&mut self, time: Duration) {
        _ = timeout(time, self.wait()).await;
    }
}
