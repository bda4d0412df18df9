//! The incoming half of a lane's shared state: messages that nobody has taken yet.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::frame;

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) queue: MessageQueue,
    /// What the messages have cost that were taken since credit was last returned.
    pub(super) taken: usize,
    pub(super) ended: bool,
}

/// Runs of message frames, in order. Large runs stay in the block that they were read into; small ones are gathered in
/// `tail`, or a trickle of messages would keep a whole block alive for each.
#[derive(Default)]
pub(super) struct MessageQueue {
    runs: VecDeque<Bytes>,
    tail: BytesMut,
}

/// From this size on a run stays in its block.
const LARGE_RUN: usize = 64 << 10;

impl MessageQueue {
    pub(super) fn push(&mut self, run: Bytes) {
        if run.len() < LARGE_RUN {
            self.tail.extend_from_slice(&run);
        } else {
            self.seal_tail();
            self.runs.push_back(run);
        }
    }

    /// The payload of the next message, and what the message had cost.
    pub(super) fn take(&mut self) -> Option<(Bytes, usize)> {
        if self.runs.is_empty() {
            self.seal_tail();
        }
        let run = self.runs.front_mut()?;
        let message = frame::take_message(run);
        if run.is_empty() {
            self.runs.pop_front();
        }
        message
    }

    /// All that is left, as one run.
    pub(super) fn into_run(mut self) -> Bytes {
        if self.runs.is_empty() {
            return self.tail.freeze();
        }
        self.seal_tail();
        match self.runs.pop_front() {
            Some(only) if self.runs.is_empty() => only,
            first => first.into_iter().chain(self.runs).flatten().collect::<BytesMut>().freeze(),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.tail.is_empty()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.runs.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }

    #[cfg(test)]
    pub(super) fn blocks(&self) -> usize {
        self.runs.len() + usize::from(!self.tail.is_empty())
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.runs.push_back(self.tail.split().freeze());
        }
    }
}
