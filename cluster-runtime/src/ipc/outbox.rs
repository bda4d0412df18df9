//! The outgoing half of a lane's shared state.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::task::Waker;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::LaneEnd;
use super::frame::{self, Frame, Large, WINDOW};
use super::suspend::{Carried, Suspension};

pub(super) struct Outbox {
    pub(super) stage: Stage,
    pub(super) driver: DriverState,
    /// Whole frames that the driver has not fetched yet.
    queue: Vec<u8>,
    /// Frames in pieces, which the driver fetches one by one beside the queue.
    large: VecDeque<Outgoing>,
    /// How many bytes of the queue are answers, of the large frames, and at most of what the driver has fetched.
    answers: Answers,
    /// What the messages have cost for which no credit came back yet.
    pub(super) spent: usize,
    /// What is left of the window for whoever comes. While some wait, it is theirs, and this is 0.
    pub(super) room: usize,
    /// How many wait for room.
    pub(super) waiting: usize,
    /// Credit that the peer is to get.
    pub(super) owed: usize,
    /// The peer's requests that were taken and have no answer yet, by tag.
    pub(super) unanswered: HashSet<u64>,
    pub(super) suspension: Suspension,
    /// What the driver of a lane that goes on begins with.
    pub(super) carried: Carried,
    /// Bytes ever queued, and ever accepted by the kernel.
    pub(super) total_queued: u64,
    pub(super) total_written: u64,
}

struct Outgoing {
    frame: Large,
    is_answer: bool,
}

#[derive(Default)]
struct Answers {
    queued: usize,
    large: usize,
    fetched: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    #[default]
    Open,
    /// No more messages; what is queued is still written.
    Closing,
    /// Nobody reads any more; what the peer wrote is still taken in.
    PeerExited,
    Ended(LaneEnd),
}

/// What the driver is doing, as far as those need to know who give it work.
#[derive(Default)]
pub(super) enum DriverState {
    #[default]
    Absent,
    Busy,
    /// Waits for anything.
    Idle(Waker),
    /// Waits for the socket to take more, so more output is nothing to wake it for.
    Blocked(Waker),
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            stage: Stage::Open,
            driver: DriverState::Absent,
            queue: Vec::new(),
            large: VecDeque::new(),
            answers: Answers::default(),
            spent: 0,
            room: WINDOW,
            waiting: 0,
            owed: 0,
            unanswered: HashSet::new(),
            suspension: Suspension::default(),
            carried: Carried::default(),
            total_queued: 0,
            total_written: 0,
        }
    }
}

impl Outbox {
    /// With output that another lane has left, of which at most so many bytes are answers.
    pub(super) fn with(queue: Vec<u8>, answers: usize) -> Self {
        let queued = answers.min(queue.len());
        Self {
            total_queued: queue.len() as u64,
            queue,
            answers: Answers { queued, ..Answers::default() },
            ..Self::default()
        }
    }

    /// Queues a message that has its room.
    #[inline]
    pub(super) fn push_message(&mut self, frame: &Frame<'_>) {
        self.spent += frame.cost();
        self.push(frame, false);
    }

    pub(super) fn push_answer(&mut self, frame: &Frame<'_>) {
        match frame {
            Frame::Small(..) | Frame::Whole(_) => self.answers.queued += frame.cost(),
            Frame::Large(large) => self.answers.large += large.len(),
        }
        self.push(frame, true);
    }

    pub(super) fn push_credit(&mut self) -> usize {
        let owed = mem::take(&mut self.owed);
        if owed > 0 {
            self.push(&Frame::Whole(&frame::credit(owed as u32)), false);
        }
        owed
    }

    pub(super) fn has_output(&self) -> bool {
        !self.queue.is_empty() || !self.large.is_empty() || self.owed > 0
    }

    /// Gives out what the driver is to write next: all that is queued, by exchange for an empty buffer, and a piece.
    pub(super) fn fetch(&mut self, writing: &mut Vec<u8>) -> Bytes {
        mem::swap(writing, &mut self.queue);
        self.answers.fetched = mem::take(&mut self.answers.queued);
        let Some(Outgoing { frame, is_answer }) = self.large.front_mut() else { return Bytes::new() };
        let piece = frame.next_piece();
        if *is_answer {
            self.answers.large -= piece.len();
            self.answers.fetched += piece.len();
        }
        if frame.len() == 0 {
            self.large.pop_front();
        }
        piece
    }

    /// The kernel has accepted so many bytes of what was fetched; so many are left.
    pub(super) fn wrote(&mut self, bytes: usize, left: usize) {
        self.total_written += bytes as u64;
        self.answers.fetched = self.answers.fetched.min(left);
    }

    /// Nothing is sent any more. Returns what was to be.
    pub(super) fn forget(&mut self) -> Vec<u8> {
        self.answers = Answers::default();
        self.unanswered = HashSet::new();
        let mut rest = mem::take(&mut self.queue);
        for Outgoing { frame, .. } in mem::take(&mut self.large) {
            rest.extend_from_slice(&frame.into_pieces());
        }
        rest
    }

    pub(super) fn is_congested(&self) -> bool {
        self.unread_answers() > WINDOW
    }

    /// Bytes of answers that are not with the kernel, for all that is known.
    pub(super) fn unread_answers(&self) -> usize {
        let Answers { queued, large, fetched } = self.answers;
        queued + large + fetched
    }

    #[inline]
    fn push(&mut self, frame: &Frame<'_>, is_answer: bool) {
        match frame {
            Frame::Small(buffer, size) => {
                let end = self.queue.len() + size;
                self.queue.extend_from_slice(*buffer);
                self.queue.truncate(end);
                self.total_queued += *size as u64;
            }
            Frame::Whole(frame) => {
                self.queue.extend_from_slice(frame);
                self.total_queued += frame.len() as u64;
            }
            Frame::Large(frame) => {
                self.total_queued += frame.len() as u64;
                self.large.push_back(Outgoing { frame: frame.clone(), is_answer });
            }
        }
    }
}

impl DriverState {
    #[inline]
    pub(super) fn wake_for_output(&mut self) -> Option<Waker> {
        match self {
            Self::Idle(_) => self.wake_for_order(),
            Self::Absent | Self::Busy | Self::Blocked(_) => None,
        }
    }

    pub(super) fn wake_for_order(&mut self) -> Option<Waker> {
        match self {
            Self::Idle(_) | Self::Blocked(_) => match mem::replace(self, Self::Busy) {
                Self::Idle(waker) | Self::Blocked(waker) => Some(waker),
                Self::Absent | Self::Busy => None,
            },
            Self::Absent | Self::Busy => None,
        }
    }
}
