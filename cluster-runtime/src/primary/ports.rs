//! The primary's part in the ports: it keeps the sockets and the mailboxes, and serves what nobody else serves now.
//!
//! A slot whose worker is missing or stuck is *excluded*: the kernel gives it no new connections, and what waits in its queue and in
//! its mailbox is handed to others (by `tend`) until it is back. Who is stuck shows on the board. While all workers sleep, nobody looks; the
//! first one that wakes up rings the bell.
//!
//! Workers share sockets, mailboxes and the board with each other, and one that has gone mad can change them. `inspect` finds that and puts
//! it right.

mod inspect;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout_at;

pub(super) use inspect::{Damage, Remedy};

use super::empty::{self, Door, Emptied};
use super::tend::{AtWork, LastRescue, Source, Tended, Waiting, sweep};
use crate::WorkerId;
use crate::board::{self, Board, MOST_SLOTS};
use crate::control::{Control, Granted, ToWorker};
use crate::listen::condition::Condition;
use crate::listen::exchange::Exchange;
use crate::listen::handed::{HandedDown, invalid};
use crate::listen::inherited::InheritedSockets;
use crate::listen::mailbox::{self, Mailboxes};
use crate::listen::place::{Dispatch, Readiness};
use crate::listen::registry::{Registry, RegistryState};
use crate::listen::{Address, PortId, PortKey, PortRequest, Scheme, drop_syn};
use crate::{metrics, os};

/// How often the primary looks after the workers while one of them is stuck or may soon be.
const LOOK: Duration = Duration::from_millis(2);
/// How often while they have something to do and get on with it. A look takes the time of a few requests from them.
const LONGEST_LOOK: Duration = Duration::from_millis(16);
/// For so long after somebody waited behind one that was stuck, that is thought to happen again.
const ALERT: Duration = Duration::from_secs(1);
/// When nobody has had anything to do for so long, the primary sleeps until the bell rings.
const CALM: Duration = Duration::from_millis(10);
/// By so much a look may be late before a worker that wakes up rings for it, in nanoseconds.
const LATE: u64 = 200_000_000;
/// Mailboxes in one packet of the control lane.
const MAILBOXES_AT_ONCE: usize = 250;

pub(super) struct Ports {
    registry: Registry,
    board: Board,
    board_fd: OwnedFd,
    bell: AsyncFd<OwnedFd>,
    exchange: Arc<Exchange>,
    /// The receiving ends, by slot.
    mailboxes: Vec<OwnedFd>,
    /// The sending ends once more, to give to workers.
    senders: Vec<OwnedFd>,
    tended: BTreeMap<Source, Tended>,
    at_work: AtWork,
    /// When to look again; `None` while everybody sleeps.
    next_look: Option<Instant>,
    /// The time from the last look to the next.
    pause: Duration,
    last_rescue: Arc<LastRescue>,
    is_stopping: bool,
    /// What stands on the board of each slot, as far as it is ours to write.
    entries: Vec<Entry>,
    /// What each end of a mailbox is like.
    mailbox_condition: Condition,
    /// The slots whose workers have had something to do since their sockets were last looked at.
    uninspected: BTreeSet<usize>,
    /// When a port that was lost was last tried to be bound again.
    tried_again: Option<Instant>,
    emptied: Arc<Emptied>,
}

/// What the primary writes on the board of one slot. Any worker can write over it, so it is written again with each look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    is_manned: bool,
    lead: Option<WorkerId>,
    /// Whose the lines are, and how large a message each worker takes.
    lines: [Option<(WorkerId, usize)>; 2],
}

impl Entry {
    fn line_of(&self, worker: WorkerId) -> Option<usize> {
        self.lines.iter().position(|line| line.is_some_and(|(owner, _)| owner == worker))
    }
}

/// [`Ports`] as plain data. The descriptors go beside it: the board, the bell, both ends of each slot's mailbox, and those of the
/// registry.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortsState {
    registry: RegistryState,
    slots: usize,
    is_stopping: bool,
    entries: Vec<Entry>,
}

impl PortsState {
    /// Whether the ports can be gone on with under this policy. To be asked before there is no way back.
    ///
    /// # Errors
    /// `InvalidInput` if it needs sockets of another kind.
    pub(super) fn check(&self, dispatch: &Dispatch) -> io::Result<()> {
        self.registry.check(dispatch)
    }
}

impl Ports {
    /// Must be called inside the runtime.
    pub(super) fn new(
        slots: usize,
        dispatch: Dispatch,
        inherited: InheritedSockets,
        most_sockets: usize,
    ) -> io::Result<Self> {
        let (board, board_fd) = Board::create()?;
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let mailboxes = (0..slots).map(|_| mailbox::pair()).collect::<io::Result<Vec<_>>>()?;
        let registry = Registry::new(slots, dispatch.clone(), inherited, most_sockets);
        Self::of((board, board_fd), bell.into(), mailboxes, registry, dispatch)
    }

    fn of(
        (board, board_fd): (Board, OwnedFd),
        bell: OwnedFd,
        mailboxes: Vec<(OwnedFd, OwnedFd)>,
        registry: Registry,
        dispatch: Dispatch,
    ) -> io::Result<Self> {
        let (senders, mailboxes): (Vec<_>, Vec<_>) = mailboxes.into_iter().unzip();
        let mailbox_condition = Condition::of(mailbox::pair()?.0.as_fd());
        let ours = Mailboxes::default();
        ours.put(0, senders.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?);
        Ok(Self {
            registry,
            board,
            board_fd,
            bell: os::register(bell, Interest::READABLE)?,
            exchange: Arc::new(Exchange::new(board, ours, dispatch)),
            entries: vec![Entry::default(); mailboxes.len()],
            mailboxes,
            senders,
            tended: BTreeMap::new(),
            at_work: AtWork::default(),
            next_look: None,
            pause: LOOK,
            last_rescue: Arc::default(),
            is_stopping: false,
            mailbox_condition,
            uninspected: BTreeSet::new(),
            tried_again: None,
            emptied: Arc::default(),
        })
    }

    /// A worker is about to be spawned into `slot`.
    pub(super) fn expect(&mut self, slot: usize, worker: WorkerId, max_message: usize) {
        if let Some(entry) = self.entries.get_mut(slot) {
            entry.is_manned = true;
            // Of two processes in a slot at most, the new one finds a line without an owner.
            let line = entry.lines.iter().position(Option::is_none).unwrap_or(0);
            entry.lines[line] = Some((worker, max_message));
            self.board.slot(slot).lines()[line].give_to(worker, max_message);
        }
        self.look();
    }

    /// A worker is reaped, or was never spawned; `is_followed`: another one comes at once.
    pub(super) fn forget(&mut self, slot: usize, worker: WorkerId, is_followed: bool) {
        if let Some(entry) = self.entries.get_mut(slot) {
            if let Some(line) = entry.line_of(worker) {
                entry.lines[line] = None;
                self.board.slot(slot).lines()[line].clear();
                self.board.metrics().forget_gauges(metrics::Place::Worker { slot, line });
            }
            entry.is_manned = is_followed;
        }
        self.look();
    }

    /// Messages of others to `slot` are for this worker from now on.
    pub(super) fn set_lead(&mut self, slot: usize, lead: Option<WorkerId>) {
        if let Some(entry) = self.entries.get_mut(slot) {
            entry.lead = lead;
        }
        self.board.slot(slot).set_lead(lead);
    }

    /// Tells a worker all that it needs to share ports with others; the welcome comes last.
    pub(super) fn welcome(
        &self,
        control: &Control,
        slot: usize,
        worker: WorkerId,
        grace: Duration,
        max_message: usize,
    ) -> io::Result<()> {
        self.tell_mailboxes(control, 0..self.slots())?;
        let line = self.entries.get(slot).and_then(|entry| entry.line_of(worker));
        let fds = [self.board_fd.as_fd(), self.bell.get_ref().as_fd(), self.mailboxes[slot].as_fd()];
        let line = line.unwrap_or(0);
        control.send_now(&ToWorker::Welcome { grace, line, max_message }, &fds)
    }

    /// The receiving end of the mailbox of `slot`.
    pub(super) fn mailbox(&self, slot: usize) -> Option<BorrowedFd<'_>> {
        self.mailboxes.get(slot).map(OwnedFd::as_fd)
    }

    /// Tells a worker the mailboxes of these slots.
    pub(super) fn tell_mailboxes(&self, control: &Control, slots: Range<usize>) -> io::Result<()> {
        for first in slots.clone().step_by(MAILBOXES_AT_ONCE) {
            let ends = &self.senders[first..slots.end.min(first + MAILBOXES_AT_ONCE)];
            let ends: Vec<_> = ends.iter().map(OwnedFd::as_fd).collect();
            control.send_now(&ToWorker::Mailboxes { first }, &ends)?;
        }
        Ok(())
    }

    /// Makes sure that there are so many slots; returns those that are new.
    ///
    /// # Errors
    /// Where descriptors run out; then there are as many as there were.
    pub(super) fn grow(&mut self, slots: usize) -> io::Result<Range<usize>> {
        let before = self.slots();
        if slots <= before || self.is_stopping {
            return Ok(before..before);
        }
        let pairs = (before..slots).map(|_| mailbox::pair()).collect::<io::Result<Vec<_>>>()?;
        let copies = pairs.iter().map(|(sender, _)| sender.try_clone()).collect::<io::Result<Vec<_>>>()?;
        self.registry.grow(slots)?;
        let (senders, mailboxes): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        self.senders.extend(senders);
        self.mailboxes.extend(mailboxes);
        self.exchange.mailboxes().put(before, copies);
        self.entries.resize(slots, Entry::default());
        Ok(before..slots)
    }

    /// How many ports there are.
    pub(super) fn count(&self) -> usize {
        self.registry.streams().count() + self.registry.datagrams().count()
    }

    /// Whether there are sockets for this slot.
    pub(super) fn has(&self, slot: usize) -> bool {
        slot < self.slots()
    }

    /// The socket of `slot` for a port, unless the primary accepts for all; while the cluster stops, only if there is one already.
    pub(super) fn listen(
        &mut self,
        slot: usize,
        request: &PortRequest,
    ) -> io::Result<(Granted, Option<BorrowedFd<'_>>)> {
        if self.is_stopping { self.registry.find(slot, request) } else { self.registry.listen(slot, request) }
    }

    /// Whether this port is bound.
    pub(super) fn has_port(&self, key: &PortKey) -> bool {
        self.registry.position(key).is_some()
    }

    pub(super) fn addresses(&self) -> Vec<(Address, Option<Scheme>)> {
        self.registry.addresses()
    }

    /// The real address of a port.
    pub(super) fn address(&self, port: PortId) -> Option<Address> {
        self.registry.address(port)
    }

    pub(super) const fn board(&self) -> &Board {
        &self.board
    }

    /// Completes when it is time to [look](Self::look). Cancel safe.
    pub(super) async fn is_due(&self) {
        let read = |bell: &OwnedFd| os::take_count(bell.as_fd());
        tokio::select! {
            () = super::sleep_until_some(self.next_look) => {}
            () = self.emptied.more() => {}
            () = self.exchange.mailboxes().broken() => {}
            // An error would mean that the runtime shuts down, and this process with it.
            _rung = self.bell.async_io(Interest::READABLE, read) => {}
        }
    }

    /// When the next look is due; `None` while everybody sleeps.
    pub(super) const fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Whether it is long due: for a loop that has so much else to do that [`is_due`](Self::is_due) never has its turn.
    pub(super) fn is_overdue(&self) -> bool {
        self.next_look.is_some_and(|time| time <= Instant::now())
    }

    /// Looks who serves and who does not, and sees to it that somebody serves everything.
    pub(super) fn look(&mut self) {
        self.restate();
        if self.is_stopping {
            self.next_look = None;
            return;
        }
        let was_asleep = self.next_look.is_none();
        let now = board::now();
        let sources = self.exclude_who_does_not_serve(now);
        self.tend(&sources);
        let is_alert = was_asleep || self.last_rescue.elapsed(now) < ALERT;
        self.pause = if is_alert { LOOK } else { (self.pause * 2).min(LONGEST_LOOK) };
        self.watch(now);
        self.note_who_is_awake(now);
        if self.is_calm(now) && self.uninspected.is_empty() && !self.has_failed() {
            self.board.set_watching(None);
            // Somebody may have woken up before that and not rung.
            if self.is_calm(now) {
                self.next_look = None;
            } else {
                self.watch(now);
            }
        }
    }

    /// The next look comes after the pause, and workers need not ring until then.
    fn watch(&mut self, now: u64) {
        self.next_look = Some(Instant::now() + self.pause);
        self.board.set_watching(Some(now + self.pause.as_nanos() as u64 + LATE));
    }

    /// The cluster stops: what waits where nobody will look is given to those that still serve. `manned` are the slots that have a
    /// process. What the primary accepts from is emptied, until the deadline at the latest; see [`take_emptied`](Self::take_emptied).
    pub(super) fn stop(&mut self, manned: &BTreeSet<usize>, deadline: Instant) {
        if self.is_stopping {
            return;
        }
        self.look();
        let unmanned: Vec<_> = (0..self.slots()).filter(|slot| !manned.contains(slot)).collect();
        let mut orphaned: BTreeSet<_> = self.tended.keys().copied().collect();
        orphaned.extend(unmanned.iter().flat_map(|slot| self.sources_of(*slot)));
        let unserved = self.unserved_shards();
        let to_close = unserved.iter().map(|(port, slot)| Source::Shard(*port, *slot));
        to_close.chain(unmanned.iter().flat_map(|slot| self.sources_of(*slot))).for_each(|source| self.shut(source));
        // The kernel may choose them again from here on, so they are swept after that.
        self.registry.stop_steering();
        orphaned.iter().for_each(|source| self.sweep(*source));
        self.is_stopping = true;
        self.board.set_stopping(true);
        self.tended.clear();
        self.empty_shared(deadline);
        unserved.into_iter().for_each(|(port, slot)| self.registry.close(slot, port));
        unmanned.into_iter().for_each(|slot| self.registry.close_slot(slot));
    }

    pub(super) const fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Nobody will ever serve these slots again: what waits there is for those that still look into their mailboxes, and who
    /// connects from now on is refused.
    pub(super) fn abandon(&mut self, slots: impl IntoIterator<Item = usize>) {
        for slot in slots {
            for source in self.sources_of(slot) {
                self.shut(source);
                self.sweep(source);
            }
            self.registry.close_slot(slot);
        }
    }

    /// The worker of `slot`, which is the last one there, has emptied the queue of `port`.
    pub(super) fn drained(&mut self, slot: usize, port: PortId) {
        self.registry.close(slot, port);
    }

    /// Empties the queues of all ports from which the primary accepts.
    fn empty_shared(&self, deadline: Instant) {
        for port in self.registry.streams() {
            let Some(socket) = self.registry.shared(port) else { continue };
            let door = match self.registry.address(port) {
                _ if self.registry.is_inherited(port) => Door::Leave,
                Some(Address::Tcp(_)) => Door::DropSyn,
                Some(_) | None => Door::ShutDown,
            };
            if let Err(error) = empty::start(socket, port, door, &self.exchange, &self.emptied, deadline.into()) {
                tracing::warn!(%error, "cannot empty the queue of a port");
            }
        }
    }

    /// The ports from which the primary accepted and whose queues have been emptied since this was last asked. They are closed.
    pub(super) fn take_emptied(&mut self) -> Vec<PortId> {
        let emptied = self.emptied.take();
        emptied.iter().for_each(|port| self.registry.close_shared(*port));
        emptied
    }

    /// Stops looking after queues, and returns when no connection is in this process's hands: what was taken and nobody can take
    /// over is in a mailbox. The next look begins anew.
    ///
    /// # Errors
    /// `TimedOut` if something cannot be put down until the deadline, as mailboxes are full; queues are looked after again.
    ///
    /// # Cancel safety
    /// Dropped while it waits, queues are looked after again with the next look, which is due.
    pub(super) async fn quiesce(&mut self, deadline: Instant) -> io::Result<()> {
        self.tended.clear();
        // Whatever becomes of this, somebody has to look again.
        self.next_look = Some(Instant::now());
        // Those too that were told to stop before and hold something still.
        if timeout_at(deadline.into(), self.at_work.nobody()).await.is_ok() {
            return Ok(());
        }
        let left = self.at_work.count();
        self.look();
        let text = format!("connections out of {left} queues cannot be handed to anybody: the mailboxes are full");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// What the program that this process becomes needs to go on with the same ports, and the descriptors that are to stay open.
    ///
    /// Nobody may look until that program is there. Should it not come to that, look: nothing has changed.
    ///
    /// # Errors
    /// If it is not [quiet](Self::quiesce).
    pub(super) fn hand_down(&self) -> io::Result<(PortsState, Vec<BorrowedFd<'_>>)> {
        if self.at_work.count() > 0 {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "queues are being looked after"));
        }
        Ok(self.describe())
    }

    /// The same, for a program that only says whether it could.
    pub(super) fn describe(&self) -> (PortsState, Vec<BorrowedFd<'_>>) {
        let mut fds = vec![self.board_fd.as_fd(), self.bell.get_ref().as_fd()];
        for (sender, mailbox) in self.senders.iter().zip(&self.mailboxes) {
            fds.extend([sender.as_fd(), mailbox.as_fd()]);
        }
        let registry = self.registry.hand_down(&mut fds);
        let (slots, is_stopping, entries) = (self.slots(), self.is_stopping, self.entries.clone());
        (PortsState { registry, slots, is_stopping, entries }, fds)
    }

    /// Lets go of what another has by now. What is left behind by exec needs no such care.
    pub(super) fn leave(mut self) {
        self.registry.keep_files();
    }

    /// Goes on with the ports of the program before; `fds` are the descriptors that it has handed down, in their order. Must be
    /// called inside the runtime. A look is due.
    ///
    /// # Errors
    /// What [`PortsState::check`] says, and `InvalidData` if the descriptors are not what they should be.
    pub(super) fn adopt(
        state: PortsState,
        fds: Vec<OwnedFd>,
        dispatch: Dispatch,
        most_sockets: usize,
    ) -> io::Result<Self> {
        let PortsState { registry, slots, is_stopping, mut entries } = state;
        let mut fds = HandedDown::new(fds);
        let board_fd = fds.next()?;
        let board = Board::open(board_fd.as_fd())?;
        let bell = fds.next()?;
        if slots > MOST_SLOTS {
            return Err(invalid("there are more slots than a cluster has"));
        }
        let mailboxes = (0..slots).map(|_| Ok((fds.next()?, fds.next()?))).collect::<io::Result<_>>()?;
        let registry = Registry::adopt(registry, &mut fds, slots, dispatch.clone(), most_sockets, !is_stopping)?;
        fds.end()?;
        let ports = Self::of((board, board_fd), bell, mailboxes, registry, dispatch)?;
        entries.resize(slots, Entry::default());
        // What workers have done to sockets and mailboxes does not go on with them.
        let uninspected = (0..slots).collect();
        // The board may still say that somebody looks, and then nobody rings.
        Ok(Self { is_stopping, next_look: Some(Instant::now()), entries, uninspected, ..ports })
    }

    pub(super) fn slots(&self) -> usize {
        self.mailboxes.len()
    }

    fn is_calm(&self, now: u64) -> bool {
        (0..self.slots()).all(|slot| self.board.slot(slot).at_rest_for(now) > CALM)
    }

    /// Lets the kernel pass over the slots that should get nothing now; returns what others must serve meanwhile.
    fn exclude_who_does_not_serve(&mut self, now: u64) -> BTreeSet<Source> {
        let mut sources = BTreeSet::new();
        let exchange = Arc::clone(&self.exchange);
        let dispatch = exchange.dispatch();
        for port in self.registry.streams().collect::<Vec<_>>() {
            let states: Vec<_> = (0..self.slots()).map(|slot| exchange.readiness(slot, port, now)).collect();
            let excluded = dispatch.excluded(&states);
            if states.iter().any(|state| matches!(state, Readiness::Ready | Readiness::Busy)) {
                sources.extend(excluded.iter().map(|slot| Source::Shard(port, *slot)));
                // A mailbox is for all ports: as long as its worker looks into it, others must not.
                let is_left = |slot: &&usize| dispatch.may_redirect(states[**slot]) && !exchange.is_ready(**slot, now);
                sources.extend(excluded.iter().filter(is_left).map(|slot| Source::Mailbox(*slot)));
                sources.insert(Source::Shared(port));
            }
            self.registry.exclude(port, excluded);
        }
        for port in self.registry.datagrams().collect::<Vec<_>>() {
            // Datagrams cannot be handed over, so they are kept for whoever comes soon.
            let vacant = (0..self.slots()).filter(|slot| !self.board.slot(*slot).is_manned()).collect::<BTreeSet<_>>();
            self.registry.exclude(port, if vacant.len() < self.slots() { vacant } else { BTreeSet::new() });
        }
        sources
    }

    /// Starts and ends tasks so that just these sources are tended. One from which nothing can come stays as it is, until it is repaired.
    fn tend(&mut self, sources: &BTreeSet<Source>) {
        self.tended
            .retain(|source, tended| tended.failure().is_some() || (sources.contains(source) && !tended.has_ended()));
        for source in sources {
            if self.tended.contains_key(source) {
                continue;
            }
            let Some(fd) = self.source(*source) else { continue };
            match Tended::start(fd, *source, &self.exchange, &self.last_rescue, &self.at_work) {
                Ok(tended) => _ = self.tended.insert(*source, tended),
                Err(error) => tracing::warn!(%error, "cannot look after a queue that nobody serves"),
            }
        }
    }

    /// Everything where connections may wait for the worker of `slot`.
    fn sources_of(&self, slot: usize) -> Vec<Source> {
        self.registry.streams().map(|port| Source::Shard(port, slot)).chain([Source::Mailbox(slot)]).collect()
    }

    /// The shards whose slots have no worker that takes connections from them, or will.
    fn unserved_shards(&self) -> Vec<(PortId, usize)> {
        let now = board::now();
        let all = self.registry.streams().flat_map(|port| (0..self.slots()).map(move |slot| (port, slot)));
        all.filter(|(port, slot)| self.exchange.readiness(*slot, *port, now) == Readiness::Vacant).collect()
    }

    /// Hands over what waits there now. What nobody can take goes into the mailbox of somebody who still looks; if there is nobody,
    /// it is closed.
    fn sweep(&self, source: Source) {
        let Some(fd) = self.source(source) else { return };
        for Waiting { port, connections } in sweep(fd, source, &self.exchange, |_| ()) {
            let looks = |slot: &usize| {
                source.slot() != Some(*slot) && self.board.slot(*slot).is_manned() && self.has_queue(port, *slot)
            };
            let lost = match (0..self.slots()).find(looks) {
                Some(slot) => self.exchange.leave_with(slot, port, connections).len(),
                None => connections.len(),
            };
            if lost > 0 {
                tracing::warn!(lost, "connections are closed unserved: nobody is left to take them over");
            }
        }
    }

    /// Lets nobody into a shard that is about to be swept and closed: who came in between would be reset.
    fn shut(&self, source: Source) {
        if let Source::Shard(port, slot) = source
            && let Some(shard) = self.registry.shard(port, slot)
        {
            drop_syn(shard);
        }
    }

    /// Whether the worker of `slot`, if there is one, has not emptied its queue for good.
    fn has_queue(&self, port: PortId, slot: usize) -> bool {
        self.registry.shard(port, slot).or(self.registry.shared(port)).is_some()
    }

    fn source(&self, source: Source) -> Option<BorrowedFd<'_>> {
        match source {
            Source::Shard(port, slot) => self.registry.shard(port, slot),
            Source::Shared(port) => self.registry.shared(port),
            Source::Mailbox(slot) => self.mailboxes.get(slot).map(OwnedFd::as_fd),
        }
    }
}
