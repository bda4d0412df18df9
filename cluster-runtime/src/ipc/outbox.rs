//! The outgoing half of a lane's shared state.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::LaneEnd;
use super::fd::Fds;
use super::frame::{self, Frame, Large, Violation, WINDOW};
use super::suspend::{Carried, Suspension};

/// Most messages are no larger as frames.
const TINY: usize = 48;

pub(super) struct Outbox {
    pub(super) stage: Stage,
    pub(super) driver: DriverState,
    /// Whole frames that the driver has not fetched yet.
    queue: Vec<u8>,
    /// Before the queue: frames with descriptors, each with what was queued before it.
    sealed: VecDeque<Sealed>,
    /// Frames in pieces, which the driver fetches one by one beside the queue; and what must not overtake them.
    large: VecDeque<Outgoing>,
    /// A frame with descriptors has left, so a piece of a large one is next: neither waits for a flood of the other.
    large_is_next: bool,
    /// How many ever were among the large frames, and how many have left.
    total_large: u64,
    left_large: u64,
    answers: Answers,
    /// How many bytes of the queue are no messages.
    other: usize,
    /// What the messages have cost that the peer may have received and gives credit for.
    pub(super) due: usize,
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
    /// Bytes ever fetched by the driver, and ever accepted by the kernel.
    total_fetched: u64,
    pub(super) total_written: u64,
}

struct Sealed {
    before: Vec<u8>,
    answers_before: usize,
    other_before: usize,
    frame: Outgoing,
}

struct Outgoing {
    frame: Large,
    is_answer: bool,
}

impl Outgoing {
    /// What it has cost as a message.
    fn cost(&self) -> usize {
        if self.is_answer { 0 } else { self.frame.cost() }
    }
}

/// How many bytes are answers. What is left of a large one counts for half a window at most: several of any size may wait side by
/// side, and small ones pass between their pieces.
#[derive(Default)]
struct Answers {
    /// In the queue.
    queued: usize,
    /// In what is sealed, and in the large frames.
    apart: usize,
    /// At most, in what the driver has fetched.
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
            sealed: VecDeque::new(),
            large: VecDeque::new(),
            large_is_next: false,
            total_large: 0,
            left_large: 0,
            answers: Answers::default(),
            other: 0,
            due: 0,
            room: WINDOW,
            waiting: 0,
            owed: 0,
            unanswered: HashSet::new(),
            suspension: Suspension::default(),
            carried: Carried::default(),
            total_fetched: 0,
            total_written: 0,
        }
    }
}

impl Outbox {
    /// With output that another lane has left, of which at most so many bytes are answers, and the descriptors in it. What its
    /// messages have cost is due.
    pub(super) fn with(mut output: Bytes, fds: Vec<(usize, Fds)>, answers: usize) -> Result<Self, Violation> {
        let mut outbox = Self::default();
        let mut at = 0;
        for (position, fds) in fds {
            let ahead = position.checked_sub(at).filter(|ahead| *ahead < output.len());
            let before = output.split_to(ahead.ok_or("descriptors beyond the output")?);
            let frame = Large::rest_of_frame(&mut output, fds).ok_or("descriptors with half a frame")?;
            at = position + frame.len();
            let frame = Outgoing { frame, is_answer: false };
            let other_before = before.len();
            outbox.sealed.push_back(Sealed { before: before.into(), answers_before: 0, other_before, frame });
        }
        outbox.other = output.len();
        outbox.queue = output.into();
        outbox.answers.queued = answers.min(outbox.queue.len());
        Ok(outbox)
    }

    /// Queues a message that has its room.
    #[inline]
    pub(super) fn push_message(&mut self, frame: Frame<'_>) {
        match frame {
            // A copy of a size that is known is quicker than one of so many bytes.
            Frame::Small(front, size) => {
                let end = self.queue.len() + size;
                match front.first_chunk::<TINY>() {
                    Some(tiny) if size <= TINY => self.queue.extend_from_slice(tiny),
                    _ => self.queue.extend_from_slice(front),
                }
                self.queue.truncate(end);
            }
            Frame::Whole(frame) => self.queue.extend_from_slice(frame),
            Frame::Large(large) => self.push_apart(large, false),
        }
    }

    pub(super) fn push_answer(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Small(buffer, size) => self.push_small_answer(&buffer[..size]),
            Frame::Whole(frame) => self.push_small_answer(frame),
            Frame::Large(large) => {
                self.answers.apart += weight(large);
                self.push_apart(large, true);
            }
        }
    }

    fn push_small_answer(&mut self, frame: &[u8]) {
        self.answers.queued += frame.len();
        self.push_word(frame);
    }

    /// Queues what is said in a stream, behind all that was said there before: that is as far as the large frame `behind`.
    pub(super) fn push_in_order(&mut self, frame: Frame<'_>, behind: &AtomicU64) {
        let waits = behind.load(Ordering::Relaxed) > self.left_large;
        if !waits && !frame.is_in_pieces() {
            return self.push_answer(frame);
        }
        let frame = frame.to_large();
        self.answers.apart += weight(&frame);
        self.push_large(Outgoing { frame, is_answer: true });
        behind.store(self.total_large, Ordering::Relaxed);
    }

    /// Queues what is no message.
    pub(super) fn push_word(&mut self, word: &[u8]) {
        self.other += word.len();
        self.queue.extend_from_slice(word);
    }

    pub(super) fn push_credit(&mut self) -> usize {
        let owed = mem::take(&mut self.owed);
        if owed > 0 {
            self.push_word(&frame::credit(owed as u32));
        }
        owed
    }

    pub(super) fn has_output(&self) -> bool {
        !self.queue.is_empty() || !self.sealed.is_empty() || !self.large.is_empty() || self.owed > 0
    }

    /// Gives out what the driver is to write next: what is queued, by exchange for an empty buffer, and a frame with its
    /// descriptors or a piece of a large one behind it.
    pub(super) fn fetch(&mut self, writing: &mut Vec<u8>) -> (Bytes, Fds) {
        let (piece, fds) = self.fetch_next(writing);
        self.total_fetched += (writing.len() + piece.len()) as u64;
        (piece, fds)
    }

    fn fetch_next(&mut self, writing: &mut Vec<u8>) -> (Bytes, Fds) {
        let is_turn_of_large = mem::take(&mut self.large_is_next) && !self.large.is_empty();
        if !is_turn_of_large && let Some(sealed) = self.sealed.pop_front() {
            let Sealed { before, answers_before, other_before, mut frame } = sealed;
            self.due += before.len() - other_before + frame.cost();
            *writing = before;
            self.answers.apart -= answers_before;
            self.answers.fetched = answers_before;
            self.large_is_next = true;
            return self.next_piece(&mut frame);
        }
        self.answers.fetched = 0;
        if self.sealed.is_empty() {
            self.due += self.queue.len() - mem::take(&mut self.other);
            mem::swap(writing, &mut self.queue);
            self.answers.fetched = mem::take(&mut self.answers.queued);
        }
        let Some(mut frame) = self.large.pop_front() else { return Default::default() };
        let piece = self.next_piece(&mut frame);
        if frame.frame.len() > 0 {
            self.large.push_front(frame);
        } else {
            self.left_large += 1;
            self.due += frame.cost();
            self.move_up();
        }
        piece
    }

    /// What the messages have cost for which no credit came back yet.
    pub(super) fn spent(&self) -> usize {
        let sealed = self.sealed.iter().map(|it| it.before.len() - it.other_before + it.frame.cost());
        let large = self.large.iter().map(Outgoing::cost);
        self.due + self.queue.len() - self.other + sealed.sum::<usize>() + large.sum::<usize>()
    }

    /// Bytes ever queued.
    pub(super) fn total_queued(&self) -> u64 {
        let sealed = self.sealed.iter().map(|it| it.before.len() + it.frame.frame.len());
        let large = self.large.iter().map(|it| it.frame.len());
        self.total_fetched + (self.queue.len() + sealed.sum::<usize>() + large.sum::<usize>()) as u64
    }

    /// The kernel has accepted so many bytes of what was fetched; so many are left.
    pub(super) fn wrote(&mut self, bytes: usize, left: usize) {
        self.total_written += bytes as u64;
        self.answers.fetched = self.answers.fetched.min(left);
    }

    /// Nothing is sent any more. What was to be goes behind what a driver has not written, with the descriptors and where they are.
    pub(super) fn forget(&mut self, rest: &mut Vec<u8>, fds: &mut Vec<(usize, Fds)>) {
        self.answers = Answers::default();
        self.other = 0;
        self.unanswered = HashSet::new();
        let mut put = |mut frame: Large, rest: &mut Vec<u8>| {
            while frame.len() > 0 {
                let (piece, its) = frame.next_piece();
                if !its.is_empty() {
                    fds.push((rest.len(), its));
                }
                rest.extend_from_slice(&piece);
            }
        };
        for Sealed { before, frame, .. } in mem::take(&mut self.sealed) {
            rest.extend_from_slice(&before);
            put(frame.frame, rest);
        }
        rest.append(&mut self.queue);
        self.queue = Vec::new();
        for Outgoing { frame, .. } in mem::take(&mut self.large) {
            put(frame, rest);
        }
    }

    pub(super) fn is_congested(&self) -> bool {
        self.unread_answers() > WINDOW
    }

    /// Bytes of answers that are not with the kernel, for all that is known, as they count.
    pub(super) fn unread_answers(&self) -> usize {
        let Answers { queued, apart, fetched } = self.answers;
        queued + apart + fetched
    }

    fn next_piece(&mut self, frame: &mut Outgoing) -> (Bytes, Fds) {
        let before = weight(&frame.frame);
        let (piece, fds) = frame.frame.next_piece();
        if frame.is_answer {
            self.answers.apart -= before - weight(&frame.frame);
            self.answers.fetched += piece.len();
        }
        (piece, fds)
    }

    fn push_apart(&mut self, frame: &Large, is_answer: bool) {
        let outgoing = Outgoing { frame: frame.clone(), is_answer };
        if frame.is_in_pieces() { self.push_large(outgoing) } else { self.seal(outgoing) }
    }

    fn push_large(&mut self, frame: Outgoing) {
        self.large.push_back(frame);
        self.total_large += 1;
    }

    /// What was only to follow a large frame need not travel alone.
    fn move_up(&mut self) {
        while self.large.front().is_some_and(|next| !next.frame.is_in_pieces()) {
            let Some(mut next) = self.large.pop_front() else { break };
            self.left_large += 1;
            if next.frame.has_fds() {
                self.seal(next);
                continue;
            }
            let (frame, _no_fds) = next.frame.next_piece();
            if next.is_answer {
                self.answers.apart -= frame.len();
                self.answers.queued += frame.len();
            }
            self.push_word(&frame);
        }
    }

    #[cfg(test)]
    pub(super) fn large_frames(&self) -> usize {
        self.large.len()
    }

    fn seal(&mut self, frame: Outgoing) {
        let answers_before = mem::take(&mut self.answers.queued);
        self.answers.apart += answers_before;
        let before = mem::take(&mut self.queue);
        let other_before = mem::take(&mut self.other);
        self.sealed.push_back(Sealed { before, answers_before, other_before, frame });
    }
}

fn weight(answer: &Large) -> usize {
    answer.len().min(WINDOW / 2)
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
