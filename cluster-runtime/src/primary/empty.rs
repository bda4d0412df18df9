//! The end of a socket whose queue is the primary's to empty.
//!
//! When the cluster stops, that is each port from which the primary accepts for all workers: those that still look into their mailboxes
//! serve what was in it. While it runs, it is a shard that another has replaced.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::tend::{Source, Waiting, put_back, take};
use crate::listen::condition::Condition;
use crate::listen::exchange::Exchange;
use crate::listen::{PortId, drop_syn};
use crate::os;

/// How a port is closed to newcomers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// The kernel drops what would open a connection; handshakes under way complete.
    DropSyn,
    /// Connecting fails at once.
    ShutDown,
    /// It stays open, as another goes on using the socket.
    Leave,
}

/// Ports whose queues are empty for good.
#[derive(Debug, Default)]
pub(super) struct Emptied {
    ports: Mutex<Vec<PortId>>,
    more: Notify,
}

impl Emptied {
    /// Completes when there are more. Cancel safe.
    pub(super) async fn more(&self) {
        self.more.notified().await;
    }

    pub(super) fn take(&self) -> Vec<PortId> {
        std::mem::take(&mut *self.ports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, port: PortId) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).push(port);
        self.more.notify_one();
    }
}

/// How long the queue of a TCP port must be empty: time for a handshake under way to complete.
const HANDSHAKE: Duration = Duration::from_millis(100);
/// The pause while no mailbox has room, or there is no descriptor.
const PAUSE: Duration = Duration::from_millis(10);

/// Starts to empty the queue of `port`, until the deadline at the latest. Must be called inside the runtime.
pub(super) fn start(
    socket: BorrowedFd<'_>,
    port: PortId,
    door: Door,
    exchange: &Arc<Exchange>,
    emptied: &Arc<Emptied>,
    deadline: Instant,
) -> io::Result<()> {
    match door {
        Door::DropSyn => drop_syn(socket),
        Door::ShutDown => _ = SockRef::from(&socket).shutdown(Shutdown::Read),
        Door::Leave => {}
    }
    let socket = os::register(socket.try_clone_to_owned()?, Interest::READABLE)?;
    let (exchange, emptied) = (Arc::clone(exchange), Arc::clone(emptied));
    tokio::spawn(async move {
        _ = timeout_at(deadline, empty(&socket, port, door, &exchange)).await;
        drop(socket);
        emptied.add(port);
    });
    Ok(())
}

/// Looks after a shard that another has replaced, until no handshake can be under way, and closes it then. The kernel may still choose it
/// meanwhile. What comes has inherited what was `altered`.
pub(super) fn retire(
    shard: OwnedFd,
    port: PortId,
    slot: usize,
    condition: Condition,
    altered: Vec<&'static str>,
    exchange: &Arc<Exchange>,
) {
    let Ok(shard) = os::register(shard, Interest::READABLE) else { return };
    let exchange = Arc::clone(exchange);
    tokio::spawn(async move {
        let socket = SockRef::from(shard.get_ref());
        let deadline = Instant::now() + HANDSHAKE;
        while let Ok(Ok(mut readable)) = timeout_at(deadline, shard.readable()).await {
            if !hand_on(&shard, port, slot, &condition, &altered, &exchange).await {
                break;
            }
            readable.clear_ready();
        }
        drop_syn(shard.get_ref().as_fd());
        hand_on(&shard, port, slot, &condition, &altered, &exchange).await;
        // Closing is not enough: a worker may still have it.
        _ = socket.shutdown(Shutdown::Both);
    });
}

/// Hands on what waits in such a shard; `false` if it does not even listen.
async fn hand_on(
    shard: &AsyncFd<OwnedFd>,
    port: PortId,
    slot: usize,
    condition: &Condition,
    altered: &[&str],
    exchange: &Exchange,
) -> bool {
    loop {
        match take(shard.get_ref().as_fd(), Source::Shard(port, slot), exchange) {
            Ok(taken) => {
                taken.connections.iter().for_each(|connection| condition.give_to(connection.fd.as_fd(), altered));
                put_back(taken, Source::Shard(port, slot), exchange).await;
            }
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

async fn empty(socket: &AsyncFd<OwnedFd>, port: PortId, door: Door, exchange: &Exchange) {
    loop {
        let taken = match take(socket.get_ref().as_fd(), Source::Shared(port), exchange) {
            Ok(taken) => taken,
            Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => {
                sleep(PAUSE).await;
                continue;
            }
            // A Unix socket that is shut down stays readable, and accept(2) does not say that nothing more can come.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && door == Door::DropSyn => {
                let arrival = async { socket.readable().await.map(|mut readable| readable.clear_ready()) };
                match timeout(HANDSHAKE, arrival).await {
                    Ok(Ok(())) => continue,
                    // One may have come between the look and the wait.
                    Ok(Err(_)) | Err(_) => match take(socket.get_ref().as_fd(), Source::Shared(port), exchange) {
                        Ok(taken) => taken,
                        Err(_) => return,
                    },
                }
            }
            Err(_) => return,
        };
        deliver(taken, exchange).await;
    }
}

/// Puts connections into the mailboxes of workers that still look.
async fn deliver(taken: Waiting, exchange: &Exchange) {
    let Waiting { port, mut connections } = taken;
    loop {
        let receivers = exchange.last_receivers(port);
        for slot in &receivers {
            connections = exchange.leave_with(*slot, port, connections);
        }
        if connections.is_empty() {
            return;
        }
        if receivers.is_empty() {
            let lost = connections.len();
            tracing::warn!(lost, "connections are closed unserved: no worker is left to take them over");
            return;
        }
        sleep(PAUSE).await;
    }
}
