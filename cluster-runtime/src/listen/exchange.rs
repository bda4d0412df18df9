//! The exchange: chooses who serves a connection, counts it there, and hands it over. The same in a worker and in the primary.

use std::sync::Arc;
use std::time::Duration;

use super::mailbox::{BATCH, Connection, Cover, Mailboxes};
use super::place::{Dispatch, Load, Loads, Placement, Readiness};
use super::{Address, PortId};
use crate::board::{self, Board, Line, Opened, Slot, Tag};

/// A worker that has been at one thing for so long is busy.
pub(crate) const BUSY: Duration = Duration::from_millis(3);
/// Times that a choice is made anew because the loads have changed meanwhile.
const TRIES: usize = 8;

/// What a connection is placed by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Client<'a> {
    At(&'a Address),
    Named(&'a [u8]),
    /// To be known by whoever gets it.
    Unknown,
}

/// The line of a slot's worker that takes connections, as it was.
type Accepting = Option<(&'static Line, Opened)>;

/// Who gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Whoever has accepted it, whose count on the board includes it already.
    Here,
    /// Another slot. Its worker's count includes the connection already, if it has one.
    There { slot: usize, counted_by: Tag },
    /// Nobody can take it, the loads change faster than they can be looked at, or the cluster stops: keep it, uncounted.
    Undecided,
}

#[derive(Debug)]
pub(crate) struct Exchange {
    board: Board,
    mailboxes: Mailboxes,
    dispatch: Dispatch,
    placement: Arc<dyn Placement>,
}

impl Exchange {
    pub(crate) fn new(board: Board, mailboxes: Mailboxes, dispatch: Dispatch) -> Self {
        let placement = dispatch.placement();
        Self { board, mailboxes, dispatch, placement }
    }

    pub(crate) fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    pub(crate) fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// Chooses a slot for a connection to `port` that was accepted `here`.
    pub(crate) fn place(&self, here: Option<usize>, port: PortId, client: Client<'_>) -> Choice {
        if self.board.is_stopping() {
            return Choice::Undecided;
        }
        for _ in 0..TRIES {
            let (loads, lines) = self.look(port);
            let loads = Loads::new(here, &loads);
            let slot = match client {
                Client::At(address) => loads.place(&*self.placement, address),
                Client::Named(name) => loads.place_by_name(name),
                Client::Unknown => loads.place_anywhere(),
            };
            let Some(slot) = slot else { return Choice::Undecided };
            match lines[slot] {
                Some((line, seen)) if line.promise(seen) => {
                    let there = Choice::There { slot, counted_by: seen.tag() };
                    return if here == Some(slot) { Choice::Here } else { there };
                }
                // Somebody was quicker; with what that changes, another slot may be the one.
                Some(_) => {}
                None if here == Some(slot) => return Choice::Undecided,
                None => return Choice::There { slot, counted_by: Tag::NOBODY },
            }
        }
        Choice::Undecided
    }

    /// Chooses a slot for a connection that was not accepted here, or cannot stay. Where clients are known by the head of their request,
    /// which is not looked at here, it goes where there is room.
    pub(crate) fn place_again(&self, port: PortId, client: &Address) -> Choice {
        let client = if self.dispatch.head_key().is_some() { Client::Unknown } else { Client::At(client) };
        self.place(None, port, client)
    }

    /// Hands over what `outgoing` holds. What cannot be handed over now comes back, uncounted.
    pub(crate) fn send(&self, port: PortId, is_unplaced: bool, outgoing: Outgoing) -> Vec<Connection> {
        let mut left = Vec::new();
        for Group { slot, counted_by, connections } in outgoing.groups {
            let back = self.post(slot, Cover { port, counted_by: counted_by.number(), is_unplaced }, connections);
            back.iter().for_each(|_| self.withdraw(slot, counted_by));
            left.extend(back);
        }
        left
    }

    /// Puts connections to `port` that nobody has counted or placed into the mailbox of `slot`. Those that do not fit come back.
    pub(crate) fn leave_with(&self, slot: usize, port: PortId, connections: Vec<Connection>) -> Vec<Connection> {
        let is_unplaced = self.dispatch.head_key().is_some();
        self.post(slot, Cover { port, counted_by: Tag::NOBODY.number(), is_unplaced }, connections)
    }

    fn post(&self, slot: usize, cover: Cover, connections: Vec<Connection>) -> Vec<Connection> {
        let batches = in_batches(connections);
        batches.filter(|batch| self.mailboxes.send(slot, cover, batch).is_err()).flatten().collect()
    }

    /// The slots whose workers look into their mailboxes for connections to `port` while the cluster stops, the idlest first.
    pub(crate) fn last_receivers(&self, port: PortId) -> Vec<usize> {
        let load = |slot: usize| {
            let lines = self.board.slot(slot).lines().iter().filter(|line| line.accepts(port.0));
            lines.map(|line| (line.opened().count(), slot)).min()
        };
        let mut slots: Vec<_> = (0..self.mailboxes.len()).filter_map(load).collect();
        slots.sort_unstable();
        slots.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Takes back what [`place`](Self::place) has counted.
    pub(crate) fn withdraw(&self, slot: usize, counted_by: Tag) {
        if counted_by != Tag::NOBODY {
            self.board.slot(slot).lines().iter().for_each(|line| line.withdraw(counted_by));
        }
    }

    /// How `slot` is doing as far as `port` goes.
    pub(crate) fn readiness(&self, slot: usize, port: PortId, now: u64) -> Readiness {
        let place = self.board.slot(slot);
        readiness(place, place.accepting(port.0), now)
    }

    /// Whether the worker of `slot` takes connections from any port and is not busy.
    pub(crate) fn is_ready(&self, slot: usize, now: u64) -> bool {
        self.board.slot(slot).accepting_any().is_some_and(|(line, _)| line.busy_for(now) <= BUSY)
    }

    /// A slot that has a worker, or gets one soon; any, if none has.
    pub(crate) fn some_manned(&self) -> usize {
        (0..self.mailboxes.len()).find(|slot| self.board.slot(*slot).is_manned()).unwrap_or(0)
    }

    /// The loads, and the lines on the board that they were read from.
    fn look(&self, port: PortId) -> (Vec<Load>, Vec<Accepting>) {
        let now = board::now();
        let look = |slot: usize| {
            let place = self.board.slot(slot);
            let line = place.accepting(port.0);
            let (open, accepted) = line.map_or((0, 0), |(line, opened)| (opened.count(), line.accepted()));
            (Load { slot, state: readiness(place, line, now), open, accepted }, line)
        };
        (0..self.mailboxes.len()).map(look).unzip()
    }
}

fn readiness(slot: &Slot, accepting: Option<(&Line, Opened)>, now: u64) -> Readiness {
    match accepting {
        Some((line, _)) if line.busy_for(now) > BUSY => Readiness::Busy,
        Some(_) => Readiness::Ready,
        // A worker that listens elsewhere has had its time to listen here, too.
        None if slot.is_manned() && slot.accepting_any().is_none() => Readiness::Coming,
        None => Readiness::Vacant,
    }
}

/// Connections to be handed over, by receiver.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    slot: usize,
    counted_by: Tag,
    connections: Vec<Connection>,
}

impl Outgoing {
    pub(crate) fn push(&mut self, slot: usize, counted_by: Tag, connection: Connection) {
        match self.groups.iter_mut().find(|group| group.slot == slot && group.counted_by == counted_by) {
            Some(group) => group.connections.push(connection),
            None => self.groups.push(Group { slot, counted_by, connections: vec![connection] }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.iter().map(|group| group.connections.len()).sum()
    }
}

fn in_batches(connections: Vec<Connection>) -> impl Iterator<Item = Vec<Connection>> {
    let mut rest = connections.into_iter();
    std::iter::from_fn(move || Some(rest.by_ref().take(BATCH).collect()).filter(|batch: &Vec<_>| !batch.is_empty()))
}
