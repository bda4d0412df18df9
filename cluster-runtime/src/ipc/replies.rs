//! The two ends of a stream: [`Replies`] where it is answered, [`Answers`] where it was asked for.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::coop;

use super::error::{CallError, SendError, TrySendError};
use super::fd;
use super::frame::{self, Frame, FrameBuf};
use super::inbox::{Payload, SMALL};
use super::reply::{self, ForwardedReply, Origin, ReplyTag};
use super::shared::{Core, NotQueued};
use super::stream::{End, Inflow, Next, Outflow};
use super::{Encoded, Refusal, codec};

/// The handle with which a request is answered by any number of values, one after the other. A field of this type makes a variant
/// of a message a request for a stream.
///
/// The asking process makes it with `stream`, and gets an [`Answers`] to take the values from. The receiving one finds it in the
/// message. It may be kept and used from any task or thread; it cannot be sent on to a third process.
///
/// ```no_run
/// # use cluster::{Event, Message, Primary, Replies, SendError, Worker};
/// #[derive(Message)]
/// enum ToPrimary {
///     Count { to: u64, numbers: Replies<u64> },
/// }
///
/// # async fn print(worker: Worker<ToPrimary>) -> cluster::Result {
/// // In the worker:
/// let mut numbers = worker.stream(|numbers| ToPrimary::Count { to: 1_000_000, numbers }).await?;
/// while let Some(number) = numbers.next().await? {
///     println!("{number}");
/// }
/// # Ok(()) }
///
/// // In the primary, a task for each stream, as it waits for the one who takes the values:
/// async fn answer(mut primary: Primary<ToPrimary>) {
///     while let Some(event) = primary.next().await {
///         if let Event::Message(_, ToPrimary::Count { to, numbers }) = event {
///             tokio::spawn(count(to, numbers));
///         }
///     }
/// }
///
/// async fn count(to: u64, numbers: Replies<u64>) -> Result<(), SendError> {
///     for number in 0..to {
///         numbers.send(number).await?;
///     }
///     numbers.finish();
///     Ok(())
/// }
/// ```
///
/// A stream is complete when it was [finished](Self::finish). Dropped before, the handle tells the asking process at once, after
/// the values that were sent, that the rest will not come ([`CallError::Unanswered`]): a handler that fails midway does not look
/// like one that is done.
///
/// Values come in the order in which they were sent. Between them and other messages there is none.
///
/// # Upgrades
/// A stream to or from the primary does not outlive its [upgrade](crate::PrimaryHandle::upgrade), as the code at that end does not. What the
/// primary had sent still comes to the worker, and then [`CallError::Unanswered`]. The other way round, the worker's `send` says
/// [`SendError::Gone`], and what the primary had not taken is lost. Ask again: a request that the primary had not taken either is answered by
/// its next program, and whole. Streams between workers go on.
pub struct Replies<T> {
    /// `None` only after the handle did its work.
    asker: Option<Asker>,
    values: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Replies<T> {
    /// Sends a value; waits while the one who asked is slow to take those before.
    ///
    /// Up to 256 KiB of a stream are on their way at a time, or one value that is larger; fewer while the other process does not
    /// read what it is sent.
    ///
    /// # Errors
    /// [`SendError::Gone`] once the one who asked has dropped its [`Answers`], or has ended or was replaced by its next release, or the
    /// lane to it is closed: nobody wants more values. Also as long as the handle has not left the process that asks. [`SendError::TooLarge`] and [`SendError::Encode`]
    /// when the value itself cannot be sent; the stream goes on without it, so return without `finish` unless it may be left out.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped while it waits, nothing is sent.
    pub async fn send(&self, value: T) -> Result<(), SendError> {
        let (core, outflow) = self.peer()?;
        if core.steps.is_next() {
            coop::consume_budget().await;
        }
        let Err(refusal) = self.offer(value, Encoded::of) else { return Ok(()) };
        match *refusal {
            Refusal::NoRoom(encoded) => {
                let queued = core.queue_item_when_room(outflow, encoded.frame()).await;
                queued.map_err(|_gone| SendError::Gone)
            }
            Refusal::Failed(error) => Err(error),
        }
    }

    /// Sends a value if there is room for it now.
    ///
    /// # Errors
    /// [`TrySendError::Full`] while the one who asked is slow to take values, and those of [`send`](Self::send).
    pub fn try_send(&self, value: T) -> Result<(), TrySendError> {
        self.offer(value, |_| ()).map_err(|refusal| match *refusal {
            Refusal::NoRoom(()) => TrySendError::Full,
            Refusal::Failed(error) => error.into(),
        })
    }

    /// Says that the stream is complete. Never waits: the values that were sent arrive before.
    ///
    /// After a `send` that failed with [`SendError::Gone`] it is not, and the one who asked does not hear that it were.
    pub fn finish(mut self) {
        if let Some(asker) = self.asker.take() {
            asker.end(true);
        }
    }

    /// Waits until the one who asked wants no more values, or is gone: `send` would fail with [`SendError::Gone`].
    ///
    /// For one who waits for something else between two values:
    ///
    /// ```no_run
    /// # use cluster::Replies;
    /// # async fn next_line() -> String { String::new() }
    /// # async fn tail(lines: Replies<String>) -> Result<(), cluster::SendError> {
    /// loop {
    ///     tokio::select! {
    ///         line = next_line() => lines.send(line).await?,
    ///         () = lines.closed() => return Ok(()),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&self) {
        if let Ok((_, outflow)) = self.peer() {
            outflow.closed().await;
        }
    }

    /// What stands for the handle in a message that is about to be sent.
    #[doc(hidden)]
    pub fn into_tag(mut self) -> Result<ReplyTag, ForwardedReply> {
        match self.asker.take() {
            Some(Asker::Here(_, tag)) => Ok(tag),
            forwarded @ (Some(Asker::Peer(..)) | None) => {
                self.asker = forwarded;
                Err(ForwardedReply)
            }
        }
    }

    fn peer(&self) -> Result<(&Core, &Outflow), SendError> {
        match &self.asker {
            Some(Asker::Peer(core, _, outflow)) => Ok((core, outflow)),
            Some(Asker::Here(..)) | None => Err(SendError::Gone),
        }
    }

    /// Encodes and queues; without room, what `keep` makes of the frame.
    fn offer<K>(&self, value: T, keep: impl FnOnce(Frame<'_>) -> K) -> Result<(), Box<Refusal<K>>> {
        let Some(Asker::Peer(core, tag, outflow)) = &self.asker else { return Err(SendError::Gone.into()) };
        frame::with_front(|front| {
            let mut frame = FrameBuf::item(front, tag.number(), core.limits.message);
            // User code runs here; no lock is held.
            let fds = fd::pack_while(|| codec::encode(&value, &mut frame)).map_err(SendError::Encode)?;
            drop(value);
            let frame = frame.finish_carrying(fds).map_err(SendError::from)?;
            match core.queue_item(outflow, frame) {
                Ok(()) => Ok(()),
                Err(NotQueued::NoRoom) => Err(Box::new(Refusal::NoRoom(keep(frame)))),
                Err(NotQueued::Gone) => Err(SendError::Gone.into()),
            }
        })
    }
}

impl<T> Drop for Replies<T> {
    fn drop(&mut self) {
        if let Some(asker) = self.asker.take() {
            asker.end(false);
        }
    }
}

impl<T> fmt::Debug for Replies<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replies").field(&self.asker.as_ref().map(|asker| asker.tag().number())).finish()
    }
}

impl Origin {
    /// The handle that answers the request for the stream with this tag.
    #[must_use]
    pub fn replies<T>(&self, tag: ReplyTag) -> Replies<T> {
        let outflow = self.core().begin_items(tag.number());
        Replies { asker: Some(Asker::Peer(Arc::clone(self.core()), tag, outflow)), values: PhantomData }
    }
}

/// Whom a [`Replies`] answers.
enum Asker {
    /// The other process of this lane.
    Peer(Arc<Core>, ReplyTag, Arc<Outflow>),
    /// A request of this process that has not been sent (yet).
    Here(Arc<Core>, ReplyTag),
}

impl Asker {
    fn tag(&self) -> ReplyTag {
        match self {
            Self::Peer(_, tag, _) | Self::Here(_, tag) => *tag,
        }
    }

    fn end(self, is_finished: bool) {
        match self {
            Self::Peer(core, tag, outflow) => core.end_items(tag.number(), &outflow, is_finished),
            Self::Here(core, tag) => {
                core.conclude(tag.number(), if is_finished { End::Finished } else { End::Unanswered });
            }
        }
    }
}

/// The values that answer a request for a stream, where it was asked for; from `stream`.
///
/// Dropping it tells the other process that no more are wanted: its [`Replies::send`] says `Gone` from then on. What an upgrade of the
/// primary does to a stream is told [there](Replies#upgrades).
///
/// It is no `Stream` of the `futures` crate's, but makes one:
///
/// ```ignore
/// use futures_util::stream::try_unfold;
///
/// let lines = try_unfold(lines, |mut lines| async move {
///     Ok::<_, CallError>(lines.next().await?.map(|line| (line, lines)))
/// });
/// ```
pub struct Answers<T> {
    core: Arc<Core>,
    tag: u64,
    inflow: Arc<Inflow>,
    is_asked: bool,
    /// A value could not be decoded.
    malformed: Option<String>,
    values: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Answers<T> {
    /// The next value; waits for it. `None` once the stream is complete.
    ///
    /// ```no_run
    /// # async fn f(mut lines: cluster::Answers<String>) -> Result<(), cluster::CallError> {
    /// while let Some(line) = lines.next().await? {
    ///     println!("{line}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// What has come is here at once, and the other process sends on while this one does something else: until 256 KiB wait here.
    ///
    /// # Errors
    /// After the values that came before, and again with every further call: [`CallError::Unanswered`] when the one who answers dropped
    /// its [`Replies`] without `finish`, or was replaced by its next release; [`CallError::Gone`] when it is gone, or when this process
    /// is; [`CallError::Malformed`] when a value is no `T`.
    ///
    /// # Cancel safety
    /// Cancel safe: no value is lost.
    pub async fn next(&mut self) -> Result<Option<T>, CallError> {
        if self.core.steps.is_next() {
            coop::consume_budget().await;
        }
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`next`](Self::next) for a future or stream that is written by hand.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, CallError>> {
        if let Some(malformed) = &self.malformed {
            return Poll::Ready(Err(CallError::Malformed(malformed.clone())));
        }
        let mut small = [0; SMALL];
        // User code runs from here on; no lock is held.
        self.core.poll_item(self.tag, &self.inflow, &mut small, cx).map(|next| match next {
            Next::Item(Payload::Small(size)) => self.decode(&small[..size]),
            Next::Item(Payload::Apart(apart)) => {
                let (payload, parcel) = apart.open();
                fd::unpack(parcel, || self.decode(&payload))
            }
            Next::Over(End::Finished) => Ok(None),
            Next::Over(End::Unanswered) => Err(CallError::Unanswered),
            Next::Over(End::Gone) => Err(CallError::Gone),
        })
    }

    fn decode(&mut self, payload: &[u8]) -> Result<Option<T>, CallError> {
        codec::decode_expanding(payload, self.core.limits.expansion).map(Some).map_err(|malformed| {
            self.core.distrust(format!("a value of a stream cannot be decoded: {malformed}"));
            self.malformed = Some(malformed.clone());
            CallError::Malformed(malformed)
        })
    }
}

impl<T> Answers<T> {
    /// The request was sent.
    pub(super) fn asked(mut self) -> Self {
        self.is_asked = true;
        self
    }
}

impl<T> Drop for Answers<T> {
    fn drop(&mut self) {
        if self.is_asked {
            self.core.abandon(self.tag);
        } else {
            self.core.expect_no_items(self.tag);
        }
    }
}

impl<T> fmt::Debug for Answers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answers").field(&self.tag).finish()
    }
}

/// Begins a stream on a lane: its two ends.
pub(super) fn ask<T>(core: &Arc<Core>) -> (Answers<T>, Replies<T>) {
    let tag = reply::new_tag();
    let answers = Answers {
        core: Arc::clone(core),
        tag: tag.number(),
        inflow: core.expect_items(tag.number()),
        is_asked: false,
        malformed: None,
        values: PhantomData,
    };
    (answers, Replies { asker: Some(Asker::Here(Arc::clone(core), tag)), values: PhantomData })
}
