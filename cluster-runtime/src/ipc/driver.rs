//! Moves the bytes of one lane: output buffer → socket, socket → inbox.
//!
//! One future does both, and neither direction waits for the other: two peers that flood each other keep moving.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read};
use std::os::unix::net::UnixStream as StdStream;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;

use super::LaneEnd;
use super::frame::{Deframer, Part, Violation, WINDOW};
use super::reply::Answer;
use super::shared::{Core, Order};
use super::suspend::Carried;

/// After this many rounds of writing and reading other tasks of the thread get their turn.
const ROUNDS: usize = 16;

/// Attaches a lane to its socket and moves its bytes until it has ended.
pub(super) fn drive(core: Arc<Core>, socket: StdStream) -> impl Future<Output = LaneEnd> + Send {
    let carried = core.attach();
    // Made here, not inside: a future that is dropped before its first poll ends the lane too.
    let guard = EndOnDrop(core);
    async move {
        let core = Arc::clone(&guard.0);
        let end = match connect(socket) {
            Ok(stream) => run(&core, stream, carried).await,
            Err(error) => LaneEnd::Violation(format!("the lane's socket cannot be used: {error}")),
        };
        core.end(end)
    }
}

struct EndOnDrop(Arc<Core>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(LaneEnd::Closed);
    }
}

fn connect(socket: StdStream) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

async fn run(core: &Core, stream: UnixStream, carried: Carried) -> LaneEnd {
    let mut arriving = Arriving { core, frames: Deframer::new(core.limit), unreturned: carried.unreturned };
    arriving.frames.extend(&carried.begun);
    let mut driver = Driver { core, stream, arriving, writing: Writing::default() };
    match poll_fn(|cx| driver.poll(cx)).await {
        Order::Finish(end) => driver.finish().map_or_else(LaneEnd::Violation, |()| end),
        Order::Stop(end) => end,
        Order::Suspend => driver.suspend(),
        Order::Work => unreachable!("the driver polls until it is told to end"),
    }
}

struct Driver<'a> {
    core: &'a Core,
    stream: UnixStream,
    arriving: Arriving<'a>,
    writing: Writing,
}

/// Output on its way to the kernel.
#[derive(Default)]
pub(super) struct Writing {
    /// Whole frames, and how much of them is there already.
    pub(super) queue: Vec<u8>,
    written: usize,
    /// What is left of a piece of a large frame, which follows.
    pub(super) piece: Bytes,
}

impl Writing {
    pub(super) fn is_empty(&self) -> bool {
        self.left() == 0
    }

    fn left(&self) -> usize {
        self.queue.len() - self.written + self.piece.len()
    }

    /// So many bytes are with the kernel.
    fn advance(&mut self, bytes: usize) {
        let of_queue = bytes.min(self.queue.len() - self.written);
        self.written += of_queue;
        self.piece.advance(bytes - of_queue);
        if self.is_empty() {
            self.written = 0;
            self.queue.clear();
            if self.queue.capacity() > 2 * WINDOW {
                self.queue = Vec::new();
            }
        }
    }

    fn into_rest(mut self) -> Vec<u8> {
        let mut rest = self.queue.split_off(self.written);
        rest.extend_from_slice(&self.piece);
        rest
    }
}

impl Driver<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        for _ in 0..ROUNDS {
            match self.core.next_order(&mut self.writing, &mut self.arriving.unreturned) {
                Order::Work => {}
                end @ (Order::Finish(_) | Order::Stop(_) | Order::Suspend) => return Poll::Ready(end),
            }
            let Ok(written) = self.write(cx) else { return Poll::Ready(Order::Finish(LaneEnd::PeerClosed)) };
            let arrived = match self.read(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Order::Finish(LaneEnd::PeerClosed)),
                Poll::Ready(Ok(_)) => match self.arriving.absorb() {
                    Ok(()) => true,
                    Err(violation) => return Poll::Ready(Order::Stop(LaneEnd::Violation(violation))),
                },
                Poll::Pending => false,
            };
            let idle = !arrived && written != Written::Some;
            if idle && self.core.park(cx.waker(), written == Written::Blocked) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<Written> {
        if self.writing.is_empty() {
            return Ok(Written::Nothing);
        }
        while !self.writing.is_empty() {
            let parts = [IoSlice::new(&self.writing.queue[self.writing.written..]), IoSlice::new(&self.writing.piece)];
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &parts) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => {
                    self.writing.advance(bytes);
                    self.core.wrote(bytes, self.writing.left());
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(Written::Blocked),
            }
        }
        Ok(Written::Some)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = self.arriving.frames.space();
        let read = pin!(self.stream.read_buf(&mut space)).poll(cx);
        if let Poll::Ready(Ok(bytes)) = read {
            self.arriving.frames.was_read(bytes);
        }
        read
    }

    /// Gives the socket back, and what is with neither the kernel nor the user.
    fn suspend(self) -> LaneEnd {
        match self.stream.into_std() {
            Ok(socket) => {
                let carried =
                    Carried { begun: self.arriving.frames.into_begun(), unreturned: self.arriving.unreturned };
                self.core.suspend(carried, self.writing.into_rest(), socket);
                LaneEnd::Suspended
            }
            Err(error) => LaneEnd::Violation(format!("the lane's socket cannot be kept: {error}")),
        }
    }

    /// Takes in what the socket holds at this moment, without waiting for more: the bytes of a peer that is gone, or
    /// that this side leaves.
    fn finish(mut self) -> Result<(), Violation> {
        // A third party may hold the other end and go on writing; no socket buffer is as large as this.
        let most = WINDOW + 2 * self.core.limit;
        // Not through tokio: its reads go by what it last heard of the socket, which may be less than what is there.
        let Ok(mut socket) = self.stream.into_std() else { return Ok(()) };
        let mut chunk = vec![0; 64 << 10];
        let mut total = 0;
        while total < most {
            match socket.read(&mut chunk) {
                Ok(0) => break,
                Ok(bytes) => {
                    total += bytes;
                    self.arriving.frames.extend(&chunk[..bytes]);
                    self.arriving.absorb()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        Ok(())
    }
}

/// The incoming half: cuts what arrives into its parts and gives each to whom it belongs.
struct Arriving<'a> {
    core: &'a Core,
    frames: Deframer,
    /// What the messages have cost that the peer got no credit back for yet.
    unreturned: usize,
}

impl Arriving<'_> {
    /// Deals with what has arrived.
    fn absorb(&mut self) -> Result<(), Violation> {
        let mut messages = false;
        let outcome = loop {
            match self.frames.next() {
                Ok(Some(part)) => {
                    messages |= matches!(part, Part::Messages(_) | Part::LargeMessage(_));
                    if let Err(violation) = self.accept(part) {
                        break Err(violation);
                    }
                }
                Ok(None) => break Ok(()),
                Err(violation) => break Err(violation),
            }
        };
        if messages {
            self.core.announce();
        }
        outcome
    }

    fn accept(&mut self, part: Part) -> Result<(), Violation> {
        match part {
            Part::Messages(run) => {
                self.spend(run.len())?;
                self.core.deliver(run);
            }
            Part::LargeMessage(message) => {
                self.spend(message.cost())?;
                self.core.deliver_large(message);
            }
            Part::Reply { tag, payload } => self.core.resolve(tag, Answer::Value(payload)),
            Part::Unanswered { tag } => self.core.resolve(tag, Answer::Unanswered),
            Part::Credit(bytes) => self.core.regain(bytes)?,
        }
        Ok(())
    }

    fn spend(&mut self, cost: usize) -> Result<(), Violation> {
        self.unreturned += cost;
        if self.unreturned > WINDOW {
            return Err(format!("messages for {} bytes; the window is {WINDOW}", self.unreturned));
        }
        Ok(())
    }
}

/// What became of the output that there was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Nothing,
    /// All of it is with the kernel.
    Some,
    /// The kernel takes no more now.
    Blocked,
}
