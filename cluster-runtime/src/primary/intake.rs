//! The events of the user's primary function: where news of the cluster and messages of the workers get their order.

use std::sync::Arc;

use super::event::Event;
use super::shared::{News, Shared};
use crate::ipc::{Batch, Lane, Message, Received};
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
    has_ended: bool,
}

/// What there is now.
enum Look<Up> {
    Event(Event<Up>),
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
    pub(super) const fn new(shared: Arc<Shared<Up, Down>>) -> Self {
        Self { shared, inlets: Vec::new(), turn: 0, taken: 0, has_ended: false }
    }

    /// Leaves every message that was not handed out on its lane.
    pub(super) fn put_back(&mut self) {
        for Inlet { lane, batch, .. } in &mut self.inlets {
            lane.put_back(batch);
        }
    }

    pub(super) async fn next(&mut self) -> Option<Event<Up>> {
        if self.taken == 0 {
            tokio::task::coop::consume_budget().await;
        }
        match self.look() {
            Look::Event(event) => Some(event),
            Look::Ended => None,
            Look::Nothing => self.next_arrival().await,
        }
    }

    #[cold]
    async fn next_arrival(&mut self) -> Option<Event<Up>> {
        let shared = Arc::clone(&self.shared);
        loop {
            let arrival = shared.arrivals.notified();
            match self.look() {
                Look::Event(event) => return Some(event),
                Look::Ended => return None,
                Look::Nothing => arrival.await,
            }
        }
    }

    #[inline(always)]
    fn look(&mut self) -> Look<Up> {
        // The rest is for the next program.
        if self.shared.leave.is_told() {
            return Look::Ended;
        }
        if let Some(event) = self.next_news() {
            return Look::Event(event);
        }
        if let Some(event) = self.next_message() {
            return Look::Event(event);
        }
        if self.has_ended && self.inlets.is_empty() { Look::Ended } else { Look::Nothing }
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

    #[inline(always)]
    fn next_message(&mut self) -> Option<Event<Up>> {
        for _ in 0..self.inlets.len() {
            if self.turn >= self.inlets.len() {
                self.turn = 0;
            }
            let Inlet { worker, ref lane, ref mut batch, exit } = self.inlets[self.turn];
            match (lane.try_recv_in_batches(batch), exit) {
                (Received::Empty, _) | (Received::Ended, None) => self.next_turn(),
                (Received::Message(message), _) => {
                    self.taken += 1;
                    if self.taken == IN_A_ROW {
                        self.next_turn();
                    }
                    return Some(Event::Message(worker, message));
                }
                (Received::Ended, Some(exit)) => {
                    self.inlets.remove(self.turn);
                    self.taken = 0;
                    // Without its inlet, the exit is the next thing to be told.
                    self.shared.tell_next(News::Exited(worker, exit));
                    return Some(Event::Disconnected(worker));
                }
            }
        }
        None
    }

    fn next_turn(&mut self) {
        self.turn += 1;
        self.taken = 0;
    }
}

impl<Up, Down> std::fmt::Debug for Intake<Up, Down> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("inlets", &self.inlets.len()).finish_non_exhaustive()
    }
}
