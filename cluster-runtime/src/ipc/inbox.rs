//! The incoming half of a lane's shared state: messages that nobody has taken yet.

use std::collections::VecDeque;
use std::mem;

use bytes::{Buf, Bytes, BytesMut};

use super::fd::Parcel;
use super::frame::{self, Deframer, Part, Single, Violation};

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) queue: MessageQueue,
    /// What the messages have cost that were taken since credit was last returned.
    pub(super) taken: usize,
    pub(super) ended: bool,
}

/// Messages in order. Large runs stay in the block that they were read into; small ones are gathered in `tail`, or a trickle of
/// messages would keep a whole block alive for each.
#[derive(Default)]
pub(super) struct MessageQueue {
    /// The run whose messages are being taken.
    current: Bytes,
    waiting: VecDeque<Waiting>,
    tail: BytesMut,
}

enum Waiting {
    /// Whole message frames.
    Run(Bytes),
    Single(Single),
}

/// From this size on a run stays in its block.
const LARGE_RUN: usize = 64 << 10;

/// A message of this size is copied out of its run, which is quicker than to share the run.
pub(super) const SMALL: usize = 128;

/// The payload of a message that was taken.
pub(super) enum Payload {
    /// So many bytes, in the buffer of whoever took it.
    Small(usize),
    /// Boxed, so that the usual one fits into registers.
    Apart(Box<Apart>),
}

pub(super) enum Apart {
    Shared(Bytes),
    Single(Single),
}

impl Apart {
    /// The payload, and what came along.
    pub(super) fn open(self) -> (Bytes, Option<Parcel>) {
        match self {
            Self::Shared(payload) => (payload, None),
            Self::Single(message) => message.open(),
        }
    }
}

/// Messages that were taken together, by somebody who takes all that a lane receives: one lock for many.
#[derive(Default)]
pub(crate) struct Batch {
    run: Bytes,
    /// How much of it was handed out.
    at: usize,
}

/// What came of exchanging a batch.
pub(super) enum Refilled {
    Batch,
    /// The next message is none of a row.
    Single(Single),
    Empty,
    Ended,
}

impl Batch {
    pub(super) fn is_used_up(&self) -> bool {
        self.at == self.run.len()
    }

    /// The payload of the next message.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let (payload, size) = frame::first_message(&self.run[self.at..])?;
        self.at += size;
        Some(payload)
    }
}

impl Inbox {
    /// Exchanges a batch that is used up for the next messages in a row.
    pub(super) fn refill(&mut self, batch: &mut Batch) -> Refilled {
        self.taken += batch.at;
        *batch = Batch { run: self.queue.take_run(), at: 0 };
        if !batch.run.is_empty() {
            return Refilled::Batch;
        }
        match self.queue.take_single() {
            Some(message) => {
                self.taken += message.cost();
                Refilled::Single(message)
            }
            None if self.ended => Refilled::Ended,
            None => Refilled::Empty,
        }
    }

    /// Takes back what is left of a batch.
    pub(super) fn put_back(&mut self, batch: &mut Batch) {
        let Batch { run, at } = mem::take(batch);
        self.taken += at;
        self.queue.put_back(run.slice(at..));
    }

    /// The next message, a small one in the buffer.
    #[inline]
    pub(super) fn take(&mut self, small: &mut [u8; SMALL]) -> Option<Payload> {
        let (payload, cost) = self.queue.take(small)?;
        self.taken += cost;
        Some(payload)
    }
}

impl From<Apart> for Payload {
    fn from(apart: Apart) -> Self {
        Self::Apart(Box::new(apart))
    }
}

impl MessageQueue {
    pub(super) fn push(&mut self, run: Bytes) {
        if run.len() < LARGE_RUN {
            self.tail.extend_from_slice(&run);
        } else {
            self.seal_tail();
            self.waiting.push_back(Waiting::Run(run));
        }
    }

    pub(super) fn push_single(&mut self, message: Single) {
        self.seal_tail();
        self.waiting.push_back(Waiting::Single(message));
    }

    /// The payload of the next message, and what the message had cost.
    #[inline(always)]
    pub(super) fn take(&mut self, small: &mut [u8; SMALL]) -> Option<(Payload, usize)> {
        loop {
            if let Some((payload, size)) = frame::first_message(&self.current) {
                let length = payload.len();
                let start = size - length;
                let taken = match (self.current[start..].first_chunk(), small.get_mut(..length)) {
                    // A copy of all of it is quicker than one of so many bytes.
                    (Some(chunk), Some(_)) => {
                        *small = *chunk;
                        Payload::Small(length)
                    }
                    (None, Some(place)) => {
                        place.copy_from_slice(payload);
                        Payload::Small(length)
                    }
                    (_, None) => Apart::Shared(self.current.slice(start..size)).into(),
                };
                self.current.advance(size);
                if self.current.is_empty() {
                    // It would keep its block alive.
                    self.current = Bytes::new();
                }
                return Some((taken, size));
            }
            match self.next_waiting()? {
                Waiting::Run(run) => self.current = run,
                Waiting::Single(message) => {
                    let cost = message.cost();
                    return Some((Apart::Single(message).into(), cost));
                }
            }
        }
    }

    /// The next messages in a row; none if the next one is none of a row.
    fn take_run(&mut self) -> Bytes {
        if self.current.is_empty() {
            if self.waiting.is_empty() {
                self.seal_tail();
            }
            if let Some(Waiting::Run(run)) = self.waiting.front_mut() {
                let run = mem::take(run);
                self.waiting.pop_front();
                return run;
            }
        }
        mem::take(&mut self.current)
    }

    /// The next message, if it is none of a row.
    fn take_single(&mut self) -> Option<Single> {
        match self.waiting.pop_front()? {
            Waiting::Single(message) => Some(message),
            run @ Waiting::Run(_) => {
                self.waiting.push_front(run);
                None
            }
        }
    }

    fn put_back(&mut self, run: Bytes) {
        let current = mem::replace(&mut self.current, run);
        if !current.is_empty() {
            self.waiting.push_front(Waiting::Run(current));
        }
    }

    /// Messages as they came; says what they have cost.
    pub(super) fn take_in(&mut self, stream: &[u8], parcels: Vec<Parcel>, limit: usize) -> Result<usize, Violation> {
        let mut frames = Deframer::holding(stream, parcels, limit);
        let mut cost = 0;
        while let Some(part) = frames.next()? {
            match part {
                Part::Messages(run) => {
                    cost += run.len();
                    self.push(run);
                }
                Part::Single(message) => {
                    cost += message.cost();
                    self.push_single(message);
                }
                Part::Reply { .. } | Part::Unanswered { .. } | Part::Credit(_) | Part::Stream { .. } => {
                    return Err("not a stream of messages".to_owned());
                }
            }
        }
        let (begun, parcels) = frames.into_begun();
        if begun.is_empty() && parcels.is_empty() { Ok(cost) } else { Err("a message that is not whole".to_owned()) }
    }

    /// All that is left, as it came.
    pub(super) fn into_stream(mut self) -> (Bytes, Vec<Parcel>) {
        let mut stream = BytesMut::from(&self.current[..]);
        let mut parcels = Vec::new();
        while let Some(waiting) = self.next_waiting() {
            match waiting {
                Waiting::Run(run) => stream.extend_from_slice(&run),
                Waiting::Single(message) => parcels.extend(message.put_into(&mut stream)),
            }
        }
        (stream.freeze(), parcels)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty() && self.waiting.is_empty() && self.tail.is_empty()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let waiting = self.waiting.iter().map(|waiting| match waiting {
            Waiting::Run(run) => run.len(),
            Waiting::Single(message) => message.len(),
        });
        self.current.len() + waiting.sum::<usize>() + self.tail.len()
    }

    #[cfg(test)]
    pub(super) fn blocks(&self) -> usize {
        usize::from(!self.current.is_empty()) + self.waiting.len() + usize::from(!self.tail.is_empty())
    }

    fn next_waiting(&mut self) -> Option<Waiting> {
        if self.waiting.is_empty() {
            self.seal_tail();
        }
        self.waiting.pop_front()
    }

    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.waiting.push_back(Waiting::Run(self.tail.split().freeze()));
        }
    }
}
