//! What the handles of a lane and its driver share: output, inbox, questions; [`stream`](super::stream) has the streams. Bytes only,
//! no user types.
//!
//! Three locks, never two at a time, and never held while user code runs or a task is woken.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::driver::Writing;
use super::frame::{self, Frame, Single, Violation, WINDOW};
use super::inbox::{Batch, Inbox, Payload, Refilled, SMALL};
use super::outbox::{DriverState, Outbox, Stage};
use super::reply::{Answer, Questions};
use super::stream::Streams;
use super::suspend::Carried;
use super::{LaneEnd, Limits};
use crate::steps::Steps;

/// Credit is returned in lots of this size.
const CREDIT_LOT: usize = WINDOW / 4;

/// With more bytes of answers unread, a further one is refused.
const MOST_UNREAD: usize = 4 * WINDOW;

pub(super) struct Core {
    pub(super) limits: Limits,
    pub(super) outbox: Mutex<Outbox>,
    pub(super) inbox: Mutex<Inbox>,
    questions: Mutex<Questions>,
    pub(super) streams: Streams,
    /// The turns of those that wait for room: what comes back of the window while somebody waits. Closed when nothing can be sent
    /// any more.
    turns: Semaphore,
    /// The peer leaves more than a window of answers unread: its messages wait. Written under the lock of the outbox.
    pub(super) congested: AtomicBool,
    arrivals: Arc<Notify>,
    written: Notify,
    /// The driver has stopped, or the lane has ended.
    pub(super) stopped: Notify,
    pub(super) steps: Steps,
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
    Message(Payload),
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
    pub(super) fn new(limits: Limits, arrivals: Arc<Notify>) -> Self {
        Self {
            limits,
            turns: Semaphore::new(0),
            outbox: Mutex::default(),
            inbox: Mutex::default(),
            questions: Mutex::default(),
            streams: Streams::default(),
            congested: AtomicBool::new(false),
            arrivals,
            written: Notify::new(),
            stopped: Notify::new(),
            steps: Steps::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn arrivals(&self) -> &Notify {
        &self.arrivals
    }
}

/// Sending.
impl Core {
    #[inline]
    pub(super) fn queue_if_room(&self, frame: Frame<'_>) -> Result<(), NotQueued> {
        let mut outbox = lock(&self.outbox);
        if outbox.stage != Stage::Open {
            return Err(NotQueued::Gone);
        }
        outbox.room = outbox.room.checked_sub(frame.cost()).ok_or(NotQueued::NoRoom)?;
        self.queue_message(outbox, frame);
        Ok(())
    }

    /// Cancel safety: if the future is dropped, the message was not queued.
    pub(super) async fn queue_when_room(&self, frame: Frame<'_>) -> Result<(), NotQueued> {
        match self.queue_if_room(frame) {
            Err(NotQueued::NoRoom) => {}
            done => return done,
        }
        let _waiting = Waiting::begin(self);
        // What is spent comes back by credit, not by dropping the permit.
        self.turns.acquire_many(frame.cost() as u32).await.map_err(|_closed| NotQueued::Gone)?.forget();
        let outbox = lock(&self.outbox);
        if outbox.stage != Stage::Open {
            return Err(NotQueued::Gone);
        }
        self.queue_message(outbox, frame);
        Ok(())
    }

    #[inline]
    fn queue_message(&self, mut outbox: MutexGuard<'_, Outbox>, frame: Frame<'_>) {
        outbox.push_message(frame);
        let waker = outbox.driver.wake_for_output();
        drop(outbox);
        wake(waker);
    }

    /// If nobody waits any more, what is left of the turns is for whoever comes.
    fn settle(&self, outbox: &mut Outbox) {
        if outbox.waiting == 0 {
            outbox.room += self.turns.forget_permits(WINDOW);
        }
    }

    /// The user has a request now, and whatever becomes of this process, the peer is to hear of it.
    pub(super) fn owe_answer(&self, tag: u64) {
        let mut outbox = lock(&self.outbox);
        if !matches!(outbox.stage, Stage::Ended(_)) {
            outbox.unanswered.insert(tag);
        }
    }

    /// Queues a reply. Needs no room in the window: answers get through even if nobody takes messages.
    pub(super) fn queue_answer(&self, tag: u64, frame: Frame<'_>) -> Result<(), Unread> {
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
        self.push_answer(lock(&self.outbox), tag, Frame::Whole(&frame::unanswered(tag)));
    }

    fn push_answer(&self, mut outbox: MutexGuard<'_, Outbox>, tag: u64, frame: Frame<'_>) {
        if let Stage::Ended(_) = outbox.stage {
            return;
        }
        outbox.unanswered.remove(&tag);
        outbox.push_answer(frame);
        self.announce_answer(outbox);
    }

    /// An answer was queued.
    pub(super) fn announce_answer(&self, mut outbox: MutexGuard<'_, Outbox>) {
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

    /// Nobody gets room any more, and who waits for it hears so.
    pub(super) fn close_turns(&self) {
        self.turns.close();
    }

    pub(super) fn peer_exited(&self) {
        self.leave_open_stage(Stage::PeerExited);
    }

    fn leave_open_stage(&self, stage: Stage) {
        self.close_turns();
        self.stop_items();
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

    /// Completes when the kernel has taken something, or the lane has ended, from this call on.
    pub(super) fn written(&self) -> Notified<'_> {
        self.written.notified()
    }

    /// Waits until everything that is queued now is with the kernel, or the lane has ended.
    pub(super) async fn flushed(&self) {
        let target = lock(&self.outbox).total_queued();
        loop {
            let progress = self.written();
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
    /// A small message is put into the buffer.
    #[inline]
    pub(super) fn take(&self, small: &mut [u8; SMALL]) -> Taken {
        let mut inbox = lock(&self.inbox);
        if self.congested.load(Ordering::Acquire) && !inbox.ended {
            return Taken::Empty;
        }
        let Some(payload) = inbox.take(small) else {
            return if inbox.ended { Taken::Ended } else { Taken::Empty };
        };
        self.return_credit(inbox);
        Taken::Message(payload)
    }

    /// Fills a batch that is used up.
    pub(super) fn refill(&self, batch: &mut Batch) -> Refilled {
        let mut inbox = lock(&self.inbox);
        let refilled = inbox.refill(batch);
        self.return_credit(inbox);
        refilled
    }

    pub(super) fn put_back(&self, batch: &mut Batch) {
        let mut inbox = lock(&self.inbox);
        inbox.put_back(batch);
        self.return_credit(inbox);
    }

    #[inline]
    pub(super) fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Acquire)
    }

    #[inline]
    fn return_credit(&self, mut inbox: MutexGuard<'_, Inbox>) {
        let owed = if inbox.taken >= CREDIT_LOT { mem::take(&mut inbox.taken) } else { 0 };
        drop(inbox);
        if owed > 0 {
            self.owe(owed);
        }
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

    /// Says what is to be done. Where nothing is being written, that is filled with the output that is queued; `unreturned` goes
    /// down by the credit that is granted in it.
    ///
    /// Credit is granted only here, behind output that the kernel has accepted: a peer that does not read gets none.
    pub(super) fn next_order(&self, writing: &mut Writing, unreturned: &mut usize) -> Order {
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
            *unreturned -= outbox.push_credit();
            (writing.piece, writing.fds) = outbox.fetch(&mut writing.queue);
        }
        if writing.is_empty() && outbox.stage == Stage::Closing {
            return Order::Finish(LaneEnd::Closed);
        }
        Order::Work
    }

    /// The kernel has accepted this many bytes; so many are left in the driver's buffer.
    pub(super) fn wrote(&self, bytes: usize, left: usize) {
        let mut outbox = lock(&self.outbox);
        outbox.wrote(bytes, left);
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
        let output = !blocked && outbox.has_output();
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

    pub(super) fn deliver_single(&self, message: Single) {
        let mut inbox = lock(&self.inbox);
        if !inbox.ended {
            inbox.queue.push_single(message);
        }
    }

    pub(super) fn announce(&self) {
        self.arrivals.notify_waiters();
    }

    /// The peer's user took messages of ours.
    pub(super) fn regain(&self, bytes: u32) -> Result<(), Violation> {
        let mut outbox = lock(&self.outbox);
        let credit = bytes as usize;
        if credit == 0 || credit > outbox.due {
            return Err(format!("credit for {credit} bytes when {} were due", outbox.due));
        }
        outbox.due -= credit;
        if outbox.waiting == 0 {
            outbox.room += credit;
            return Ok(());
        }
        drop(outbox);
        self.turns.add_permits(credit);
        // The last that waited may have left meanwhile.
        self.settle(&mut lock(&self.outbox));
        Ok(())
    }

    /// Ends the lane for everybody. The first end is the one that counts, and is returned.
    pub(super) fn end(&self, end: LaneEnd) -> LaneEnd {
        let mut outbox = lock(&self.outbox);
        if let Stage::Ended(first) = &outbox.stage {
            return first.clone();
        }
        outbox.stage = Stage::Ended(end.clone());
        let mut unsent = (Vec::new(), Vec::new());
        outbox.forget(&mut unsent.0, &mut unsent.1);
        self.congested.store(false, Ordering::Release);
        let waker = outbox.driver.wake_for_order();
        drop(outbox);
        drop(unsent);
        self.tell_ended(waker);
        end
    }

    /// Everybody who waits for something hears that it will not come.
    pub(super) fn tell_ended(&self, driver: Option<Waker>) {
        self.close_turns();
        self.end_streams();
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
            (outbox.total_queued() - outbox.total_written) as usize
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

/// Somebody waits for room, until this is dropped.
struct Waiting<'a>(&'a Core);

impl<'a> Waiting<'a> {
    fn begin(core: &'a Core) -> Self {
        let mut outbox = lock(&core.outbox);
        outbox.waiting += 1;
        // Only the first finds some, so that nobody is woken by this.
        core.turns.add_permits(mem::take(&mut outbox.room));
        Self(core)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut outbox = lock(&self.0.outbox);
        outbox.waiting -= 1;
        self.0.settle(&mut outbox);
    }
}

/// No code that can panic runs under these locks, so a poisoned one is as sound as any.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline]
pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
