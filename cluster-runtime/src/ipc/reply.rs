//! The two ends of a question: [`Reply`] where it is answered, [`Question`] where it was asked.
//!
//! They are joined by a tag, a number that no two questions of a process share. A message carries the tag in place of
//! the handle.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::oneshot;

use super::codec;
use super::error::CallError;
use super::fd::{self, Parcel};
use super::frame::{self, FrameBuf};
use super::shared::{Core, Unread};

/// The handle with which a request is answered. A field of this type makes a variant of a message a request.
///
/// The asking process makes it with `call`; the receiving one finds it in the message and answers with
/// [`send`](Self::send). It may be kept and used later, from any task or thread. Dropping it unanswered tells the
/// asking process at once that no answer will come ([`CallError::Unanswered`]), so a handler that fails leaves nobody
/// waiting. It cannot be sent on to a third process.
///
/// ```no_run
/// #[derive(cluster::Message)]
/// enum ToPrimary {
///     Total(cluster::Reply<u64>),
/// }
///
/// # async fn worker(worker: cluster::Worker<ToPrimary>) -> cluster::Result {
/// // In the worker: the variant is a function from the handle to the message.
/// let total: u64 = worker.call(ToPrimary::Total).await?;
/// # Ok(()) }
/// # fn primary(message: ToPrimary) {
///
/// // In the primary:
/// match message {
///     ToPrimary::Total(reply) => reply.send(42),
/// }
/// # }
/// ```
pub struct Reply<T> {
    /// `None` only after the handle did its work.
    asker: Option<Asker>,
    answer: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Reply<T> {
    /// Answers the request. Never waits.
    ///
    /// If the asking process is gone or has stopped waiting, nothing happens: that is not an error of the one who
    /// answers. An answer that does not go out is logged as a warning, and the asking process gets
    /// [`CallError::Unanswered`]: one that cannot be encoded, one above [`max_message`](crate::Config::max_message), and any while more than 4 MiB of
    /// earlier answers to the same process have not gone out, because it does not read them or because this process
    /// answers many requests at once. A large answer counts as 512 KiB, so eight of any size may be on their way.
    #[expect(clippy::needless_pass_by_value, reason = "an answer is handed over, as a message is")]
    pub fn send(mut self, value: T) {
        // The handle keeps its asker until the answer stands: should encoding panic, the drop tells the asker.
        if let Some(asker) = &self.asker {
            match asker.answer(&value) {
                Ok(()) => self.asker = None,
                Err(error) => tracing::warn!(%error, "a reply could not be sent"),
            }
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
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(asker) = self.asker.take() {
            asker.leave_unanswered();
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply").field(&self.asker.as_ref().map(|asker| asker.tag().0)).finish()
    }
}

/// What travels in place of a [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReplyTag(u64);

impl ReplyTag {
    pub(super) fn number(self) -> u64 {
        self.0
    }

    #[cfg(test)]
    pub(super) fn test(tag: u64) -> Self {
        Self(tag)
    }
}

/// Refusal to send on a reply handle that came in with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a reply handle cannot be sent on to another process")]
pub struct ForwardedReply;

/// The lane that messages come from: makes the reply handles in them.
#[derive(Clone)]
pub struct Origin(Arc<Core>);

impl Origin {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self(core)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.0
    }

    /// The handle that answers the question with this tag.
    #[must_use]
    pub fn reply<T>(&self, tag: ReplyTag) -> Reply<T> {
        self.0.owe_answer(tag.0);
        Reply { asker: Some(Asker::Peer(Arc::clone(&self.0), tag)), answer: PhantomData }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").finish_non_exhaustive()
    }
}

/// Whom a [`Reply`] answers.
enum Asker {
    /// The other process of this lane.
    Peer(Arc<Core>, ReplyTag),
    /// A question of this process that has not been sent (yet).
    Here(Arc<Core>, ReplyTag),
}

impl Asker {
    fn tag(&self) -> ReplyTag {
        match self {
            Self::Peer(_, tag) | Self::Here(_, tag) => *tag,
        }
    }

    fn answer<T: Serialize>(&self, value: &T) -> Result<(), String> {
        match self {
            Self::Peer(core, tag) => frame::with_front(|front| {
                let mut frame = FrameBuf::reply(front, tag.0, core.limits.message);
                let fds = fd::pack_while(|| codec::encode(value, &mut frame))?;
                let frame = frame.finish_carrying(fds).map_err(|too_large| too_large.to_string())?;
                let queued = core.queue_answer(tag.0, frame);
                queued.map_err(|Unread(bytes)| format!("the asking process leaves {bytes} bytes of answers unread"))
            }),
            Self::Here(core, tag) => {
                let mut payload = Vec::new();
                let fds = fd::pack_while(|| codec::encode(value, &mut payload))?;
                let own = |fd| Arc::try_unwrap(fd).expect("it was packed just now, and for this answer alone");
                let parcel = fds.map(|fds| Parcel::new(fds.into_iter().map(own).collect(), false));
                core.resolve(tag.0, Answer::Value(payload.into(), parcel));
                Ok(())
            }
        }
    }

    fn leave_unanswered(&self) {
        match self {
            Self::Peer(core, tag) => core.queue_unanswered(tag.0),
            Self::Here(core, tag) => core.resolve(tag.0, Answer::Unanswered),
        }
    }
}

/// One count for all lanes: a tag that strays to another lane is unknown there, not somebody else's.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The lowest tag that no question has had yet.
pub(super) fn next_tag() -> u64 {
    NEXT.load(Ordering::Relaxed)
}

/// Leaves out the tags below: they were another program's, and answers to its questions may still come.
pub(super) fn go_on_from(tag: u64) {
    NEXT.fetch_max(tag, Ordering::Relaxed);
}

pub(super) fn new_tag() -> ReplyTag {
    ReplyTag(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Begins a question on a lane: its two ends.
pub(super) fn ask<T>(core: &Arc<Core>) -> (Question<'_>, Reply<T>) {
    let tag = new_tag();
    let answer = core.expect_answer(tag.0);
    (Question { core, tag, answer }, Reply { asker: Some(Asker::Here(Arc::clone(core), tag)), answer: PhantomData })
}

/// The asking end. Dropping it withdraws the question.
pub(super) struct Question<'a> {
    core: &'a Core,
    tag: ReplyTag,
    answer: oneshot::Receiver<Answer>,
}

impl Question<'_> {
    pub(super) async fn answer<T: DeserializeOwned>(mut self) -> Result<T, CallError> {
        match (&mut self.answer).await {
            Ok(Answer::Value(payload, parcel)) => {
                let decode = || codec::decode_expanding(&payload, self.core.limits.expansion);
                fd::unpack(parcel, decode).map_err(|malformed| {
                    self.core.distrust(format!("an answer cannot be decoded: {malformed}"));
                    CallError::Malformed(malformed)
                })
            }
            Ok(Answer::Unanswered) => Err(CallError::Unanswered),
            Err(_lane_ended) => Err(CallError::Gone),
        }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.core.withdraw(self.tag.0);
    }
}

/// What came back for a question.
pub(super) enum Answer {
    Value(Bytes, Option<Parcel>),
    Unanswered,
}

/// The questions of one lane that wait for their answer, by tag.
pub(super) type Questions = HashMap<u64, oneshot::Sender<Answer>>;
