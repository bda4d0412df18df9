//! Moves the bytes of one lane: output buffer → socket, socket → inbox.
//!
//! One future does both, and neither direction waits for the other: two peers that flood each other keep moving.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};

use super::LaneEnd;
use super::fd::{Fds, Parcel};
use super::frame::{Deframer, Part, Violation, WINDOW};
use super::reply::Answer;
use super::shared::{Core, Order};
use super::socket::Socket;
use super::stream::End;
use super::suspend::Carried;
use crate::os::{self, Received};

/// After this many rounds of writing and reading other tasks of the thread get their turn.
const ROUNDS: usize = 16;

/// Attaches a lane to its socket and moves its bytes until it has ended.
pub(super) fn drive(core: Arc<Core>, socket: UnixStream) -> impl Future<Output = LaneEnd> + Send {
    let carried = core.attach();
    // Made here, not inside: a future that is dropped before its first poll ends the lane too.
    let guard = EndOnDrop(core);
    async move {
        let core = Arc::clone(&guard.0);
        let end = match Socket::new(socket) {
            Ok(socket) => run(&core, socket, carried).await,
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

async fn run(core: &Core, socket: Socket, carried: Carried) -> LaneEnd {
    let Carried { begun, parcels, unreturned } = carried;
    let frames = Deframer::holding(&begun, parcels, core.limits.message);
    let arriving = Arriving { core, frames, unreturned };
    let mut driver = Driver { core, socket, arriving, writing: Writing::default() };
    match poll_fn(|cx| driver.poll(cx)).await {
        Order::Finish(end) => driver.finish().map_or_else(LaneEnd::Violation, |()| end),
        Order::Stop(end) => end,
        Order::Suspend => driver.suspend(),
        Order::Work => unreachable!("the driver polls until it is told to end"),
    }
}

struct Driver<'a> {
    core: &'a Core,
    socket: Socket,
    arriving: Arriving<'a>,
    writing: Writing,
}

/// Output on its way to the kernel.
#[derive(Default)]
pub(super) struct Writing {
    /// Whole frames, and how much of them is there already.
    pub(super) queue: Vec<u8>,
    written: usize,
    /// What is left of a piece of a large frame, or of a frame with descriptors, which follows.
    pub(super) piece: Bytes,
    /// The descriptors that go with the first byte of it.
    pub(super) fds: Fds,
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

    /// What is with nobody yet, and where descriptors are in it.
    fn into_rest(mut self) -> (Vec<u8>, Vec<(usize, Fds)>) {
        let mut rest = self.queue.split_off(self.written);
        let fds = if self.fds.is_empty() { Vec::new() } else { vec![(rest.len(), self.fds)] };
        rest.extend_from_slice(&self.piece);
        (rest, fds)
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
                Poll::Ready(Ok(0)) => return Poll::Ready(Order::Finish(LaneEnd::PeerClosed)),
                Poll::Ready(Err(violation)) => return Poll::Ready(Order::Stop(LaneEnd::Violation(violation))),
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
            match self.write_some(cx) {
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
        self.socket.has_written()?;
        Ok(Written::Some)
    }

    /// Gives the kernel of what is to be written what can go in one call.
    fn write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Writing { queue, written, piece, fds } = &mut self.writing;
        let parts = [IoSlice::new(&queue[*written..]), IoSlice::new(piece)];
        if fds.is_empty() {
            return self.socket.poll_write(cx, &parts, &[]);
        }
        if !parts[0].is_empty() {
            return self.socket.poll_write(cx, &parts[..1], &[]);
        }
        let descriptors: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let bytes = ready!(self.socket.poll_write(cx, &parts[1..], &descriptors))?;
        fds.clear();
        Poll::Ready(Ok(bytes))
    }

    /// Says how many bytes it has read; none from a peer that is gone.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Violation>> {
        let received = ready!(self.socket.poll_read(cx, &mut self.arriving.frames.space()));
        Poll::Ready(received.map_or(Ok(0), |received| self.arriving.take_in(received)))
    }

    /// Gives the socket back, and what is with neither the kernel nor the user.
    fn suspend(self) -> LaneEnd {
        match self.socket.into_std() {
            Ok(socket) => {
                let (begun, parcels) = self.arriving.frames.into_begun();
                let carried = Carried { begun, parcels: parcels.into(), unreturned: self.arriving.unreturned };
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
        let most = WINDOW + 2 * self.core.limits.message;
        // Not through tokio: its reads go by what it last heard of the socket, which may be less than what is there.
        let Ok(socket) = self.socket.into_std() else { return Ok(()) };
        let mut total = 0;
        while total < most {
            match os::receive_stream(socket.as_fd(), &mut self.arriving.frames.space()) {
                Ok(Received { len: 0, .. }) => break,
                Ok(received) => {
                    total += self.arriving.take_in(received)?;
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
    /// Notes what was read into the space that there was for it.
    fn take_in(&mut self, received: Received) -> Result<usize, Violation> {
        let Received { len, fds, is_cut, .. } = received;
        self.frames.was_read(len);
        if is_cut || !fds.is_empty() {
            self.frames.arrive(Parcel::new(fds, is_cut))?;
        }
        Ok(len)
    }

    /// Deals with what has arrived.
    fn absorb(&mut self) -> Result<(), Violation> {
        let mut messages = false;
        let outcome = loop {
            match self.frames.next() {
                Ok(Some(part)) => {
                    messages |= matches!(part, Part::Messages(_) | Part::Single(_));
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
            Part::Single(message) => {
                self.spend(message.cost())?;
                self.core.deliver_single(message);
            }
            Part::Reply { tag, payload, parcel } => self.core.resolve(tag, Answer::Value(payload, parcel)),
            Part::Unanswered { tag } => {
                self.core.resolve(tag, Answer::Unanswered);
                self.core.conclude(tag, End::Unanswered);
            }
            Part::Stream { tag, word } => self.core.hear(tag, word)?,
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
