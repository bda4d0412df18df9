//! What can go wrong for the user of a lane.

use thiserror::Error;

use super::frame::TooLarge;

/// Why a message was not sent. Nothing of it was, whatever the reason.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other process has ended, or this one has closed the connection to it. Nothing can reach it any more: stop
    /// sending. In a worker this means that the primary is gone and the worker is about to drain; or, of a
    /// [`Peer`](crate::Peer), that its slot has no worker now: a replacement may come soon.
    #[error("the other process is gone")]
    Gone,
    /// The encoded message is larger than [`max_message`](crate::Config::max_message). It will never pass: split it, pass the data
    /// another way, or raise the limit.
    #[error("the message takes {size} bytes and the limit is {limit} (max_message)")]
    TooLarge {
        /// Bytes that the message takes when encoded.
        size: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A `Serialize` implementation inside the message refused, or the message is nested too deep (see
    /// [`Message`](trait@crate::Message)). The message is at fault, not the connection.
    #[error("the message could not be encoded: {0}")]
    Encode(String),
    /// The message holds a [`Reply`](crate::Reply) that had come in with another message. A reply handle belongs to the
    /// process that received it: answer there. Whoever was waiting for the answer has been told that none comes.
    #[error("a reply handle cannot be sent on to another process")]
    ForwardedReply,
}

impl From<TooLarge> for SendError {
    fn from(TooLarge { size, limit }: TooLarge) -> Self {
        Self::TooLarge { size, limit }
    }
}

/// Why a message was not sent without waiting.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TrySendError {
    /// The receiver is behind and the window is full. Try later, drop the message, or use the `send` that waits.
    #[error("the other process is behind and there is no room for the message")]
    Full,
    /// It would not have been sent with waiting either.
    #[error(transparent)]
    Failed(#[from] SendError),
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The receiver dropped the [`Reply`](crate::Reply) without answering, or the [`Replies`](crate::Replies) without finishing: it chose not to, or its task failed. Or it
    /// answered and the answer could not go out: too large, not to be encoded, or behind more answers to this process
    /// than are kept for it (see [`Reply::send`](crate::Reply::send); the log of the other process says which). The
    /// other process lives; asking again may help.
    #[error("the request was dropped without an answer")]
    Unanswered,
    /// The other process ended before it answered. Whether it acted on the request is not known.
    #[error("the other process is gone")]
    Gone,
    /// The answer could not be decoded as the expected type. The other process is a different build or is broken, and
    /// the connection to it is being ended.
    #[error("the answer could not be decoded: {0}")]
    Malformed(String),
    /// The request was never sent.
    #[error("the request was not sent: {0}")]
    NotSent(#[source] SendError),
}
