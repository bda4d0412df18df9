//! The mailbox of a slot: connections that others have accepted, as descriptors.
//!
//! A SEQPACKET socket pair that the primary keeps: what is in it outlives the worker that it was meant for, and its successor
//! takes it. Every worker has the sending ends of all mailboxes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

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
pub(crate) struct Mailboxes {
    ends: RwLock<Vec<Option<OwnedFd>>>,
    /// A mailbox was found shut down since this was last asked.
    is_broken: AtomicBool,
    broken: Notify,
}

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
    if packet.len == 0 && packet.fds.is_empty() {
        // A letter without anything in it looks the same, and any worker can send one.
        let end = if is_shut_down(mailbox) { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
        return Err(end.into());
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
        let mut all = self.ends.write().unwrap_or_else(PoisonError::into_inner);
        for (slot, end) in (first..).zip(ends) {
            if slot >= all.len() {
                all.resize_with(slot + 1, || None);
            }
            all[slot] = Some(end);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Hands connections, [`BATCH`] at most, over to `slot`; never waits. On success they are the slot's, on failure nothing has
    /// happened to them.
    pub(crate) fn send(&self, slot: usize, cover: Cover, connections: &[Connection]) -> io::Result<()> {
        let mut packet = Vec::with_capacity(64);
        let clients: Vec<&Address> = connections.iter().map(|connection| &connection.client).collect();
        codec::encode(&(cover, clients), &mut packet).map_err(io::Error::other)?;
        let fds: Vec<_> = connections.iter().map(|connection| connection.fd.as_fd()).collect();
        let all = self.ends.read().unwrap_or_else(PoisonError::into_inner);
        let mailbox = all.get(slot).and_then(Option::as_ref).ok_or(io::ErrorKind::NotFound)?;
        os::send_packet(mailbox.as_fd(), &packet, &fds).inspect_err(|error| {
            if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                self.is_broken.store(true, Ordering::Relaxed);
                self.broken.notify_one();
            }
        })
    }

    /// Completes when a mailbox is found shut down. Cancel safe.
    pub(crate) async fn broken(&self) {
        self.broken.notified().await;
    }

    /// Whether one was found shut down since this was last asked.
    pub(crate) fn take_broken(&self) -> bool {
        self.is_broken.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_letter_is_not_the_end_of_a_mailbox_and_a_shutdown_is() {
        let (sender, mailbox) = pair().unwrap();
        let kind = || receive(mailbox.as_fd()).map(|_| ()).map_err(|error| error.kind());
        os::send_packet(sender.as_fd(), &[], &[]).unwrap();
        assert_eq!(kind(), Err(io::ErrorKind::InvalidData));
        assert_eq!(kind(), Err(io::ErrorKind::WouldBlock));
        socket2::SockRef::from(&sender).shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(kind(), Err(io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_mailbox_that_is_found_shut_down_is_told_once() {
        let (sender, mailbox) = pair().unwrap();
        let mailboxes = Mailboxes::default();
        mailboxes.put(0, [sender]);
        let cover = Cover { port: PortId(0), counted_by: 0, is_unplaced: false };
        mailboxes.send(0, cover, &[]).unwrap();
        assert!(!mailboxes.take_broken());
        socket2::SockRef::from(&mailbox).shutdown(std::net::Shutdown::Read).unwrap();
        assert_eq!(mailboxes.send(0, cover, &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(mailboxes.take_broken() && !mailboxes.take_broken());
    }
}
