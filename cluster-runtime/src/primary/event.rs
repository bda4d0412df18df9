//! What the user's primary function hears.

use crate::listen::Address;
use crate::{Exit, WorkerId};

/// Something that happened in the cluster; from [`Primary::next`](crate::Primary::next).
///
/// But for [`ReopenLogs`](Self::ReopenLogs), each is about a worker. Each comes once, and for each worker in this order:
///
/// 0. [`Spawning`](Self::Spawning): always first.
/// 1. [`Forked`](Self::Forked): unless it could not be spawned.
/// 2. [`Online`](Self::Online): before any message. A worker that fails early never comes so far.
/// 3. [`Listening`](Self::Listening) for each listener, [`Ready`](Self::Ready), [`Message`](Self::Message): messages in the
///    order in which they were sent, but in no fixed order with the other two, as they travel apart.
/// 4. [`Disconnected`](Self::Disconnected), if it was ever online: its process has ended and everything that it sent has been
///    delivered.
/// 5. [`Exited`](Self::Exited): always last.
///
/// Between different workers there is no fixed order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<Up> {
    /// It is about to be spawned.
    Spawning(WorkerId),
    /// The process exists. What is [sent](crate::PrimaryHandle::send) to it from now on waits for it.
    Forked(WorkerId),
    /// Its runtime is up and speaks with the primary; its `main` starts.
    Online(WorkerId),
    /// It listens on this address, with the real port number.
    Listening(WorkerId, Address),
    /// It serves.
    Ready(WorkerId),
    /// It sent this.
    Message(WorkerId, Up),
    /// Its messages have ended.
    Disconnected(WorkerId),
    /// The primary is about to become another program, in the same process: the last event. What has to go on there, give to
    /// [`carry`](crate::PrimaryHandle::carry), and return; the next program's primary function starts then, and hears of every worker
    /// from [`Forked`](Self::Forked) on as if it were new. Messages that nobody has taken wait for it.
    Upgrading,
    /// It was reaped, or could not be spawned; why and how it ended.
    Exited(WorkerId, Exit),
    /// USR1 came to the primary: log files were renamed, so open those anew that this function writes. The workers are told the same.
    ReopenLogs,
}
