//! The user's primary function on its own thread and runtime, and the router that feeds it.
//!
//! Whatever the function does, block or panic, the supervisor on the main thread goes on.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{io, thread};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};

use super::Happening;
use super::event::Event;
use super::handle::{News, Primary, Shared};
use super::roster::Roster;
use crate::ipc::{LaneEnd, Message};
use crate::listen::Address;
use crate::run::PrimaryMain;
use crate::{Exit, WorkerId};

/// What the shell tells the user's thread.
#[derive(Debug)]
pub(super) enum Notice {
    Spawning(WorkerId),
    Forked(WorkerId),
    /// With the primary's end of its messages lane.
    Online(WorkerId, OwnedFd),
    Listening(WorkerId, Address),
    Ready(WorkerId),
    Exited(WorkerId, Exit),
    ReopenLogs,
    /// The last worker was reaped and none will come.
    Ended,
}

/// Starts the user's thread. Its end is told to the shell as [`Happening::FunctionEnded`].
pub(super) fn start<P, Up, Down>(
    function: P,
    roster: Arc<Roster>,
    stop: Arc<Notify>,
    shell: mpsc::Sender<Happening>,
) -> io::Result<mpsc::UnboundedSender<Notice>>
where
    P: PrimaryMain<Up, Down>,
    Up: Message,
    Down: Message,
{
    let (notices, heard) = mpsc::unbounded_channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let shared = Arc::new(Shared::new(roster, stop, shell));
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
            Notice::Online(worker, socket) => attach(&shared, worker, socket),
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

fn attach<Up: Message, Down: Message>(shared: &Arc<Shared<Up, Down>>, worker: WorkerId, socket: OwnedFd) {
    let Some(lane) = shared.lane_of(worker) else { return };
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
