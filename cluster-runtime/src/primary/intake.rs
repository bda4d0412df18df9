//! The events of the user's primary function: where news of the cluster and messages of the workers get their order.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::futures::OwnedNotified;
use tokio::task::coop;

use super::event::Event;
use super::shared::{News, Shared};
use crate::ipc::{Batch, Lane, Message, Received, Refill};
use crate::{Exit, WorkerId};

/// So many messages are taken from one worker before others have their turn, and other tasks of the thread by and by.
const IN_A_ROW: u8 = 16;

/// The one place that takes news and messages, and gives them their order.
pub(super) struct Intake<Up, Down> {
    pub(super) shared: Arc<Shared<Up, Down>>,
    pub(super) inlets: Vec<Inlet<Up, Down>>,
    /// The inlet that is looked at first, so that a busy worker cannot keep the others from being heard.
    turn: usize,
    /// How many messages came from it since it is.
    taken: u8,
    /// Messages may be taken from it until its turn is over.
    is_served: bool,
    has_ended: bool,
    /// Told when there is something to look at, once it is waited for.
    arrival: Pin<Box<OwnedNotified>>,
}

/// What there is now.
enum Look<Up> {
    Event(Event<Up>),
    /// Messages, in the batch of the inlet whose turn it is.
    Batch,
    Nothing,
    /// And nothing will come.
    Ended,
}

/// One worker whose messages may come.
pub(super) struct Inlet<Up, Down> {
    pub(super) worker: WorkerId,
    pub(super) lane: Lane<Down, Up>,
    /// Messages that were taken from the lane together and are handed out one by one.
    batch: Batch,
    /// Its process is gone, and everything that it said to the shell has been told; perhaps not all of its messages.
    pub(super) exit: Option<Exit>,
}

impl<Up: Message, Down: Message> Intake<Up, Down> {
    pub(super) fn new(shared: Arc<Shared<Up, Down>>) -> Self {
        let arrival = Box::pin(Arc::clone(&shared.arrivals).notified_owned());
        Self { shared, inlets: Vec::new(), turn: 0, taken: 0, is_served: false, has_ended: false, arrival }
    }

    /// Leaves every message that was not handed out on its lane.
    pub(super) fn put_back(&mut self) {
        for Inlet { lane, batch, .. } in &mut self.inlets {
            lane.put_back(batch);
        }
    }

    /// The next event; `None` once there will be no more.
    ///
    /// Not an `async fn`, and messages of a batch are decoded here alone: each time that one is moved takes as long as to decode it.
    #[inline(always)]
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event<Up>>> {
        loop {
            if self.is_served
                && !self.shared.has_news()
                && !self.shared.leave.is_told()
                && let Some(Inlet { worker, lane, batch, .. }) = self.inlets.get_mut(self.turn)
                && let Some(message) = lane.next_of(batch)
            {
                let worker = *worker;
                self.count();
                return Poll::Ready(Some(Event::Message(worker, message)));
            }
            match ready!(self.poll_look(cx)) {
                Look::Event(event) => return Poll::Ready(Some(event)),
                Look::Ended => return Poll::Ready(None),
                Look::Batch | Look::Nothing => {}
            }
        }
    }

    /// Anything but nothing.
    #[inline(never)]
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Look<Up>> {
        if !self.is_served {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        let mut found = self.look();
        while let Look::Nothing = found {
            // What comes after this is told, and what has come before is seen.
            self.arrival.set(Arc::clone(&self.shared.arrivals).notified_owned());
            found = self.look();
            if let Look::Nothing = found {
                ready!(self.arrival.as_mut().poll(cx));
            }
        }
        Poll::Ready(found)
    }

    /// Takes what comes, for nobody, and leaves the rest to the next program.
    pub(super) async fn drain(mut self: Box<Self>) {
        while poll_fn(|cx| self.poll_next(cx)).await.is_some() {}
        Arc::clone(&self.shared).leave_intake(self);
    }

    fn look(&mut self) -> Look<Up> {
        // The rest is for the next program.
        if self.shared.leave.is_told() {
            return Look::Ended;
        }
        if let Some(event) = self.next_news() {
            return Look::Event(event);
        }
        match self.look_for_messages() {
            Look::Nothing if self.has_ended && self.inlets.is_empty() => Look::Ended,
            found => found,
        }
    }

    fn next_news(&mut self) -> Option<Event<Up>> {
        loop {
            match self.shared.next_news()? {
                News::Event(event) => return Some(event),
                News::Online(worker, lane) => {
                    self.inlets.push(Inlet { worker, lane, batch: Batch::default(), exit: None });
                    return Some(Event::Online(worker));
                }
                News::Exited(worker, exit) => {
                    if let Some(event) = self.exited(worker, exit) {
                        return Some(event);
                    }
                }
                News::Upgrading if self.shared.leave.tell() => return Some(Event::Upgrading),
                News::Upgrading => {}
                News::Ended => self.has_ended = true,
            }
        }
    }

    /// A worker's exit is told when nothing of it is left to be told before.
    fn exited(&mut self, worker: WorkerId, exit: Exit) -> Option<Event<Up>> {
        match self.inlets.iter_mut().find(|inlet| inlet.worker == worker) {
            Some(inlet) => {
                inlet.exit = Some(exit);
                None
            }
            None => Some(Event::Exited(worker, exit)),
        }
    }

    fn look_for_messages(&mut self) -> Look<Up> {
        for _ in 0..self.inlets.len() {
            if self.turn >= self.inlets.len() {
                self.turn = 0;
            }
            let Inlet { worker, ref lane, ref mut batch, exit } = self.inlets[self.turn];
            match (lane.refill(batch), exit) {
                (Refill::Batch, _) => {
                    self.is_served = true;
                    return Look::Batch;
                }
                (Refill::Other(Received::Message(message)), _) => {
                    self.count();
                    return Look::Event(Event::Message(worker, message));
                }
                (Refill::Other(Received::Empty), _) | (Refill::Other(Received::Ended), None) => self.next_turn(),
                (Refill::Other(Received::Ended), Some(exit)) => {
                    self.inlets.remove(self.turn);
                    (self.taken, self.is_served) = (0, false);
                    // Without its inlet, the exit is the next thing to be told.
                    self.shared.tell_next(News::Exited(worker, exit));
                    return Look::Event(Event::Disconnected(worker));
                }
            }
        }
        Look::Nothing
    }

    /// A message was taken from the inlet whose turn it is.
    #[inline]
    fn count(&mut self) {
        self.taken += 1;
        if self.taken == IN_A_ROW {
            self.next_turn();
        }
    }

    #[inline]
    fn next_turn(&mut self) {
        self.turn += 1;
        (self.taken, self.is_served) = (0, false);
    }
}

impl<Up, Down> std::fmt::Debug for Intake<Up, Down> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("inlets", &self.inlets.len()).finish_non_exhaustive()
    }
}
