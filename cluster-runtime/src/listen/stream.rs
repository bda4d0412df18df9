//! An accepted connection, and the count of those that are open (upgraded ones, such as WebSockets, among them).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// A connection that a [`Listener`](crate::Listener) accepted; reads and writes like any tokio stream.
///
/// The worker's drain waits for it: until it is dropped, or the grace period ends.
#[derive(Debug)]
pub struct Stream {
    tcp: TcpStream,
    _counted: Counted,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, streams: &Arc<Tally>) -> Self {
        Self { tcp, _counted: Tally::count(streams) }
    }

    /// The TCP connection itself, to set options on.
    #[must_use]
    pub const fn tcp(&self) -> Option<&TcpStream> {
        Some(&self.tcp)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
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

    /// Waits until none is alive.
    pub(crate) async fn none_left(&self) {
        loop {
            let notified = self.none_left.notified();
            if self.alive.load(Ordering::Acquire) == 0 {
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
