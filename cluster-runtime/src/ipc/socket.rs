//! The socket of a lane, as its driver uses it.
//!
//! tokio's own streams ask for news of both directions, and so wake up whenever the other side has read something, on top of whenever
//! there is something to be done; and the one that pays for that is the other side, which was about to answer. This one asks for
//! room to write only while there is none.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::os::{self, Received};

pub(super) struct Socket {
    /// Always there, unless the runtime has refused to change what it asks for.
    registered: Option<AsyncFd<OwnedFd>>,
    is_full: bool,
}

impl Socket {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let registered = os::register(stream.into(), Interest::READABLE)?;
        Ok(Self { registered: Some(registered), is_full: false })
    }

    /// Writes what the kernel takes of it, with the descriptors along with the first byte.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let socket = self.registered()?;
            let mut room = if self.is_full { Some(ready!(socket.poll_write_ready(cx))?) } else { None };
            match (os::send_stream(socket.as_fd(), parts, fds), &mut room) {
                (Err(error), Some(room)) if error.kind() == ErrorKind::WouldBlock => room.clear_ready(),
                (Err(error), None) if error.kind() == ErrorKind::WouldBlock => self.set_full(true)?,
                (written, _) => return Poll::Ready(written),
            }
        }
    }

    /// There is nothing more to be written for now.
    pub(super) fn has_written(&mut self) -> io::Result<()> {
        if self.is_full { self.set_full(false) } else { Ok(()) }
    }

    /// Reads what there is room for.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, space: &mut impl BufMut) -> Poll<io::Result<Received>> {
        let socket = self.registered()?;
        loop {
            let mut readable = ready!(socket.poll_read_ready(cx))?;
            match os::receive_stream(socket.as_fd(), space) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => readable.clear_ready(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(received) if received.is_all() => {
                    // What comes next is waited for without asking whether it is there.
                    readable.clear_ready();
                    return Poll::Ready(Ok(received));
                }
                received => return Poll::Ready(received),
            }
        }
    }

    pub(super) fn into_std(self) -> io::Result<UnixStream> {
        self.registered.map(|it| it.into_inner().into()).ok_or_else(|| ErrorKind::NotConnected.into())
    }

    fn registered(&self) -> io::Result<&AsyncFd<OwnedFd>> {
        self.registered.as_ref().ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Registers it anew, which loses nothing: the kernel tells at once what is the case.
    fn set_full(&mut self, is_full: bool) -> io::Result<()> {
        let interest = if is_full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        if let Some(registered) = self.registered.take() {
            self.registered = Some(os::register(registered.into_inner(), interest)?);
        }
        self.is_full = is_full;
        Ok(())
    }
}
