//! The socket of a lane, as its driver uses it.
//!
//! Whoever asks for news of both directions, as tokio's own streams do, is also woken when the other side has read something. Where
//! there are several cores that is welcome: the core of one who waits for an answer is awake by the time that the answer comes (a call
//! takes 40 µs instead of 52 on an idle virtual machine with two). On a single core it is a change of processes for nothing, just
//! before the answer is made (17 µs instead of 14). So there, room to write is asked for only while there is none.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::thread::available_parallelism;

use bytes::BufMut;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::os::{self, Received};

pub(super) struct Socket {
    /// Always there, unless the runtime has refused to change what it asks for.
    registered: Option<AsyncFd<OwnedFd>>,
    /// Whether it asks for room to write, too.
    asks_for_room: bool,
    asks_always: bool,
}

static HAS_CORES: LazyLock<bool> = LazyLock::new(|| available_parallelism().is_ok_and(|cores| cores.get() > 1));

impl Socket {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        Self::asking(stream, *HAS_CORES)
    }

    fn asking(stream: UnixStream, always: bool) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let registered = Some(os::register(stream.into(), interest(always))?);
        Ok(Self { registered, asks_for_room: always, asks_always: always })
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
            let mut room = if self.asks_for_room { Some(ready!(socket.poll_write_ready(cx))?) } else { None };
            match (os::send_stream(socket.as_fd(), parts, fds), &mut room) {
                (Err(error), Some(room)) if error.kind() == ErrorKind::WouldBlock => room.clear_ready(),
                (Err(error), None) if error.kind() == ErrorKind::WouldBlock => self.ask_for_room(true)?,
                (written, _) => return Poll::Ready(written),
            }
        }
    }

    /// There is nothing more to be written for now.
    pub(super) fn has_written(&mut self) -> io::Result<()> {
        if self.asks_for_room && !self.asks_always { self.ask_for_room(false) } else { Ok(()) }
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
    fn ask_for_room(&mut self, asks_for_room: bool) -> io::Result<()> {
        if let Some(registered) = self.registered.take() {
            self.registered = Some(os::register(registered.into_inner(), interest(asks_for_room))?);
        }
        self.asks_for_room = asks_for_room;
        Ok(())
    }
}

fn interest(asks_for_room: bool) -> Interest {
    if asks_for_room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn one_that_was_full_is_told_of_room_however_it_asks() {
        for always in [true, false] {
            let (mut socket, mut peer) = pair(always);
            for _ in 0..3 {
                let written = fill(&mut socket).await;
                peer.read_exact(&mut vec![0; written]).unwrap();
                let parts = [IoSlice::new(b"more")];
                let written = timeout(PATIENCE, poll_fn(|cx| socket.poll_write(cx, &parts, &[]))).await.unwrap();
                assert_eq!(written.unwrap(), 4);
                socket.has_written().unwrap();
                assert_eq!(socket.asks_for_room, always);
                peer.read_exact(&mut [0; 4]).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn what_has_come_while_it_asked_anew_is_told() {
        let (mut socket, mut peer) = pair(false);
        fill(&mut socket).await;
        peer.write_all(b"text").unwrap();
        let mut space = Vec::with_capacity(100);
        for _ in 0..2 {
            socket.ask_for_room(!socket.asks_for_room).unwrap();
        }
        let read = timeout(PATIENCE, poll_fn(|cx| socket.poll_read(cx, &mut space))).await.unwrap();
        assert_eq!((read.unwrap().len, &space[..]), (4, &b"text"[..]));
    }

    #[tokio::test]
    async fn a_full_one_hears_that_its_peer_is_gone() {
        for always in [true, false] {
            let (mut socket, peer) = pair(always);
            fill(&mut socket).await;
            drop(peer);
            let parts = [IoSlice::new(b"more")];
            let written = timeout(PATIENCE, poll_fn(|cx| socket.poll_write(cx, &parts, &[]))).await.unwrap();
            assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
        }
    }

    fn pair(always: bool) -> (Socket, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Socket::asking(one, always).unwrap(), other)
    }

    /// Writes until the kernel takes no more; returns how much that was.
    async fn fill(socket: &mut Socket) -> usize {
        let bytes = [7; 4096];
        let parts = [IoSlice::new(&bytes)];
        let mut total = poll_fn(|cx| socket.poll_write(cx, &parts, &[])).await.unwrap();
        poll_fn(|cx| {
            while let Poll::Ready(written) = socket.poll_write(cx, &parts, &[]) {
                total += written.unwrap();
            }
            Poll::Ready(())
        })
        .await;
        assert!(total > 4096 && socket.asks_for_room);
        total
    }
}
