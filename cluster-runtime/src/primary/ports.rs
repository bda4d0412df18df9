//! The primary's part in the ports: it keeps the sockets and the mailboxes, and serves what nobody else serves now.
//!
//! A slot whose worker is missing or stuck is *excluded*: the kernel gives it no new connections, and what waits in its queue and in
//! its mailbox is handed to others until it is back. Who is stuck shows on the board. While all workers sleep, nobody looks; the
//! first one that wakes up rings the bell.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};

use crate::WorkerId;
use crate::board::{self, Board};
use crate::control::{Control, Granted, ToWorker};
use crate::listen::exchange::{Choice, Client, Exchange, Outgoing};
use crate::listen::inherited::InheritedSockets;
use crate::listen::mailbox::{self, BATCH, Connection, Mailboxes};
use crate::listen::place::{Dispatch, Readiness};
use crate::listen::registry::Registry;
use crate::listen::{Address, PortId, PortRequest};
use crate::os;

/// How often the primary looks after the workers while one of them is awake.
const LOOK: Duration = Duration::from_millis(2);
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
    /// When to look again; `None` while everybody sleeps.
    next_look: Option<Instant>,
    is_stopping: bool,
}

/// Where connections wait that the primary may hand to others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Shard(PortId, usize),
    Shared(PortId),
    Mailbox(usize),
}

/// A task that does so, until this is dropped.
struct Tended(#[expect(dead_code, reason = "dropping it is the message")] oneshot::Sender<()>);

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
        let pairs = (0..slots).map(|_| mailbox::pair()).collect::<io::Result<Vec<_>>>()?;
        let (senders, mailboxes): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let ours = Mailboxes::default();
        ours.add(0, senders.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?);
        Ok(Self {
            registry: Registry::new(slots, dispatch.clone(), inherited, most_sockets),
            board,
            board_fd,
            bell: os::register(bell.into(), Interest::READABLE)?,
            exchange: Arc::new(Exchange::new(board, ours, dispatch)),
            mailboxes,
            senders,
            tended: BTreeMap::new(),
            next_look: None,
            is_stopping: false,
        })
    }

    /// A worker is about to be spawned into `slot`.
    pub(super) fn expect(&mut self, slot: usize, worker: WorkerId) {
        let slot = self.board.slot(slot);
        slot.set_manned(true);
        slot.lines()[slot.free_line()].give_to(worker);
        self.look();
    }

    /// A worker is reaped, or was never spawned; `is_followed`: another one comes at once.
    pub(super) fn forget(&mut self, slot: usize, worker: WorkerId, is_followed: bool) {
        let place = self.board.slot(slot);
        if let Some(line) = place.line_of(worker) {
            line.clear();
        }
        place.set_manned(is_followed);
        self.look();
    }

    /// Tells a worker all that it needs to share ports with others; the welcome comes last.
    pub(super) fn welcome(&self, control: &Control, slot: usize, worker: WorkerId, grace: Duration) -> io::Result<()> {
        for (nth, ends) in self.senders.chunks(MAILBOXES_AT_ONCE).enumerate() {
            let ends: Vec<_> = ends.iter().map(OwnedFd::as_fd).collect();
            control.send_now(&ToWorker::Mailboxes { first: nth * MAILBOXES_AT_ONCE }, &ends)?;
        }
        let line = self.board.slot(slot).lines().iter().position(|line| line.opened().tag() == board::Tag::of(worker));
        let fds = [self.board_fd.as_fd(), self.bell.get_ref().as_fd(), self.mailboxes[slot].as_fd()];
        control.send_now(&ToWorker::Welcome { grace, line: line.unwrap_or(0) }, &fds)
    }

    /// The socket of `slot` for a port; while the cluster stops, only if there is one already.
    pub(super) fn listen(&mut self, slot: usize, request: &PortRequest) -> io::Result<(Granted, BorrowedFd<'_>)> {
        if self.is_stopping { self.registry.find(slot, request) } else { self.registry.listen(slot, request) }
    }

    pub(super) fn addresses(&self) -> Vec<(Address, bool)> {
        self.registry.addresses()
    }

    pub(super) const fn board(&self) -> &Board {
        &self.board
    }

    /// Completes when it is time to [look](Self::look). Cancel safe.
    pub(super) async fn is_due(&self) {
        match self.next_look {
            Some(time) => sleep_until(time.into()).await,
            None => {
                let read = |bell: &OwnedFd| nix::unistd::read(bell, &mut [0; 8]).map_err(io::Error::from);
                // An error would mean that the runtime shuts down, and this process with it.
                _ = self.bell.async_io(Interest::READABLE, read).await;
            }
        }
    }

    /// Looks who serves and who does not, and sees to it that somebody serves everything.
    pub(super) fn look(&mut self) {
        if self.is_stopping {
            self.next_look = None;
            return self.exclude_nobody();
        }
        self.board.set_watching(true);
        let now = board::now();
        let mut sources = BTreeSet::new();
        for port in self.registry.streams().collect::<Vec<_>>() {
            let states: Vec<_> = (0..self.slots()).map(|slot| self.exchange.readiness(slot, port, now)).collect();
            let excluded = self.exchange.dispatch().excluded(&states);
            let is_served = states.iter().any(|state| matches!(state, Readiness::Ready | Readiness::Busy));
            if is_served {
                sources.extend(excluded.iter().map(|slot| Source::Shard(port, *slot)));
                let dispatch = self.exchange.dispatch();
                let redirected = excluded.iter().filter(|slot| dispatch.may_redirect(states[**slot]));
                sources.extend(redirected.map(|slot| Source::Mailbox(*slot)));
                sources.insert(Source::Shared(port));
            }
            self.registry.exclude(port, excluded);
        }
        for port in self.registry.datagrams().collect::<Vec<_>>() {
            // Datagrams cannot be handed over, so they are kept for whoever comes soon.
            let vacant = (0..self.slots()).filter(|slot| !self.board.slot(*slot).is_manned()).collect::<BTreeSet<_>>();
            self.registry.exclude(port, if vacant.len() < self.slots() { vacant } else { BTreeSet::new() });
        }
        self.tend(&sources);
        self.next_look = self.is_anyone_awake().then(|| Instant::now() + LOOK);
        if self.next_look.is_none() {
            self.board.set_watching(false);
            // Somebody may have woken up before that and not rung.
            if self.is_anyone_awake() {
                self.board.set_watching(true);
                self.next_look = Some(Instant::now() + LOOK);
            }
        }
    }

    /// The cluster stops: what waits where nobody will look is given to those that still serve.
    pub(super) fn stop(&mut self, manned: &BTreeSet<usize>) {
        self.look();
        let unmanned: Vec<_> = (0..self.slots()).filter(|slot| !manned.contains(slot)).collect();
        for slot in &unmanned {
            let shards = self.registry.streams().map(|port| Source::Shard(port, *slot));
            for source in shards.chain([Source::Mailbox(*slot)]).collect::<Vec<_>>() {
                if let Some(fd) = self.source(source) {
                    sweep(fd, source, &self.exchange);
                }
            }
        }
        self.is_stopping = true;
        self.exclude_nobody();
        self.registry.stop_steering();
        self.close_slots(unmanned);
    }

    pub(super) const fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Nobody will ever serve these slots again.
    pub(super) fn close_slots(&mut self, slots: impl IntoIterator<Item = usize>) {
        slots.into_iter().for_each(|slot| self.registry.close_slot(slot));
    }

    /// The worker of `slot`, which is the last one there, has emptied the queue of `port`.
    pub(super) fn drained(&mut self, slot: usize, port: PortId) {
        self.registry.close(slot, port);
        self.registry.close_shared(port);
    }

    fn slots(&self) -> usize {
        self.mailboxes.len()
    }

    fn exclude_nobody(&mut self) {
        self.tended.clear();
    }

    fn is_anyone_awake(&self) -> bool {
        (0..self.slots()).any(|slot| self.board.slot(slot).is_awake())
    }

    /// Starts and ends tasks so that just these sources are tended.
    fn tend(&mut self, sources: &BTreeSet<Source>) {
        self.tended.retain(|source, _| sources.contains(source));
        for source in sources {
            if self.tended.contains_key(source) {
                continue;
            }
            let Some(fd) = self.source(*source) else { continue };
            let registered = fd.try_clone_to_owned().and_then(|fd| os::register(fd, Interest::READABLE));
            match registered {
                Ok(fd) => {
                    let (sender, stopped) = oneshot::channel();
                    tokio::spawn(tend(fd, *source, Arc::clone(&self.exchange), stopped));
                    self.tended.insert(*source, Tended(sender));
                }
                Err(error) => tracing::warn!(%error, "cannot look after a queue that nobody serves"),
            }
        }
    }

    fn source(&self, source: Source) -> Option<BorrowedFd<'_>> {
        match source {
            Source::Shard(port, slot) => self.registry.shard(port, slot),
            Source::Shared(port) => self.registry.shared(port),
            Source::Mailbox(slot) => self.mailboxes.get(slot).map(OwnedFd::as_fd),
        }
    }
}

/// What could not be handed over yet.
struct Waiting {
    port: PortId,
    connections: Vec<Connection>,
}

/// The longest pause between two attempts to hand something over, while everybody is busy.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection that is accepted already is offered to others when this is no longer our business.
const LAST_OFFER: Duration = Duration::from_secs(5);

/// Hands what comes from `source` to whoever serves, until it is stopped.
async fn tend(fd: AsyncFd<OwnedFd>, source: Source, exchange: Arc<Exchange>, mut stopped: oneshot::Receiver<()>) {
    let mut pause = Duration::from_millis(1);
    loop {
        let readable = tokio::select! {
            biased;
            _ = &mut stopped => return,
            readable = fd.readable() => readable,
        };
        let Ok(mut readable) = readable else { return };
        let is_free = |port| matches!(source, Source::Mailbox(_)) || has_ready(&exchange, port);
        let port = match source {
            Source::Shard(port, _) | Source::Shared(port) => port,
            Source::Mailbox(_) => PortId(0),
        };
        if !is_free(port) {
            // Better in the kernel's queue than in ours.
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
            continue;
        }
        pause = Duration::from_millis(1);
        let taken = match take(fd.get_ref().as_fd(), source, &exchange) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                readable.clear_ready();
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take connections over; trying again until it works");
                sleep(LONGEST_PAUSE).await;
                continue;
            }
        };
        let mut waiting = hand_over(taken, &exchange);
        let mut deadline = None;
        while !waiting.connections.is_empty() {
            let is_stopped = !matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty));
            let until = *deadline.get_or_insert(Instant::now() + LAST_OFFER);
            if is_stopped && Instant::now() > until {
                let lost = waiting.connections.len();
                return tracing::error!(lost, "connections are lost: nobody can take them over");
            }
            sleep(Duration::from_millis(1)).await;
            waiting = hand_over(waiting, &exchange);
        }
        tokio::task::yield_now().await;
    }
}

/// Hands over what waits now; what nobody can take is closed.
fn sweep(fd: BorrowedFd<'_>, source: Source, exchange: &Exchange) {
    while let Ok(taken) = take(fd, source, exchange) {
        hand_over(taken, exchange);
    }
}

/// Takes up to a batch of connections.
///
/// # Errors
/// `WouldBlock` if there is none.
fn take(fd: BorrowedFd<'_>, source: Source, exchange: &Exchange) -> io::Result<Waiting> {
    let port = match source {
        Source::Shard(port, _) | Source::Shared(port) => port,
        Source::Mailbox(slot) => {
            let letter = mailbox::receive(fd)?;
            for _ in &letter.connections {
                exchange.withdraw(slot, letter.counted_by());
            }
            return Ok(Waiting { port: letter.cover.port, connections: letter.connections });
        }
    };
    let mut connections = Vec::new();
    while connections.len() < BATCH {
        match os::accept(fd) {
            Ok((fd, client)) => connections.push(Connection { fd, client: Address::of_stream(&client) }),
            Err(error) if crate::listen::is_about_one_connection(&error) => {}
            Err(_) if !connections.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Waiting { port, connections })
}

/// Returns what nobody can take now.
fn hand_over(waiting: Waiting, exchange: &Exchange) -> Waiting {
    let Waiting { port, connections } = waiting;
    let mut outgoing = Outgoing::default();
    let mut left = Vec::new();
    let is_unplaced = exchange.dispatch().head_key().is_some();
    for connection in connections {
        let client = if is_unplaced { Client::Unknown } else { Client::At(&connection.client) };
        match exchange.place(None, port, client) {
            Choice::There { slot, counted_by } => outgoing.push(slot, counted_by, connection),
            Choice::Here | Choice::Undecided => left.push(connection),
        }
    }
    left.extend(exchange.send(port, is_unplaced, outgoing));
    Waiting { port, connections: left }
}

fn has_ready(exchange: &Exchange, port: PortId) -> bool {
    let now = board::now();
    (0..exchange.mailboxes().len()).any(|slot| exchange.readiness(slot, port, now) == Readiness::Ready)
}
