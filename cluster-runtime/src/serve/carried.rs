//! A connection that came by another way than a listener of ours.

use std::any::Any;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::listen::{Address, Counted, Stream, Tally};

/// Counted from its first moment to its last, so that a drain waits for it, also after an upgrade.
pub(super) struct Carried<IO> {
    io: IO,
    _counted: Counted,
}

impl<IO> Carried<IO> {
    pub(super) fn new(io: IO, tally: &Arc<Tally>) -> Self {
        Self { io, _counted: Tally::count(tally) }
    }
}

/// The client's address, where the stream is a plain socket.
pub(super) fn peer_of<IO: 'static>(stream: &IO) -> Address {
    // A client that is gone already has no address any more.
    let peer = plain(stream).and_then(|socket| SockRef::from(&socket).peer_addr().ok());
    peer.map_or(Address::Unnamed, |peer| Address::of_stream(&peer))
}

/// The socket that the stream is; `None` where something lies between, which may hold bytes of its own.
pub(super) fn plain<IO: 'static>(stream: &IO) -> Option<BorrowedFd<'_>> {
    let stream: &dyn Any = stream;
    let ours = || stream.downcast_ref().map(|stream: &Stream| stream.as_fd());
    let tcp = || stream.downcast_ref().map(|tcp: &TcpStream| tcp.as_fd());
    let unix = || stream.downcast_ref().map(|unix: &UnixStream| unix.as_fd());
    ours().or_else(tcp).or_else(unix)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Carried<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Carried<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_client_of_a_plain_socket_is_known_and_of_anything_else_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, peer) = listener.accept().await.unwrap();
        assert_eq!(peer_of(&served), Address::Tcp(peer));
        assert_eq!(peer_of(&client), Address::Tcp(listener.local_addr().unwrap()));
        assert_eq!(peer_of(&UnixStream::pair().unwrap().0), Address::Unnamed);
        assert_eq!(peer_of(&tokio::io::duplex(1).0), Address::Unnamed);
    }

    #[tokio::test]
    async fn it_counts_until_it_is_dropped() {
        let tally = Arc::default();
        let carried = Carried::new(tokio::io::duplex(1).0, &tally);
        assert_eq!(tally.alive(), 1);
        drop(carried);
        tally.none_left().await;
    }
}
