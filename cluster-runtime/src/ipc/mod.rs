//! The messages lane: the user's typed enums between two processes, over one stream socket.
//!
//! A [`Lane`] is a cheap handle. What it sends is encoded at once into one output buffer; what arrives stays encoded in
//! one inbox until somebody takes it. Between buffer and socket works the [driver](driver), one future per lane that the
//! owner of the lane spawns. [`shared`] is what handles and driver share (its halves: [`outbox`], [`inbox`]), [`frame`] the layout of the bytes (pure),
//! [`codec`] the only place that names the codec, [`depth`] what bounds it, [`suspend`] how a lane is taken apart and goes on in another program, [`reply`] the two ends of a question, [`replies`] those of a stream and [`stream`] what they share, [`message`] what the derive
//! macro implements.
//!
//! Bounds. Each direction has a window of [`WINDOW`](frame::WINDOW) bytes: a message spends its size, and gets it back
//! when the other side's *user* has taken it, so a slow receiver makes `send` wait. A large message spends half a
//! window at most, so that two of any size fit; each descriptor spends a 64th of it more, so that 64 are on their way or wait.
//! Answers spend nothing and need no room. While a peer leaves more than a window of answers unread, its messages are not
//! handed out; while it leaves more than four, a further answer to what was handed out before shrinks to `unanswered`. Of a large
//! answer, too, half a window counts at most.
//!
//! Items of streams count as answers, and have windows of their own: see [`stream`].
//!
//! So, whatever a peer does, a lane holds at most, where the largest message takes `max_message` bytes: to send, a window or two of the
//! largest messages, four windows or nine of the largest answers (three, if each request is answered before the next is taken), 13 bytes for each other request that was taken and 26 for each that was one for a stream; received, a window or two of the
//! largest messages, one that is arriving, 64 descriptors and what came with one read, and the answer to each question of this side. What a message becomes when
//! decoded is bounded in depth, number and memory by [`depth`].
//!
//! Not here: who is connected to whom, what is done with a lane that ended, the handshake that compares fingerprints.

mod broadcast;
pub(crate) mod codec;
mod depth;
mod driver;
mod error;
mod fd;
mod frame;
mod inbox;
mod message;
mod outbox;
mod replies;
mod reply;
mod shared;
mod socket;
mod stream;
mod suspend;
#[cfg(test)]
mod tests;

use std::any::type_name;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::error::Elapsed;

pub(crate) use self::depth::Expansion;
pub use self::error::{CallError, SendError, TrySendError};
pub use self::fd::Fd;
pub use self::message::{Fingerprint, Message, NoMessages};
pub use self::replies::{Answers, Replies};
pub use self::reply::{ForwardedReply, Origin, Reply, ReplyTag};
pub(crate) use self::suspend::Suspended;

use self::frame::{Frame, FrameBuf, Large};
pub(crate) use self::inbox::Batch;
use self::inbox::{Apart, Payload, Refilled, SMALL};
use self::shared::{Core, NotQueued, Taken};

/// One side of the messages lane between two processes: sends `Out`, receives `In`.
///
/// A new lane is not attached to anything: what is sent queues up to the window, and leaves as soon as a socket is given
/// to [`drive`](Self::drive). Clones are handles on the same lane; it ends by `close`, by `peer_exited`, or with its
/// peer, not by dropping handles.
pub(crate) struct Lane<Out, In> {
    /// The state of the lane, in the form that a decoded message wants it.
    origin: Origin,
    types: PhantomData<fn(Out) -> In>,
}

/// What a lane refuses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most bytes of a message or an answer when encoded; no less than a [`PIECE`](frame::PIECE).
    pub(crate) message: usize,
    /// How many times as much one may take when decoded here.
    pub(crate) expansion: Expansion,
}

/// Why the driver of a lane ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LaneEnd {
    /// The peer closed its end or died. Everything that it had sent is in the inbox.
    PeerClosed,
    /// This side closed the lane, and everything that it had sent is with the kernel.
    Closed,
    /// The peer broke the protocol; the text says how. Nothing it says can be trusted any more.
    Violation(String),
    /// The lane was taken apart and goes on elsewhere.
    Suspended,
}

/// What [`Lane::try_recv`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<In> {
    Message(In),
    /// Nothing now; more may come.
    Empty,
    /// Nothing now and never again: the lane has ended.
    Ended,
}

/// What [`Lane::refill`] found.
pub(crate) enum Refill<In> {
    /// Messages, in the batch now.
    Batch,
    /// What is not for a batch.
    Other(Received<In>),
}

/// A message that is encoded already, for sending to many lanes; clones share the bytes.
#[derive(Clone, Debug)]
pub(crate) enum Encoded {
    Whole(Bytes),
    Large(Large),
}

impl Encoded {
    fn of(frame: Frame<'_>) -> Self {
        match frame {
            Frame::Small(buffer, size) => Self::Whole(Bytes::copy_from_slice(&buffer[..size])),
            Frame::Whole(frame) => Self::Whole(Bytes::copy_from_slice(frame)),
            Frame::Large(large) => Self::Large(large.clone()),
        }
    }

    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Whole(frame) => Frame::Whole(frame),
            Self::Large(large) => Frame::Large(large),
        }
    }
}

impl<Out: Message, In: Message> Lane<Out, In> {
    /// A lane that is not attached to a socket yet.
    ///
    /// `arrivals` is told by `notify_waiters` whenever something new can be received, or never can be again. Many lanes
    /// may share one: make the `notified()` future, look at every lane, then wait for the future.
    pub(crate) fn new(limits: Limits, arrivals: Arc<Notify>) -> Self {
        Self { origin: Origin::new(Arc::new(Core::new(limits, arrivals))), types: PhantomData }
    }

    /// Attaches the lane to its socket. The future moves the bytes until the lane has ended and says why; it is to be
    /// spawned on a tokio runtime. A lane is driven once; dropping the future ends the lane.
    pub(crate) fn drive(&self, socket: UnixStream) -> impl Future<Output = LaneEnd> + Send + use<Out, In> + 'static {
        driver::drive(Arc::clone(self.core()), socket)
    }

    /// Queues a message, and waits for room if there is none. Messages that wait get their room in the order in which
    /// they asked.
    ///
    /// Success means queued, not received: the other process may be gone before it takes the message.
    ///
    /// Cancel safety: if the future is dropped while it waits, the message was not sent.
    #[inline]
    pub(crate) fn send(&self, message: Out) -> impl Future<Output = Result<(), SendError>> + Send {
        // Not an `async fn`: that would move the message once more.
        let mut message = Some(message);
        let mut waiting: Option<Pin<Box<dyn Future<Output = _> + Send>>> = None;
        poll_fn(move |cx| {
            if let Some(waiting) = &mut waiting {
                return waiting.as_mut().poll(cx);
            }
            if self.core().steps.is_next() {
                ready!(coop::poll_proceed(cx)).made_progress();
            }
            let message = message.take().expect("a future is not polled after it has completed");
            let Err(refusal) = self.offer(message, Encoded::of) else { return Poll::Ready(Ok(())) };
            match *refusal {
                Refusal::NoRoom(encoded) => waiting.insert(Box::pin(self.send_when_room(encoded))).as_mut().poll(cx),
                Refusal::Failed(error) => Poll::Ready(Err(error)),
            }
        })
    }

    async fn send_when_room(&self, message: Encoded) -> Result<(), SendError> {
        self.send_encoded(&message).await
    }

    /// Queues a message if there is room for it now.
    pub(crate) fn try_send(&self, message: Out) -> Result<(), TrySendError> {
        self.offer(message, |_| ()).map_err(|refusal| match *refusal {
            Refusal::NoRoom(()) => TrySendError::Full,
            Refusal::Failed(error) => error.into(),
        })
    }

    /// Encodes a message once, for [`send_encoded`](Self::send_encoded) on many lanes with this limit.
    pub(crate) fn encode_once(message: Out, limit: usize) -> Result<Encoded, SendError> {
        encode(message, limit, |frame| Ok(Encoded::of(frame)))
    }

    /// [`send`](Self::send) for a message that is encoded already.
    pub(crate) async fn send_encoded(&self, message: &Encoded) -> Result<(), SendError> {
        self.core().queue_when_room(message.frame()).await.map_err(|_gone| SendError::Gone)
    }

    /// [`try_send`](Self::try_send) for a message that is encoded already.
    pub(crate) fn try_send_encoded(&self, message: &Encoded) -> Result<(), TrySendError> {
        self.core().queue_if_room(message.frame()).map_err(|refusal| match refusal {
            NotQueued::NoRoom => TrySendError::Full,
            NotQueued::Gone => TrySendError::Failed(SendError::Gone),
        })
    }

    /// Asks a question: `make` puts the reply handle into a message, the message is sent, and the answer awaited.
    ///
    /// Cancel safety: dropping the future withdraws the question; if it was sent already, its answer will be ignored.
    pub(crate) async fn call<T, F>(&self, make: F) -> Result<T, CallError>
    where
        T: Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(Reply<T>) -> Out,
    {
        let (question, reply) = reply::ask(self.core());
        let message = make(reply);
        self.send(message).await.map_err(|error| match error {
            SendError::Gone => CallError::Gone,
            refused => CallError::NotSent(refused),
        })?;
        question.answer().await
    }

    /// Asks for a stream: `make` puts the handle of the answering end into a message, and the message is sent.
    ///
    /// Cancel safety: if the future is dropped while it waits, the message was not sent.
    pub(crate) async fn stream<T, F>(&self, make: F) -> Result<Answers<T>, SendError>
    where
        T: Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(Replies<T>) -> Out,
    {
        let (answers, replies) = replies::ask(self.core());
        self.send(make(replies)).await?;
        Ok(answers.asked())
    }

    /// The next message, or `None` once the lane has ended and everything that had arrived was taken.
    ///
    /// Several tasks may receive from one lane; each message goes to one of them.
    ///
    /// Cancel safety: a dropped future has taken nothing.
    #[cfg(test)]
    pub(crate) async fn recv(&self) -> Option<In> {
        if self.core().steps.is_next() {
            coop::consume_budget().await;
        }
        match self.try_recv() {
            Received::Message(message) => return Some(message),
            Received::Ended => return None,
            Received::Empty => {}
        }
        loop {
            let arrival = self.core().arrivals().notified();
            match self.try_recv() {
                Received::Message(message) => return Some(message),
                Received::Ended => return None,
                Received::Empty => arrival.await,
            }
        }
    }

    /// The next message if one is here.
    #[inline(always)]
    pub(crate) fn try_recv(&self) -> Received<In> {
        let mut small = [0; SMALL];
        // User code runs from here on; no lock is held.
        match self.core().take(&mut small) {
            Taken::Message(Payload::Small(size)) => self.decode(&small[..size]),
            Taken::Message(Payload::Apart(apart)) => self.open(*apart),
            Taken::Empty => Received::Empty,
            Taken::Ended => Received::Ended,
        }
    }

    /// Waits until everything that was queued before this call is with the kernel, or the lane has ended.
    pub(crate) async fn flush(&self) {
        self.core().flushed().await;
    }

    /// No more sends from this side: they say `Gone`. The driver writes what is queued, takes in what the socket holds
    /// at that moment, and ends.
    pub(crate) fn close(&self) {
        self.core().close();
    }

    /// The peer process was reaped. The driver takes in what the socket still holds and ends, even if somebody else
    /// (a grandchild) holds the other end open. A lane that was never attached ends at once.
    pub(crate) fn peer_exited(&self) {
        self.core().peer_exited();
    }

    /// Takes the lane apart between two system calls of its driver, so that an equal one can go on elsewhere: its state, and
    /// its socket if it had one and has not ended.
    ///
    /// For this end it is over: sends and calls say `Gone`, nothing is received any more. Requests that were taken and not
    /// answered so far are answered as unanswered by the lane that goes on. Nobody else may be taking messages meanwhile: a
    /// request that is just being decoded would be forgotten.
    ///
    /// # Errors
    /// When the driver does not stop in time because its runtime is held up. The lane then goes on as before.
    ///
    /// Cancel safety: if the future is dropped, the lane goes on as before; or, if its driver had stopped already, the next
    /// call returns the parts.
    pub(crate) async fn suspend(&self, within: Duration) -> Result<(Suspended, Option<UnixStream>), Elapsed> {
        self.core().suspended(within).await
    }

    /// Makes the lane that goes on where [`suspend`](Self::suspend) left off. What had come is received first, what was queued
    /// leaves first. Give it the socket by [`drive`](Self::drive); one that had ended needs none. What messages may take when decoded is
    /// for the one to say that goes on. For `arrivals` see [`new`](Self::new); it is not told of what is here already.
    ///
    /// # Errors
    /// When this is not the state of a lane; the text says why.
    pub(crate) fn resume(suspended: Suspended, expansion: Expansion, arrivals: Arc<Notify>) -> Result<Self, String> {
        let core = Core::resume(suspended, expansion, arrivals)?;
        Ok(Self { origin: Origin::new(Arc::new(core)), types: PhantomData })
    }

    /// Whether a send can still succeed.
    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        self.core().is_open()
    }

    /// Whether [`try_recv`](Self::try_recv) would find a message now.
    #[cfg(test)]
    pub(crate) fn has_messages(&self) -> bool {
        self.core().has_messages()
    }

    /// Whether the lane has ended and everything that had arrived was taken.
    #[cfg(test)]
    pub(crate) fn is_drained(&self) -> bool {
        self.core().is_drained()
    }

    /// The next message of a batch, for somebody who takes all messages of this lane and keeps the batch between two calls. Where there
    /// is none, [`refill`](Self::refill) says why.
    #[inline(always)]
    pub(crate) fn next_of(&self, batch: &mut Batch) -> Option<In> {
        if self.core().is_congested() {
            return None;
        }
        let payload = batch.next()?;
        match self.decode(payload) {
            Received::Message(message) => Some(message),
            Received::Empty | Received::Ended => {
                // Nothing is looked at behind what could not be decoded.
                *batch = Batch::default();
                None
            }
        }
    }

    /// Sees to it that the next message can be taken out of the batch, or returns it itself.
    pub(crate) fn refill(&self, batch: &mut Batch) -> Refill<In> {
        if self.core().is_congested() {
            return Refill::Other(Received::Empty);
        }
        if !batch.is_used_up() {
            return Refill::Batch;
        }
        match self.core().refill(batch) {
            Refilled::Batch => Refill::Batch,
            Refilled::Single(message) => Refill::Other(self.open(Apart::Single(message))),
            Refilled::Empty => Refill::Other(Received::Empty),
            Refilled::Ended => Refill::Other(Received::Ended),
        }
    }

    #[cfg(test)]
    pub(crate) fn try_recv_in_batches(&self, batch: &mut Batch) -> Received<In> {
        loop {
            if let Some(message) = self.next_of(batch) {
                return Received::Message(message);
            }
            if let Refill::Other(received) = self.refill(batch) {
                return received;
            }
        }
    }

    /// Gives back what is left of a batch, before others take messages or the lane is suspended.
    pub(crate) fn put_back(&self, batch: &mut Batch) {
        self.core().put_back(batch);
    }

    #[inline(never)]
    fn open(&self, apart: Apart) -> Received<In> {
        let (payload, parcel) = apart.open();
        fd::unpack(parcel, || self.decode(&payload))
    }

    #[inline(always)]
    fn decode(&self, payload: &[u8]) -> Received<In> {
        match codec::decode_expanding::<In::Wire>(payload, self.core().limits.expansion) {
            Ok(wire) => Received::Message(In::from_wire(wire, &self.origin)),
            Err(malformed) => {
                self.core().distrust(format!("a message of type {} cannot be decoded: {malformed}", In::NAME));
                Received::Ended
            }
        }
    }

    /// Encodes and queues; without room, what `keep` makes of the frame.
    #[inline]
    fn offer<K>(&self, message: Out, keep: impl FnOnce(Frame<'_>) -> K) -> Result<(), Box<Refusal<K>>> {
        let core = self.core();
        encode(message, core.limits.message, |frame| match core.queue_if_room(frame) {
            Ok(()) => Ok(()),
            Err(NotQueued::NoRoom) => Err(Box::new(Refusal::NoRoom(keep(frame)))),
            Err(NotQueued::Gone) => Err(SendError::Gone.into()),
        })
    }

    fn core(&self) -> &Arc<Core> {
        self.origin.core()
    }
}

impl<Out, In> Clone for Lane<Out, In> {
    fn clone(&self) -> Self {
        Self { origin: self.origin.clone(), types: PhantomData }
    }
}

impl<Out, In> fmt::Debug for Lane<Out, In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("sends", &type_name::<Out>())
            .field("receives", &type_name::<In>())
            .finish_non_exhaustive()
    }
}

/// Why a message was not queued. Boxed where it is returned: that it was queued, which is the rule, is then known from a register.
enum Refusal<K> {
    NoRoom(K),
    Failed(SendError),
}

impl<K> From<SendError> for Box<Refusal<K>> {
    #[cold]
    fn from(error: SendError) -> Self {
        Self::new(Refusal::Failed(error))
    }
}

/// Encodes a message into a frame of its own and gives that to `done`.
///
/// Not into the output buffer: encoding runs the user's `Serialize`, which may panic, take long, or send on this very
/// lane, and so must not run under the lock of that buffer. The copy is a few bytes for small messages.
#[inline(always)]
fn encode<M: Message, R, E: From<SendError>>(
    message: M,
    limit: usize,
    done: impl FnOnce(Frame<'_>) -> Result<R, E>,
) -> Result<R, E> {
    let wire = message.into_wire().map_err(|ForwardedReply| SendError::ForwardedReply)?;
    frame::with_front(|front| {
        let mut frame = FrameBuf::message(front, limit);
        let fds = fd::pack_while(|| codec::encode(&wire, &mut frame)).map_err(SendError::Encode)?;
        match frame.finish_carrying(fds) {
            Ok(frame) => done(frame),
            Err(too_large) => Err(SendError::from(too_large).into()),
        }
    })
}
