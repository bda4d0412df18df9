//! The user's primary function on its own thread and runtime, and the router that feeds it.
//!
//! Whatever the function does, block or panic, the supervisor on the main thread goes on.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc, oneshot};

use super::Happening;
use super::event::Event;
use super::handle::Primary;
use super::roster::Roster;
use super::shared::{Leave, News, Shared};
use crate::ipc::{LaneEnd, Limits, Message, Suspended};
use crate::listen::Address;
use crate::run::PrimaryMain;
use crate::{Exit, WorkerId, os};

/// What the shell tells the user's thread.
#[derive(Debug)]
pub(super) enum Notice {
    Spawning(WorkerId),
    Forked(WorkerId),
    /// With the primary's end of its messages lane.
    Online(WorkerId, OwnedFd),
    /// It lives since before the upgrade, and this is where its messages stand.
    Continued(WorkerId, Suspended),
    /// The same for one that was online; without a socket if its lane had ended.
    OnlineAgain(WorkerId, Option<OwnedFd>),
    /// One that is gone since before the upgrade, and has left these messages.
    Departed(WorkerId, Suspended, Exit),
    Listening(WorkerId, Address),
    Ready(WorkerId),
    Exited(WorkerId, Exit),
    ReopenLogs,
    /// The primary is about to become another program.
    Upgrading,
    /// No next program comes; the function has left already.
    GoOn,
    /// Take all lanes apart; nothing follows.
    Suspend(oneshot::Sender<io::Result<LeftBehind>>),
    /// The last worker was reaped and none will come.
    Ended,
}

/// What the user's thread leaves for the next program.
#[derive(Debug)]
pub(super) struct LeftBehind {
    pub(super) lanes: BTreeMap<WorkerId, (Suspended, Option<OwnedFd>)>,
    pub(super) departed: Vec<(WorkerId, Suspended, Exit)>,
    pub(super) carried: Option<Bytes>,
}

/// What the user's thread has in common with the shell beside the notices.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) roster: Arc<Roster>,
    pub(super) stop: Arc<Notify>,
    pub(super) shell: mpsc::Sender<Happening>,
    pub(super) leave: Arc<Leave>,
    /// From the program before.
    pub(super) carried: Option<Bytes>,
    /// The most bytes of a message or an answer.
    pub(super) limits: Limits,
}

/// How long a lane may take to be taken apart, and whoever has the events to let go of them.
const TO_SUSPEND: Duration = Duration::from_secs(5);

/// Starts the user's thread. Its end is told to the shell as [`Happening::FunctionEnded`].
pub(super) fn start<P, Up, Down>(function: P, common: Common) -> io::Result<mpsc::UnboundedSender<Notice>>
where
    P: PrimaryMain<Up, Down>,
    Up: Message,
    Down: Message,
{
    let (notices, heard) = mpsc::unbounded_channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let shared = Arc::new(Shared::new(common));
    thread::Builder::new().name("cluster-primary".into()).spawn(move || live(&runtime, function, &shared, heard))?;
    Ok(notices)
}

fn live<P, Up, Down>(
    runtime: &Runtime,
    function: P,
    shared: &Arc<Shared<Up, Down>>,
    notices: mpsc::UnboundedReceiver<Notice>,
) where
    P: PrimaryMain<Up, Down>,
    Up: Message,
    Down: Message,
{
    let routing = runtime.spawn(route(Arc::clone(shared), notices));
    let primary = Primary::new(Arc::clone(shared), runtime.handle().clone());
    // The runtime survives a panic of the future that it blocks on; the function's own state is gone with it.
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(function.start(primary))));
    let outcome = ended.unwrap_or_else(|panic| Err(format!("it panicked: {}", panic_text(panic.as_ref()))));
    // A shell that is gone has ended the process, and this thread with it.
    _ = shared.shell().blocking_send(Happening::FunctionEnded(outcome));
    // Routing goes on, as does taking what workers send.
    _ = runtime.block_on(routing);
    runtime.block_on(std::future::pending::<()>());
}

/// Turns what the shell tells into what the function hears, and attaches each worker's lane to its socket.
async fn route<Up: Message, Down: Message>(
    shared: Arc<Shared<Up, Down>>,
    mut notices: mpsc::UnboundedReceiver<Notice>,
) {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Spawning(worker) => shared.tell(News::Event(Event::Spawning(worker))),
            Notice::Forked(worker) => {
                shared.open_lane(worker);
                shared.tell(News::Event(Event::Forked(worker)));
            }
            Notice::Online(worker, socket) => attach(&shared, worker, Some(socket)),
            Notice::Continued(worker, suspended) => {
                shared.continue_lane(worker, suspended);
                shared.tell(News::Event(Event::Forked(worker)));
            }
            Notice::OnlineAgain(worker, socket) => attach(&shared, worker, socket),
            Notice::Departed(worker, suspended, exit) => {
                shared.tell(News::Event(Event::Forked(worker)));
                if let Some(lane) = shared.resume(suspended) {
                    lane.peer_exited();
                    shared.tell(News::Online(worker, lane));
                }
                shared.tell(News::Exited(worker, exit));
            }
            Notice::Upgrading => shared.tell(News::Upgrading),
            // Who does not wait for it any more does not want it.
            Notice::Suspend(answer) if answer.is_closed() => {}
            Notice::Suspend(answer) => {
                // This is the user's thread. From here on only the main one takes signals, so that they wait for the next program.
                os::leave_signals_to_main();
                let left = leave_behind(&shared).await;
                let is_done = left.is_ok();
                if answer.send(left).is_ok() && is_done {
                    return;
                }
                os::take_signals_again();
            }
            Notice::GoOn => shared.drain_intake(),
            Notice::Listening(worker, address) => shared.tell(News::Event(Event::Listening(worker, address))),
            Notice::Ready(worker) => shared.tell(News::Event(Event::Ready(worker))),
            Notice::Exited(worker, exit) => {
                if let Some(lane) = shared.remove_lane(worker) {
                    lane.peer_exited();
                }
                shared.tell(News::Exited(worker, exit));
            }
            Notice::ReopenLogs => shared.tell(News::Event(Event::ReopenLogs)),
            Notice::Ended => shared.tell(News::Ended),
        }
    }
}

/// # Errors
/// Where a lane cannot be taken apart in time; those that were not yet go on.
async fn leave_behind<Up: Message, Down: Message>(shared: &Shared<Up, Down>) -> io::Result<LeftBehind> {
    let held_up = |_| io::Error::new(io::ErrorKind::TimedOut, "the primary function's runtime is held up");
    let mut left = LeftBehind { lanes: BTreeMap::new(), departed: Vec::new(), carried: None };
    for (worker, lane, exit) in shared.departed() {
        let (suspended, _) = lane.suspend(TO_SUSPEND).await.map_err(held_up)?;
        left.departed.push((worker, suspended, exit));
    }
    let mut lanes = shared.take_lanes().into_iter();
    while let Some((worker, lane)) = lanes.next() {
        match lane.suspend(TO_SUSPEND).await {
            Ok((suspended, socket)) => _ = left.lanes.insert(worker, (suspended, socket.map(OwnedFd::from))),
            Err(elapsed) => {
                lanes.chain([(worker, lane)]).for_each(|(worker, lane)| shared.put_lane_back(worker, lane));
                return Err(held_up(elapsed));
            }
        }
    }
    left.carried = shared.take_carried();
    Ok(left)
}

fn attach<Up: Message, Down: Message>(shared: &Arc<Shared<Up, Down>>, worker: WorkerId, socket: Option<OwnedFd>) {
    let Some(lane) = shared.lane_of(worker) else { return };
    let Some(socket) = socket else { return shared.tell(News::Online(worker, lane)) };
    let driving = lane.drive(UnixStream::from(socket));
    let shell = shared.shell().clone();
    tokio::spawn(async move {
        if let LaneEnd::Violation(text) = driving.await {
            // A shell that is gone has ended the process.
            _ = shell.send(Happening::Broken(worker, text)).await;
        }
    });
    shared.tell(News::Online(worker, lane));
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}
