//! An accepted connection, and the count of those that are open (upgraded ones, such as WebSockets, among them).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

use super::Address;
use super::patience::{Direction, Patience};
use super::reception::Held;

/// A connection that a [`Listener`](crate::Listener) accepted; reads and writes like any tokio stream.
///
/// The worker's drain waits for it: until it is dropped, or the grace period ends.
#[derive(Debug)]
pub struct Stream {
    io: Io,
    patience: Option<Box<Patience>>,
    _held: Held,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Must be called inside a tokio runtime.
    pub(super) fn new(fd: OwnedFd, client: &Address, held: Held) -> io::Result<Self> {
        let io = match client {
            Address::Tcp(_) | Address::Udp(_) => Io::Tcp(TcpStream::from_std(fd.into())?),
            Address::Unix(_) | Address::Abstract(_) | Address::Unnamed => Io::Unix(UnixStream::from_std(fd.into())?),
        };
        Ok(Self { io, patience: None, _held: held })
    }

    /// From here on a read or a write that waits fails with [`TimedOut`](io::ErrorKind::TimedOut) once nothing has come or gone over the
    /// connection for so long: a client that is silent, or takes nothing, is let go. Without it there is no limit.
    ///
    /// ```no_run
    /// # async fn f(listener: cluster::Listener) -> std::io::Result<()> {
    /// let (mut stream, _client) = listener.accept().await?;
    /// stream.set_timeout(std::time::Duration::from_secs(60));
    /// # Ok(()) }
    /// ```
    ///
    /// A server that waits for its client to close while a handler is at work waits, too: so choose a time that is longer than any handler
    /// takes. [`Http`](crate::Http) needs none of this, and knows the difference.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn set_timeout(&mut self, time: Duration) {
        self.patience = Some(Box::new(Patience::new(time)));
    }

    /// The TCP connection itself, to set options on; `None` on a Unix socket.
    #[must_use]
    pub const fn tcp(&self) -> Option<&TcpStream> {
        match &self.io {
            Io::Tcp(tcp) => Some(tcp),
            Io::Unix(_) => None,
        }
    }

    /// The connection of a Unix socket itself, to ask who the client is; `None` on TCP.
    #[must_use]
    pub const fn unix(&self) -> Option<&UnixStream> {
        match &self.io {
            Io::Tcp(_) => None,
            Io::Unix(unix) => Some(unix),
        }
    }
}

impl Stream {
    /// The connection as a plain descriptor, to be sent to another process as an [`Fd`](crate::Fd) for instance. It is not counted as open
    /// here any more, and the drain does not wait for it.
    ///
    /// # Errors
    /// When the runtime cannot let go of it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(match self.io {
            Io::Tcp(tcp) => tcp.into_std()?.into(),
            Io::Unix(unix) => unix.into_std()?.into(),
        })
    }
}

impl Stream {
    #[inline]
    fn judge<T>(
        &mut self,
        direction: Direction,
        poll: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match &mut self.patience {
            None => poll,
            Some(patience) => patience.judge(direction, poll, context),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.io {
            Io::Tcp(tcp) => tcp.as_fd(),
            Io::Unix(unix) => unix.as_fd(),
        }
    }
}

/// Does the same with whichever kind it is.
macro_rules! with {
    ($stream:expr, $io:ident => $do:expr) => {
        match &mut $stream.io {
            Io::Tcp($io) => $do,
            Io::Unix($io) => $do,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = with!(self, io => Pin::new(io).poll_read(cx, buf));
        self.judge(Direction::Read, poll, cx)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = with!(self, io => Pin::new(io).poll_write(cx, buf));
        self.judge(Direction::Write, poll, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = with!(self, io => Pin::new(io).poll_shutdown(cx));
        self.judge(Direction::Write, poll, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = with!(self, io => Pin::new(io).poll_write_vectored(cx, bufs));
        self.judge(Direction::Write, poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(tcp) => tcp.is_write_vectored(),
            Io::Unix(unix) => unix.is_write_vectored(),
        }
    }
}

/// How many of something are alive, and a way to wait for none.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    alive: AtomicUsize,
    none_left: Notify,
}

/// One that is alive, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Tally>);

impl Tally {
    pub(crate) fn count(tally: &Arc<Self>) -> Counted {
        tally.alive.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(tally))
    }

    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    /// Waits until none is alive.
    pub(crate) async fn none_left(&self) {
        loop {
            let notified = self.none_left.notified();
            if self.alive() == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}
