//! The outgoing half of a lane's shared state.

use std::collections::HashSet;
use std::mem;
use std::task::Waker;

use serde::{Deserialize, Serialize};

use super::LaneEnd;
use super::frame::WINDOW;
use super::suspend::{Carried, Suspension};

#[derive(Default)]
pub(super) struct Outbox {
    pub(super) stage: Stage,
    pub(super) driver: DriverState,
    /// Whole frames that the driver has not fetched yet.
    pub(super) queue: Vec<u8>,
    /// What the messages have cost for which no credit came back yet.
    pub(super) spent: usize,
    /// Credit that the peer is to get.
    pub(super) owed: usize,
    /// How many bytes of `queue` are answers, and how many at most of what is left in the driver's buffer.
    pub(super) answers: usize,
    pub(super) answers_in_writing: usize,
    /// The peer's requests that were taken and have no answer yet, by tag.
    pub(super) unanswered: HashSet<u64>,
    pub(super) suspension: Suspension,
    /// What the driver of a lane that goes on begins with.
    pub(super) carried: Carried,
    /// Bytes ever queued, and ever accepted by the kernel.
    pub(super) total_queued: u64,
    pub(super) total_written: u64,
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

impl Outbox {
    pub(super) fn push(&mut self, frame: &[u8]) {
        self.queue.extend_from_slice(frame);
        self.total_queued += frame.len() as u64;
    }

    /// Nothing is sent any more. Returns what was to be.
    pub(super) fn forget(&mut self) -> Vec<u8> {
        self.answers = 0;
        self.answers_in_writing = 0;
        self.unanswered = HashSet::new();
        mem::take(&mut self.queue)
    }

    pub(super) fn is_congested(&self) -> bool {
        self.unread_answers() > WINDOW
    }

    /// Bytes of answers that are not with the kernel, for all that is known.
    pub(super) fn unread_answers(&self) -> usize {
        self.answers + self.answers_in_writing
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
