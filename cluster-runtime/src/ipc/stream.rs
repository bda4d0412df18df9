//! Streams between the two ends of a lane: the state that handles and driver share. [`replies`](super::replies) has the handles.
//!
//! A stream begins as a request does, with a message that holds a tag. When the user has taken that message, its end answers
//! `taken`, then items, and last `end`, or `unanswered` where it was broken off. The asking end gives room back by `more` as its
//! user takes items, and leaves early by `cancel`. It cancels only what it has heard of: before `taken` the request may lie in
//! the inbox, where nobody knows its tag yet. So one `cancel` is enough, and each end may ignore what concerns a tag that it does
//! not know: that stream is over.
//!
//! Bounds. Each stream has a window of [`STREAM_WINDOW`] bytes; one item of any size fits. An item also has to wait while more
//! than [`MOST_UNREAD`] bytes of answers of any kind are not with the kernel. So a lane holds, for all its streams together, at
//! most that and one largest item to send; and the item that each `send` under way waits with, which is the caller's. Received, it
//! holds a window and one largest item for each stream that was asked for here.
//!
//! How many streams a peer can have: of those that wait in the inbox, as many as fit into the window of messages, which it gets
//! back only while it reads what it is sent (`taken` among that). Of those that were taken, as many as the user takes at a time,
//! as with any request; each costs some 200 bytes here.
//!
//! Two locks and one of each stream; the rules of [`shared`](super::shared) hold for them too.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::sync::{Notify, Semaphore, TryAcquireError};

use super::frame::{self, Frame, Item, STREAM_LOT, STREAM_WINDOW, Violation, WINDOW, Word};
use super::inbox::{MessageQueue, Payload, SMALL};
use super::outbox::Stage;
use super::shared::{Core, NotQueued, lock, wake};

/// With more bytes of answers unread, items wait. Half of what keeps messages waiting: streams of small items do not.
const MOST_UNREAD: usize = WINDOW / 2;

/// The streams of one lane.
pub(super) struct Streams {
    /// Those that were asked for here and are not over, by tag.
    asked: Mutex<HashMap<u64, Asked>>,
    /// Those that are answered here.
    answered: Mutex<HashMap<u64, Arc<Outflow>>>,
    /// Items that wait for the peer to read do so one behind the other, so that none is woken in vain.
    turn: Semaphore,
}

enum Asked {
    /// Nothing was heard of it so far.
    Unheard(Arc<Inflow>),
    Heard(Arc<Inflow>),
    /// Nobody wants it any more. To be cancelled as soon as anything is heard of it.
    Abandoned,
}

/// What has come of a stream, where it was asked for.
#[derive(Default)]
pub(super) struct Inflow(Mutex<Arrived>);

#[derive(Default)]
struct Arrived {
    items: MessageQueue,
    /// What the items have cost for which no room was given back yet, and the part of those that were taken.
    unreturned: usize,
    taken: usize,
    end: Option<End>,
    waker: Option<Waker>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By `finish`: it is complete.
    Finished,
    Unanswered,
    /// With the lane.
    Gone,
}

/// What is next in a stream.
pub(super) enum Next {
    Item(Payload),
    Over(End),
}

/// A stream where it is answered.
pub(super) struct Outflow {
    /// What is left of the window. Closed when nothing can be sent any more.
    room: Semaphore,
    is_closed: Notify,
    /// What the items have cost for which no room came back yet.
    spent: AtomicUsize,
    /// Behind which large frame the next item must stay. Of concern only under the lock of the outbox.
    behind: AtomicU64,
}

/// The tags of streams that a lane leaves behind unfinished.
pub(super) struct Left {
    /// To be cancelled now.
    pub(super) heard: Vec<u64>,
    /// To be cancelled as soon as anything is heard of them.
    pub(super) unheard: Vec<u64>,
}

/// Asking.
impl Core {
    pub(super) fn expect_items(&self, tag: u64) -> Arc<Inflow> {
        let inflow = Arc::new(Inflow::default());
        lock(&self.streams.asked).insert(tag, Asked::Unheard(Arc::clone(&inflow)));
        inflow
    }

    /// The request was not sent.
    pub(super) fn expect_no_items(&self, tag: u64) {
        let unasked = lock(&self.streams.asked).remove(&tag);
        drop(unasked);
    }

    /// Takes the next item; a small one is put into the buffer.
    pub(super) fn poll_item(&self, tag: u64, inflow: &Inflow, small: &mut [u8; SMALL], cx: &Context<'_>) -> Poll<Next> {
        let mut arrived = lock(&inflow.0);
        if let Some((payload, cost)) = arrived.items.take(small) {
            let more = arrived.give_back(frame::item_cost(cost));
            drop(arrived);
            if more > 0 {
                self.queue_word(&frame::more(tag, more as u32));
            }
            return Poll::Ready(Next::Item(payload));
        }
        if let Some(end) = arrived.end {
            return Poll::Ready(Next::Over(end));
        }
        let former = arrived.waker.replace(cx.waker().clone());
        drop(arrived);
        drop(former);
        Poll::Pending
    }

    /// Nobody takes the items of this stream any more.
    pub(super) fn abandon(&self, tag: u64) {
        let abandoned = match lock(&self.streams.asked).entry(tag) {
            Entry::Occupied(mut asked) if matches!(asked.get(), Asked::Unheard(_)) => asked.insert(Asked::Abandoned),
            Entry::Occupied(asked) => asked.remove(),
            Entry::Vacant(_) => return,
        };
        if let Asked::Heard(_) = abandoned {
            self.queue_word(&frame::cancel(tag));
        }
    }

    /// A stream that was asked for here has ended.
    pub(super) fn conclude(&self, tag: u64, end: End) {
        let asked = lock(&self.streams.asked).remove(&tag);
        if let Some(Asked::Unheard(inflow) | Asked::Heard(inflow)) = asked {
            inflow.end(end);
        }
    }

    fn queue_word(&self, word: &[u8]) {
        let mut outbox = lock(&self.outbox);
        if let Stage::Ended(_) = outbox.stage {
            return;
        }
        outbox.push_word(word);
        let waker = outbox.driver.wake_for_output();
        drop(outbox);
        wake(waker);
    }
}

/// Answering.
impl Core {
    /// The user has the request for a stream now.
    pub(super) fn begin_items(&self, tag: u64) -> Arc<Outflow> {
        let outflow = Arc::new(Outflow::default());
        // Known before the stage is looked at: whatever ends the lane from here on finds it.
        let namesake = lock(&self.streams.answered).insert(tag, Arc::clone(&outflow));
        if let Some(namesake) = namesake {
            namesake.close();
        }
        let mut outbox = lock(&self.outbox);
        if let Stage::Ended(_) = outbox.stage {
            drop(outbox);
            self.forget_items(tag, &outflow);
            outflow.close();
            return outflow;
        }
        let is_open = outbox.stage == Stage::Open;
        outbox.unanswered.insert(tag);
        outbox.push_answer(Frame::Whole(&frame::taken(tag)));
        self.announce_answer(outbox);
        if !is_open {
            outflow.close();
        }
        outflow
    }

    pub(super) fn queue_item(&self, outflow: &Outflow, frame: Frame<'_>) -> Result<(), NotQueued> {
        let room = outflow.room.try_acquire_many(frame.item_cost() as u32).map_err(|error| match error {
            TryAcquireError::NoPermits => NotQueued::NoRoom,
            TryAcquireError::Closed => NotQueued::Gone,
        })?;
        let others_wait = self.streams.turn.available_permits() == 0;
        if others_wait {
            return Err(NotQueued::NoRoom);
        }
        self.push_item(outflow, frame)?;
        // What is spent comes back by `more`, not by dropping the permit.
        room.forget();
        Ok(())
    }

    /// Cancel safety: if the future is dropped, the item was not queued.
    pub(super) async fn queue_item_when_room(&self, outflow: &Outflow, frame: Frame<'_>) -> Result<(), NotQueued> {
        let room = outflow.room.acquire_many(frame.item_cost() as u32).await.map_err(|_closed| NotQueued::Gone)?;
        let _turn = tokio::select! {
            biased;
            turn = self.streams.turn.acquire() => turn,
            () = outflow.closed() => return Err(NotQueued::Gone),
        };
        loop {
            let progress = self.written();
            match self.push_item(outflow, frame) {
                Err(NotQueued::NoRoom) => {}
                done => return done.map(|()| room.forget()),
            }
            tokio::select! {
                () = progress => {}
                () = outflow.closed() => {}
            }
        }
    }

    /// Queues the last word of a stream: `end`, or `unanswered` unless everything could be sent. There is always a place for it.
    pub(super) fn end_items(&self, tag: u64, outflow: &Arc<Outflow>, is_finished: bool) {
        if !self.forget_items(tag, outflow) {
            return;
        }
        let word = if is_finished && !outflow.room.is_closed() { frame::end(tag) } else { frame::unanswered(tag) };
        let mut outbox = lock(&self.outbox);
        outbox.unanswered.remove(&tag);
        if let Stage::Ended(_) = outbox.stage {
            return;
        }
        outbox.push_in_order(Frame::Whole(&word), &outflow.behind);
        self.announce_answer(outbox);
    }

    /// This side is about to send nothing any more: there are no more items, only last words.
    pub(super) fn stop_items(&self) {
        let answered: Vec<_> = lock(&self.streams.answered).values().cloned().collect();
        answered.iter().for_each(|outflow| outflow.close());
    }

    fn push_item(&self, outflow: &Outflow, frame: Frame<'_>) -> Result<(), NotQueued> {
        let mut outbox = lock(&self.outbox);
        if outbox.stage != Stage::Open || outflow.room.is_closed() {
            return Err(NotQueued::Gone);
        }
        if outbox.unread_answers() > MOST_UNREAD {
            return Err(NotQueued::NoRoom);
        }
        outflow.spent.fetch_add(frame.item_cost(), Ordering::Relaxed);
        outbox.push_in_order(frame, &outflow.behind);
        self.announce_answer(outbox);
        Ok(())
    }

    /// Whether there was such a stream: it may be over, and its tag even be another's.
    fn forget_items(&self, tag: u64, outflow: &Arc<Outflow>) -> bool {
        let mut answered = lock(&self.streams.answered);
        let is_known = answered.get(&tag).is_some_and(|known| Arc::ptr_eq(known, outflow));
        if is_known {
            answered.remove(&tag);
        }
        is_known
    }
}

/// The driver's side.
impl Core {
    pub(super) fn hear(&self, tag: u64, word: Word) -> Result<(), Violation> {
        match word {
            Word::Taken => {
                self.hear_of(tag);
                Ok(())
            }
            Word::Item(item) => match self.hear_of(tag) {
                Some(inflow) => inflow.deliver(item),
                None => Ok(()),
            },
            Word::End => {
                self.conclude(tag, End::Finished);
                Ok(())
            }
            Word::More(bytes) => {
                let outflow = lock(&self.streams.answered).get(&tag).cloned();
                outflow.map_or(Ok(()), |outflow| outflow.regain(bytes as usize))
            }
            Word::Cancel => {
                self.withdraw_items(tag);
                Ok(())
            }
        }
    }

    /// Everybody who waits for something hears that it will not come.
    pub(super) fn end_streams(&self) {
        let asked = mem::take(&mut *lock(&self.streams.asked));
        for asked in asked.into_values() {
            if let Asked::Unheard(inflow) | Asked::Heard(inflow) = asked {
                inflow.end(End::Gone);
            }
        }
        let answered = mem::take(&mut *lock(&self.streams.answered));
        answered.into_values().for_each(|outflow| outflow.close());
    }

    /// The same, for those that were asked for here; whoever answers them is still to be told.
    pub(super) fn leave_streams(&self) -> Left {
        let asked = mem::take(&mut *lock(&self.streams.asked));
        let mut left = Left { heard: Vec::new(), unheard: Vec::new() };
        for (tag, asked) in asked {
            match asked {
                Asked::Heard(inflow) => {
                    left.heard.push(tag);
                    inflow.end(End::Gone);
                }
                Asked::Unheard(inflow) => {
                    left.unheard.push(tag);
                    inflow.end(End::Gone);
                }
                Asked::Abandoned => left.unheard.push(tag),
            }
        }
        left
    }

    /// What the one who answers has sent proves that it has the request.
    fn hear_of(&self, tag: u64) -> Option<Arc<Inflow>> {
        let mut streams = lock(&self.streams.asked);
        let Entry::Occupied(mut asked) = streams.entry(tag) else { return None };
        let inflow = match asked.get() {
            Asked::Heard(inflow) => return Some(Arc::clone(inflow)),
            Asked::Unheard(inflow) => Arc::clone(inflow),
            Asked::Abandoned => {
                asked.remove();
                drop(streams);
                self.queue_word(&frame::cancel(tag));
                return None;
            }
        };
        asked.insert(Asked::Heard(Arc::clone(&inflow)));
        Some(inflow)
    }

    /// The one who asked wants no more. That the stream is over already is nobody's error.
    fn withdraw_items(&self, tag: u64) {
        let Some(outflow) = lock(&self.streams.answered).remove(&tag) else { return };
        lock(&self.outbox).unanswered.remove(&tag);
        outflow.close();
    }

    #[cfg(test)]
    pub(super) fn open_streams(&self) -> (usize, usize) {
        (lock(&self.streams.asked).len(), lock(&self.streams.answered).len())
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self { asked: Mutex::default(), answered: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Streams {
    /// With those that another lane has left unheard of.
    pub(super) fn abandoned(tags: Vec<u64>) -> Self {
        let asked = tags.into_iter().map(|tag| (tag, Asked::Abandoned)).collect();
        Self { asked: Mutex::new(asked), ..Self::default() }
    }
}

impl Inflow {
    fn deliver(&self, item: Item) -> Result<(), Violation> {
        let mut arrived = lock(&self.0);
        arrived.unreturned += item.cost();
        if arrived.unreturned > STREAM_WINDOW {
            return Err(format!("items for {} bytes; the window is {STREAM_WINDOW}", arrived.unreturned));
        }
        match item {
            Item::Whole(frame) => arrived.items.push(frame),
            Item::Single(message) => arrived.items.push_single(message),
        }
        let waker = arrived.waker.take();
        drop(arrived);
        wake(waker);
        Ok(())
    }

    fn end(&self, end: End) {
        let mut arrived = lock(&self.0);
        arrived.end.get_or_insert(end);
        let waker = arrived.waker.take();
        drop(arrived);
        wake(waker);
    }
}

impl Arrived {
    /// The user has taken an item. Says how much room the other end gets for it and those before.
    fn give_back(&mut self, cost: usize) -> usize {
        self.taken += cost;
        if self.taken < STREAM_LOT || self.end.is_some() {
            return 0;
        }
        self.unreturned -= self.taken;
        mem::take(&mut self.taken)
    }
}

impl Default for Outflow {
    fn default() -> Self {
        Self {
            room: Semaphore::new(STREAM_WINDOW),
            is_closed: Notify::new(),
            spent: AtomicUsize::new(0),
            behind: AtomicU64::new(0),
        }
    }
}

impl Outflow {
    /// Waits until nothing can be sent any more.
    pub(super) async fn closed(&self) {
        let closed = self.is_closed.notified();
        if !self.room.is_closed() {
            closed.await;
        }
    }

    fn close(&self) {
        self.room.close();
        self.is_closed.notify_waiters();
    }

    /// The user at the other end has taken items.
    fn regain(&self, bytes: usize) -> Result<(), Violation> {
        let due = self.spent.load(Ordering::Relaxed);
        if bytes == 0 || bytes > due {
            return Err(format!("more room in a stream, for {bytes} bytes when {due} were due"));
        }
        // Whoever spends meanwhile only adds to it.
        self.spent.fetch_sub(bytes, Ordering::Relaxed);
        self.room.add_permits(bytes);
        Ok(())
    }
}
