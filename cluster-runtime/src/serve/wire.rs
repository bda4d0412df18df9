//! The bytes of a connection on their way between the socket and hyper.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::closed::HttpClosed;
use super::framing::{Framing, Stage};

/// A stream whose bytes are looked at.
#[derive(Debug)]
pub(super) struct Wire<IO> {
    io: IO,
    activity: Arc<Activity>,
    framing: Framing,
    /// Heads that were complete when last looked at.
    heads: u64,
    /// What was read to find out which protocol it is, and is to be read again.
    first: [u8; PREFACE.len()],
    read: u8,
    given: u8,
    is_over: bool,
}

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    pub(super) fn new(io: IO, activity: Arc<Activity>) -> Self {
        let first = [0; PREFACE.len()];
        Self { io, activity, framing: Framing::default(), heads: 0, first, read: 0, given: 0, is_over: false }
    }

    /// Whether the client speaks HTTP/2, which shows with its first bytes.
    pub(super) fn poll_is_http2(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let before = usize::from(self.read);
            if before == PREFACE.len() {
                return Poll::Ready(Ok(true));
            }
            let mut buffer = ReadBuf::new(&mut self.first[before..]);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
            let count = buffer.filled().len();
            let after = before + count;
            self.read = after as u8;
            if count == 0 || self.first[before..after] != PREFACE[before..after] {
                return Poll::Ready(Ok(false));
            }
            self.activity.note_head(true);
        }
    }

    /// Before hyper has it.
    pub(super) async fn say_farewell(mut self) {
        if self.activity.says_farewell() {
            _ = poll_fn(|context| self.poll_farewell(context)).await;
        }
    }

    fn note_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.activity.is_upgraded() {
            return Ok(());
        }
        self.activity.note_reading(false);
        if self.activity.is_http2() {
            return self.note_frames(bytes);
        }
        self.framing.feed(bytes);
        let stage = self.framing.stage();
        self.note_head(self.framing.heads(), stage == Stage::Head);
        self.activity.note_body(stage == Stage::Body);
        if self.framing.ambiguous() != 0 {
            self.activity.note_ambiguous(self.framing.ambiguous());
        }
        Ok(())
    }

    fn note_frames(&mut self, bytes: &[u8]) -> io::Result<()> {
        let activity = Arc::clone(&self.activity);
        let Some(mut streams) = activity.streams() else { return Ok(()) };
        let now = activity.now();
        let read = streams.read(bytes, now);
        let (heads, is_begun, is_awaited) = (streams.heads(), streams.has_half_a_head(), streams.awaits_any());
        drop(streams);
        self.note_head(heads, is_begun);
        if is_awaited {
            activity.expect_bodies(now);
        }
        read.map_err(|why| {
            activity.end(why);
            io::ErrorKind::ConnectionAborted.into()
        })
    }

    fn note_head(&mut self, heads: u64, is_begun: bool) {
        if heads != self.heads {
            self.heads = heads;
            // The one that is begun now is another one.
            self.activity.note_head(false);
        }
        self.activity.note_head(is_begun);
    }

    fn note_write<'a>(&self, mut count: usize, parts: impl Iterator<Item = &'a [u8]>) {
        let now = self.activity.now();
        if self.activity.is_blocked() {
            self.activity.unblock(now);
        }
        let Some(mut streams) = self.activity.streams() else { return self.activity.note_write(now) };
        for part in parts {
            let written = &part[..part.len().min(count)];
            count -= written.len();
            if streams.wrote(written, now) {
                HttpClosed::HeadTooLarge.count();
            }
        }
        let is_awaited = streams.awaits_any();
        drop(streams);
        if is_awaited {
            self.activity.expect_bodies(now);
        }
    }

    /// Tells a client that it was too slow, and hyper that it has gone.
    fn poll_farewell(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_over {
            self.is_over = true;
            // There is room for it in all but a socket that is full, and then it is not waited for.
            if let Poll::Ready(Ok(_)) = Pin::new(&mut self.io).poll_write(context, TOO_SLOW) {
                _ = Pin::new(&mut self.io).poll_flush(context);
                _ = Pin::new(&mut self.io).poll_shutdown(context);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What is to be written is not waited for any more.
    fn is_over(&self) -> bool {
        self.is_over || self.activity.says_farewell()
    }

    fn poll_progress<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_pending() {
            self.activity.block();
        }
        poll
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.activity.says_farewell() {
            return this.poll_farewell(context);
        }
        let before = buf.filled().len();
        if this.given < this.read {
            let first = this.first;
            let again = &first[usize::from(this.given)..usize::from(this.read)];
            let count = again.len().min(buf.remaining());
            buf.put_slice(&again[..count]);
            this.given += count as u8;
            if buf.remaining() > 0 {
                // The rest of the head, as a rule. An error comes again, and so does the end.
                _ = Pin::new(&mut this.io).poll_read(context, buf);
            }
        } else if Pin::new(&mut this.io).poll_read(context, buf)?.is_pending() {
            this.activity.note_reading(true);
            return Poll::Pending;
        }
        Poll::Ready(this.note_read(&buf.filled()[before..]))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_over() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let poll = Pin::new(&mut self.io).poll_write(context, buf);
        let count = ready!(self.poll_progress(poll))?;
        self.note_write(count, [buf].into_iter());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        let poll = Pin::new(&mut self.io).poll_flush(context);
        ready!(self.poll_progress(poll))?;
        if self.activity.is_blocked() {
            self.activity.unblock(self.activity.now());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_shutdown(context);
        self.poll_progress(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_over() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let poll = Pin::new(&mut self.io).poll_write_vectored(context, bufs);
        let count = ready!(self.poll_progress(poll))?;
        self.note_write(count, bufs.iter().map(|part| &**part));
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
