//! The mailbox of a slot: connections that others have accepted, as descriptors.
//!
//! A SEQPACKET socket pair that the primary keeps: what is in it outlives the worker that it was meant for, and its successor
//! takes it. Every worker has the sending ends of all mailboxes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{PoisonError, RwLock};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use super::condition::is_shut_down;
use super::{Address, PortId};
use crate::board::Tag;
use crate::ipc::codec;
use crate::os;

/// Connections in one letter at most: as many bytes of addresses as fit into a packet, and half of what a worker of few
/// descriptors can take at once.
pub(crate) const BATCH: usize = 16;
const LARGEST_LETTER: usize = 4096;

/// An accepted connection that belongs to no runtime yet.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) fd: OwnedFd,
    pub(crate) client: Address,
}

/// What goes with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cover {
    pub(crate) port: PortId,
    /// Whose count on the board includes them already, by [`Tag::number`].
    pub(crate) counted_by: u32,
    /// Whoever gets them has still to look which slot they belong to.
    pub(crate) is_unplaced: bool,
}

/// Connections on their way.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) cover: Cover,
    pub(crate) connections: Vec<Connection>,
}

/// The sending ends of all mailboxes, by slot. One that could not be received is missing.
#[derive(Debug, Default)]
pub(crate) struct Mailboxes(RwLock<Vec<Option<OwnedFd>>>);

/// Makes a mailbox: the sending and the receiving end.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Takes one letter, never waiting.
///
/// # Errors
/// `WouldBlock` when there is none; `InvalidData` when it cannot be read; `UnexpectedEof` when somebody has shut the mailbox down, so
/// that nothing will ever come.
pub(crate) fn receive(mailbox: BorrowedFd<'_>) -> io::Result<Letter> {
    let mut buffer = [0; LARGEST_LETTER];
    let packet = os::receive_packet(mailbox, &mut buffer)?;
    if packet.len == 0 && packet.fds.is_empty() && is_shut_down(mailbox) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let read: Result<(Cover, Vec<Address>), _> = codec::decode(&buffer[..packet.len]);
    let (cover, clients) = read.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if packet.fds.len() < clients.len() {
        let lost = clients.len() - packet.fds.len();
        tracing::error!(lost, "connections handed to this worker are lost: it has too many open files");
    }
    let connections = packet.fds.into_iter().zip(clients).map(|(fd, client)| Connection { fd, client });
    // Whoever reads from one that blocks would stand still with all that it serves; ours never do, but anybody can write.
    let connections = connections.filter(|connection| os::set_nonblocking(connection.fd.as_fd()).is_ok()).collect();
    Ok(Letter { cover, connections })
}

impl Letter {
    pub(crate) fn counted_by(&self) -> Tag {
        Tag::numbered(self.cover.counted_by)
    }
}

impl Mailboxes {
    /// Puts in the mailboxes of the slots from `first` on, in the place of those that were there.
    pub(crate) fn put(&self, first: usize, ends: impl IntoIterator<Item = OwnedFd>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (slot, end) in (first..).zip(ends) {
            if slot >= all.len() {
                all.resize_with(slot + 1, || None);
            }
            all[slot] = Some(end);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Hands connections, [`BATCH`] at most, over to `slot`; never waits. On success they are the slot's, on failure nothing has
    /// happened to them.
    pub(crate) fn send(&self, slot: usize, cover: Cover, connections: &[Connection]) -> io::Result<()> {
        let mut packet = Vec::with_capacity(64);
        let clients: Vec<&Address> = connections.iter().map(|connection| &connection.client).collect();
        codec::encode(&(cover, clients), &mut packet).map_err(io::Error::other)?;
        let fds: Vec<_> = connections.iter().map(|connection| connection.fd.as_fd()).collect();
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mailbox = all.get(slot).and_then(Option::as_ref).ok_or(io::ErrorKind::NotFound)?;
        os::send_packet(mailbox.as_fd(), &packet, &fds)
    }
}
