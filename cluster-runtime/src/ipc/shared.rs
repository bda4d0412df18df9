//! What the handles of a lane and its driver share: output, inbox, questions. Bytes only, no user types.
//!
//! Three locks, never two at a time, and never held while user code runs or a task is woken.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, TryAcquireError, oneshot};

use super::LaneEnd;
use super::frame::{self, Spare, Violation, WINDOW};
use super::inbox::Inbox;
use super::outbox::{DriverState, Outbox, Stage};
use super::reply::{Answer, Questions};
use super::suspend::Carried;

/// Credit is returned in lots of this size.
const CREDIT_LOT: usize = WINDOW / 4;

/// With more bytes of answers unread, a further one is refused.
const MOST_UNREAD: usize = 4 * WINDOW;

pub(super) struct Core {
    /// What is left of the window for messages. Closed when nothing can be sent any more.
    pub(super) room: Semaphore,
    pub(super) outbox: Mutex<Outbox>,
    pub(super) inbox: Mutex<Inbox>,
    questions: Mutex<Questions>,
    /// The peer leaves more than a window of answers unread: its messages wait. Written under the lock of the outbox.
    pub(super) congested: AtomicBool,
    arrivals: Arc<Notify>,
    written: Notify,
    /// The driver has stopped, or the lane has ended.
    pub(super) stopped: Notify,
    spare: Spare,
}

/// Why a message was not queued.
pub(super) enum NotQueued {
    NoRoom,
    Gone,
}

/// The peer leaves so many bytes of answers unread that there is no place for another.
pub(super) struct Unread(pub(super) usize);

/// What is next in the inbox.
pub(super) enum Taken {
    /// The payload of a message.
    Message(Bytes),
    Empty,
    Ended,
}

/// What the driver is to do.
pub(super) enum Order {
    /// Write what is in its buffer (if anything is), read what comes.
    Work,
    /// Take in what the socket still holds, then end.
    Finish(LaneEnd),
    /// End. It is recorded already.
    Stop(LaneEnd),
    /// Give the socket back, with what is on its way.
    Suspend,
}

impl Core {
    pub(super) fn new(arrivals: Arc<Notify>) -> Self {
        Self {
            room: Semaphore::new(WINDOW),
            outbox: Mutex::default(),
            inbox: Mutex::default(),
            questions: Mutex::default(),
            congested: AtomicBool::new(false),
            arrivals,
            written: Notify::new(),
            stopped: Notify::new(),
            spare: Mutex::default(),
        }
    }

    pub(super) fn spare(&self) -> &Spare {
        &self.spare
    }

    pub(super) fn arrivals(&self) -> &Notify {
        &self.arrivals
    }
}

/// Sending.
impl Core {
    pub(super) fn queue_if_room(&self, frame: &[u8]) -> Result<(), NotQueued> {
        let cost = frame::cost(frame.len());
        match self.room.try_acquire_many(cost as u32) {
            // What is spent comes back by credit, not by dropping the permit.
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::NoPermits) => return Err(NotQueued::NoRoom),
            Err(TryAcquireError::Closed) => return Err(NotQueued::Gone),
        }
        self.queue_message(frame, cost)
    }

    pub(super) async fn queue_when_room(&self, frame: &[u8]) -> Result<(), NotQueued> {
        let cost = frame::cost(frame.len());
        self.room.acquire_many(cost as u32).await.map_err(|_closed| NotQueued::Gone)?.forget();
        self.queue_message(frame, cost)
    }

    fn queue_message(&self, frame: &[u8], cost: usize) -> Result<(), NotQueued> {
        let mut outbox = lock(&self.outbox);
        if outbox.stage != Stage::Open {
            return Err(NotQueued::Gone);
        }
        outbox.spent += cost;
        outbox.push(frame);
        let waker = outbox.driver.wake_for_output();
        drop(outbox);
        wake(waker);
        Ok(())
    }

    /// The user has a request now, and whatever becomes of this process, the peer is to hear of it.
    pub(super) fn owe_answer(&self, tag: u64) {
        let mut outbox = lock(&self.outbox);
        if !matches!(outbox.stage, Stage::Ended(_)) {
            outbox.unanswered.insert(tag);
        }
    }

    /// Queues a reply. Needs no room in the window: answers get through even if nobody takes messages.
    pub(super) fn queue_answer(&self, tag: u64, frame: &[u8]) -> Result<(), Unread> {
        let outbox = lock(&self.outbox);
        match outbox.unread_answers() {
            unread if unread > MOST_UNREAD => Err(Unread(unread)),
            _ => {
                self.push_answer(outbox, tag, frame);
                Ok(())
            }
        }
    }

    /// Queues the word that no reply comes. There is always a place for it.
    pub(super) fn queue_unanswered(&self, tag: u64) {
        self.push_answer(lock(&self.outbox), tag, &frame::unanswered(tag));
    }

    fn push_answer(&self, mut outbox: MutexGuard<'_, Outbox>, tag: u64, frame: &[u8]) {
        if let Stage::Ended(_) = outbox.stage {
            return;
        }
        outbox.unanswered.remove(&tag);
        outbox.answers += frame.len();
        outbox.push(frame);
        if outbox.is_congested() {
            self.congested.store(true, Ordering::Release);
        }
        let waker = outbox.driver.wake_for_output();
        drop(outbox);
        wake(waker);
    }

    pub(super) fn close(&self) {
        self.leave_open_stage(Stage::Closing);
    }

    pub(super) fn peer_exited(&self) {
        self.leave_open_stage(Stage::PeerExited);
    }

    fn leave_open_stage(&self, stage: Stage) {
        self.room.close();
        let mut outbox = lock(&self.outbox);
        if let (DriverState::Absent, Stage::PeerExited) = (&outbox.driver, &stage) {
            drop(outbox);
            self.end(LaneEnd::PeerClosed);
            return;
        }
        match (&outbox.stage, &stage) {
            (Stage::Open, _) | (Stage::Closing, Stage::PeerExited) => outbox.stage = stage,
            (Stage::Closing | Stage::PeerExited | Stage::Ended(_), _) => {}
        }
        let waker = outbox.driver.wake_for_order();
        drop(outbox);
        wake(waker);
    }

    /// Waits until everything that is queued now is with the kernel, or the lane has ended.
    pub(super) async fn flushed(&self) {
        let target = lock(&self.outbox).total_queued;
        loop {
            let progress = self.written.notified();
            {
                let outbox = lock(&self.outbox);
                if outbox.total_written >= target || matches!(outbox.stage, Stage::Ended(_)) {
                    return;
                }
            }
            progress.await;
        }
    }

    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        lock(&self.outbox).stage == Stage::Open
    }
}

/// Receiving.
impl Core {
    pub(super) fn take(&self) -> Taken {
        let mut inbox = lock(&self.inbox);
        if self.congested.load(Ordering::Acquire) && !inbox.ended {
            return Taken::Empty;
        }
        let Some((payload, cost)) = inbox.queue.take() else {
            return if inbox.ended { Taken::Ended } else { Taken::Empty };
        };
        inbox.taken += cost;
        let owed = if inbox.taken >= CREDIT_LOT { mem::take(&mut inbox.taken) } else { 0 };
        drop(inbox);
        if owed > 0 {
            self.owe(owed);
        }
        Taken::Message(payload)
    }

    #[cfg(test)]
    pub(super) fn has_messages(&self) -> bool {
        let inbox = lock(&self.inbox);
        !inbox.queue.is_empty() && (inbox.ended || !self.congested.load(Ordering::Acquire))
    }

    #[cfg(test)]
    pub(super) fn is_drained(&self) -> bool {
        let inbox = lock(&self.inbox);
        inbox.ended && inbox.queue.is_empty()
    }

    /// Ends the lane because what the peer sent cannot be decoded. What it sent after that is not looked at.
    pub(super) fn distrust(&self, violation: Violation) {
        self.end(LaneEnd::Violation(violation));
        let forgotten = mem::take(&mut lock(&self.inbox).queue);
        drop(forgotten);
    }

    fn owe(&self, bytes: usize) {
        let mut outbox = lock(&self.outbox);
        outbox.owed += bytes;
        let waker = outbox.driver.wake_for_output();
        drop(outbox);
        wake(waker);
    }
}

/// Asking.
impl Core {
    pub(super) fn expect_answer(&self, tag: u64) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.questions).insert(tag, sender);
        receiver
    }

    pub(super) fn withdraw(&self, tag: u64) {
        let withdrawn = lock(&self.questions).remove(&tag);
        drop(withdrawn);
    }

    /// An answer that nobody waits for is nobody's error.
    pub(super) fn resolve(&self, tag: u64, answer: Answer) {
        let asker = lock(&self.questions).remove(&tag);
        if let Some(asker) = asker {
            let _ = asker.send(answer);
        }
    }
}

/// The driver's side.
impl Core {
    /// Takes the place of the driver, which there is only one of. Returns what it begins with.
    pub(super) fn attach(&self) -> Carried {
        let mut outbox = lock(&self.outbox);
        assert!(matches!(outbox.driver, DriverState::Absent), "a lane is driven once");
        outbox.driver = DriverState::Busy;
        mem::take(&mut outbox.carried)
    }

    /// Says what is to be done. An empty `writing` is filled with the output that is queued; `unreturned` goes down by
    /// the credit that is granted in it.
    ///
    /// Credit is granted only here, behind output that the kernel has accepted: a peer that does not read gets none.
    pub(super) fn next_order(&self, writing: &mut Vec<u8>, unreturned: &mut usize) -> Order {
        let _parked; // dropped after the lock is released
        let mut outbox = lock(&self.outbox);
        _parked = mem::replace(&mut outbox.driver, DriverState::Busy);
        match &outbox.stage {
            Stage::Open | Stage::Closing => {}
            // Soon there is nothing left to suspend but what came.
            Stage::PeerExited => return Order::Finish(LaneEnd::PeerClosed),
            Stage::Ended(end) => return Order::Stop(end.clone()),
        }
        if outbox.suspension.begin() {
            return Order::Suspend;
        }
        if writing.is_empty() {
            let owed = mem::take(&mut outbox.owed);
            if owed > 0 {
                *unreturned -= owed;
                outbox.push(&frame::credit(owed as u32));
            }
            mem::swap(writing, &mut outbox.queue);
            outbox.answers_in_writing = mem::take(&mut outbox.answers);
        }
        if writing.is_empty() && outbox.stage == Stage::Closing {
            return Order::Finish(LaneEnd::Closed);
        }
        Order::Work
    }

    /// The kernel has accepted this many bytes; so many are left in the driver's buffer.
    pub(super) fn wrote(&self, bytes: usize, left: usize) {
        let mut outbox = lock(&self.outbox);
        outbox.total_written += bytes as u64;
        outbox.answers_in_writing = outbox.answers_in_writing.min(left);
        let relieved = !outbox.is_congested() && self.congested.swap(false, Ordering::AcqRel);
        drop(outbox);
        self.written.notify_waiters();
        if relieved {
            self.arrivals.notify_waiters();
        }
    }

    /// Leaves a waker for whoever brings work. `false` if there is work already. With `blocked` only an order counts:
    /// the socket takes no more, and wakes the driver by itself when it does.
    pub(super) fn park(&self, waker: &Waker, blocked: bool) -> bool {
        let mut outbox = lock(&self.outbox);
        let order = match outbox.stage {
            Stage::Open | Stage::Closing if outbox.suspension.is_asked() => true,
            Stage::Open => false,
            Stage::Closing => !blocked,
            Stage::PeerExited | Stage::Ended(_) => true,
        };
        let output = !blocked && (!outbox.queue.is_empty() || outbox.owed > 0);
        if order || output {
            return false;
        }
        let waker = waker.clone();
        outbox.driver = if blocked { DriverState::Blocked(waker) } else { DriverState::Idle(waker) };
        true
    }

    pub(super) fn deliver(&self, run: Bytes) {
        let mut inbox = lock(&self.inbox);
        // After the end nothing may follow what `distrust` refused.
        if !inbox.ended {
            inbox.queue.push(run);
        }
    }

    pub(super) fn announce(&self) {
        self.arrivals.notify_waiters();
    }

    /// The peer's user took messages of ours.
    pub(super) fn regain(&self, bytes: u32) -> Result<(), Violation> {
        let mut outbox = lock(&self.outbox);
        let credit = bytes as usize;
        if credit == 0 || credit > outbox.spent {
            return Err(format!("credit for {credit} bytes when {} were due", outbox.spent));
        }
        outbox.spent -= credit;
        drop(outbox);
        self.room.add_permits(credit);
        Ok(())
    }

    /// Ends the lane for everybody. The first end is the one that counts, and is returned.
    pub(super) fn end(&self, end: LaneEnd) -> LaneEnd {
        let mut outbox = lock(&self.outbox);
        if let Stage::Ended(first) = &outbox.stage {
            return first.clone();
        }
        outbox.stage = Stage::Ended(end.clone());
        let _unsent = outbox.forget();
        self.congested.store(false, Ordering::Release);
        let waker = outbox.driver.wake_for_order();
        drop(outbox);
        self.tell_ended(waker);
        end
    }

    /// Everybody who waits for something hears that it will not come.
    pub(super) fn tell_ended(&self, driver: Option<Waker>) {
        self.room.close();
        let askers = mem::take(&mut *lock(&self.questions));
        drop(askers);
        lock(&self.inbox).ended = true;
        self.arrivals.notify_waiters();
        self.written.notify_waiters();
        self.stopped.notify_waiters();
        wake(driver);
    }

    /// Bytes held: queued output, inbox.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> (usize, usize) {
        let unwritten = {
            let outbox = lock(&self.outbox);
            (outbox.total_queued - outbox.total_written) as usize
        };
        (unwritten, lock(&self.inbox).queue.bytes())
    }

    #[cfg(test)]
    pub(super) fn inbox_blocks(&self) -> usize {
        lock(&self.inbox).queue.blocks()
    }

    #[cfg(test)]
    pub(super) fn open_questions(&self) -> usize {
        lock(&self.questions).len()
    }
}

/// No code that can panic runs under these locks, so a poisoned one is as sound as any.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
