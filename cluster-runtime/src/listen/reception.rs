//! A worker's reception: takes in the connections that it is to serve, from its mailbox and from its own accept queues, and knows
//! how many it has.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::SockAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::exchange::{Choice, Client, Exchange, Outgoing};
use super::head::{self, Found};
use super::mailbox::{self, Connection};
use super::stream::{Counted, Tally};
use super::{PortId, is_about_one_connection};
use crate::board::{self, Line, Tag};
use crate::os;
use crate::reserve::Reserve;
use crate::worker::Process;

/// How long a client may take to say what its connection is placed by.
const LOOK: Duration = Duration::from_secs(1);
/// Connections handed over in one go at most, before other tasks get their turn.
const MOST_HANDED_OVER: usize = 64;
/// How often a connection is offered to others that came for a listener which is gone.
const OFFER_AGAIN: Duration = Duration::from_millis(100);
/// What is promised and does not come for so long will not come.
const BROKEN_PROMISE: Duration = Duration::from_secs(1);
/// Connections whose first bytes are looked at, at a time; more wait in their queue.
const MOST_LOOKED_AT: usize = 1024;

/// Where this worker sits.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) slot: usize,
    pub(crate) tag: Tag,
    pub(crate) line: &'static Line,
}

#[derive(Debug)]
pub(crate) struct Reception {
    seat: Seat,
    exchange: Exchange,
    /// Replaced when another worker has made it useless.
    mailbox: watch::Sender<Arc<AsyncFd<OwnedFd>>>,
    reserve: Arc<Reserve>,
    desks: Mutex<BTreeMap<PortId, Arc<Desk>>>,
    /// Where connections wait that came for a listener which is not here.
    strays: Mutex<Vec<Weak<Desk>>>,
    streams: Arc<Tally>,
    /// The highest number that a descriptor of a connection has had.
    highest: AtomicI32,
    /// Somebody has shut the mailbox down, so that nothing will ever come.
    is_cut_off: AtomicBool,
    is_leaving: AtomicBool,
    odd: Mutex<Option<Odd>>,
}

/// The count on the board is above what we have.
#[derive(Clone, Copy, Debug)]
struct Odd {
    since: u64,
    /// By so many at least, all the time.
    least: u32,
}

/// What has come in for one listener.
#[derive(Debug)]
pub(crate) struct Desk {
    port: PortId,
    waiting: Mutex<VecDeque<Arrival>>,
    arrived: Notify,
    /// Connections whose first bytes are looked at.
    looked_at: AtomicUsize,
    /// Connections taken in here that are open.
    open: AtomicUsize,
    closed: Notify,
    /// Reasons why newcomers are to go elsewhere for now.
    pauses: AtomicUsize,
}

/// While this lives, connections to one port go to other workers.
#[derive(Debug)]
pub(crate) struct Paused<'a> {
    reception: &'a Reception,
    desk: Arc<Desk>,
}

/// A connection that this worker is to serve, counted.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) connection: Connection,
    pub(crate) held: Held,
}

/// The place of one connection in all counts, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    line: &'static Line,
    desk: Arc<Desk>,
    _counted: Counted,
}

impl Reception {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(
        seat: Seat,
        exchange: Exchange,
        mailbox: OwnedFd,
        streams: Arc<Tally>,
        reserve: Arc<Reserve>,
    ) -> io::Result<Self> {
        let mailbox = os::register(mailbox, Interest::READABLE)?;
        Ok(Self {
            seat,
            exchange,
            mailbox: watch::Sender::new(Arc::new(mailbox)),
            reserve,
            desks: Mutex::default(),
            strays: Mutex::default(),
            streams,
            highest: AtomicI32::new(0),
            is_cut_off: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            odd: Mutex::default(),
        })
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    #[cfg(feature = "axum")]
    pub(crate) fn line(&self) -> &'static Line {
        self.seat.line
    }

    /// From here on letters come into this mailbox.
    pub(crate) fn move_to(&self, mailbox: OwnedFd) {
        match os::register(mailbox, Interest::READABLE) {
            Ok(mailbox) => {
                self.is_cut_off.store(false, Ordering::Relaxed);
                self.mailbox.send_replace(Arc::new(mailbox));
            }
            Err(error) => tracing::error!(%error, "cannot take a new mailbox: nothing can be handed to this worker"),
        }
    }

    /// From here on connections to `port` come to this worker.
    pub(crate) fn open_desk(&self, port: PortId) -> Arc<Desk> {
        let desk = Arc::new(Desk::new(port));
        self.desks().insert(port, Arc::clone(&desk));
        self.set_accepts(port, true);
        desk
    }

    /// From here on connections go elsewhere, until the result is dropped.
    pub(crate) fn pause(&self, desk: &Arc<Desk>) -> Paused<'_> {
        if desk.pauses.fetch_add(1, Ordering::Relaxed) == 0 {
            self.set_accepts(desk.port, false);
        }
        Paused { reception: self, desk: Arc::clone(desk) }
    }

    /// Shows it to everybody. The primary has to see it even if all workers sleep by then.
    fn set_accepts(&self, port: PortId, accepts: bool) {
        self.seat.line.set_accepts(port.0, accepts);
        crate::worker::ring();
    }

    /// From here on they go elsewhere, those that wait already among them.
    pub(crate) fn close_desk(&self, desk: &Arc<Desk>) {
        self.desks().remove(&desk.port);
        self.set_accepts(desk.port, false);
        self.offer(Arc::clone(desk));
    }

    /// What waits at a desk that is closed goes to others, or to the next listener here, whichever comes first.
    fn offer(&self, desk: Arc<Desk>) {
        self.pass_on(&desk);
        if !desk.has_waiting() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The end of this process: nobody would take it.
            return desk.waiting().clear();
        };
        runtime.spawn(async move {
            let process = Process::current();
            let mut phase = process.phase();
            while desk.has_waiting() {
                _ = timeout(OFFER_AGAIN, phase.changed()).await;
                let reception = process.reception();
                let is_taken = reception.desks().get(&desk.port).map(|next| desk.move_to(next)).is_some();
                if !is_taken {
                    reception.pass_on(&desk);
                }
                if process.is_draining() {
                    desk.waiting().clear();
                }
            }
        });
    }

    /// Takes in one letter from the mailbox, for whichever listener it is.
    ///
    /// # Errors
    /// EMFILE while there is no room for all descriptors that may be in it: what the kernel cannot install is lost. In the
    /// mailbox it waits for whoever has room.
    pub(crate) async fn receive(&self) -> io::Result<()> {
        let take = |mailbox: &OwnedFd| {
            if self.has_room_for_a_letter() {
                let letter = mailbox::receive(mailbox.as_fd());
                if letter.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                    // All that was promised has come.
                    self.settle();
                }
                return letter.map(Some);
            }
            // Only whether there is one.
            recv(mailbox.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?;
            Ok(None)
        };
        let mut replaced = self.mailbox.subscribe();
        let mailbox = Arc::clone(&replaced.borrow_and_update());
        if self.is_cut_off.load(Ordering::Relaxed) {
            // The sender lives as long as this.
            _ = replaced.changed().await;
            return Ok(());
        }
        let received = tokio::select! {
            biased;
            received = mailbox.async_io(Interest::READABLE, take) => received,
            _ = replaced.changed() => return Ok(()),
        };
        let letter = match received {
            Ok(Some(letter)) => letter,
            Ok(None) => return Err(Errno::EMFILE.into()),
            // The one before, whose senders have gone.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && replaced.has_changed().unwrap_or(false) => {
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::error!(
                    "another process has shut down the mailbox: nothing is handed to this worker until it gets another"
                );
                self.is_cut_off.store(true, Ordering::Relaxed);
                // The primary sees it, too, when it looks.
                crate::worker::ring();
                return Ok(());
            }
            Err(error) => {
                tracing::error!(%error, "cannot read what was handed over");
                return Ok(());
            }
        };
        let counted_by = letter.counted_by();
        let is_counted = counted_by == self.seat.tag;
        let port = letter.cover.port;
        let desk = self.desks().get(&port).map(Arc::clone);
        let is_here = desk.is_some();
        // Nobody here listens on it any more; somebody else may.
        let desk = desk.unwrap_or_else(|| Arc::new(Desk::new(port)));
        let is_too_many = !is_here && self.strays() + letter.connections.len() > most_strays();
        for connection in letter.connections {
            if !is_counted {
                // Who reads the same mailbox, before us or after us, would wait for it in vain and look busier than it is.
                self.exchange.withdraw(self.seat.slot, counted_by);
                self.seat.line.open();
            }
            if is_too_many {
                self.seat.line.close();
                continue;
            }
            let arrival = self.hold(&desk, connection);
            match self.exchange.dispatch().head_key() {
                Some(key) if letter.cover.is_unplaced && is_here => self.look_into(arrival, key.clone()),
                _ => desk.push(arrival),
            }
        }
        if is_too_many {
            tracing::error!(
                port = port.0,
                "connections for a listener that is not here are closed: too many wait for one already"
            );
        } else if !is_here {
            self.lock_strays().push(Arc::downgrade(&desk));
            self.offer(desk);
        }
        Ok(())
    }

    /// How many connections wait for a listener that is not here.
    fn strays(&self) -> usize {
        let mut strays = self.lock_strays();
        strays.retain(|desk| desk.strong_count() > 0);
        strays.iter().filter_map(Weak::upgrade).map(|desk| desk.waiting().len()).sum()
    }

    /// Whether this process can open as many descriptors as a letter may bring.
    pub(crate) fn has_room_for_a_letter(&self) -> bool {
        if !self.reserve.refill() {
            return false;
        }
        let most = os::most_descriptors();
        let highest = u64::try_from(self.highest.load(Ordering::Relaxed)).unwrap_or(0);
        // The kernel gives the lowest number that is free. As long as none was near the limit, there is room.
        highest.saturating_add(2 * mailbox::BATCH as u64) < most
            || (0..mailbox::BATCH)
                .map(|_| self.mailbox.borrow().get_ref().try_clone())
                .collect::<io::Result<Vec<_>>>()
                .is_ok()
    }

    /// Accepts what waits in `socket` until there is a connection to keep, and hands over what is not.
    ///
    /// # Errors
    /// Those of accept(2), `WouldBlock` among them; EMFILE while the reserve is not whole.
    pub(crate) fn accept(&self, desk: &Arc<Desk>, socket: &OwnedFd) -> io::Result<Option<Arrival>> {
        let mut outgoing = Outgoing::default();
        let outcome = loop {
            let (fd, client) = match self.accept_from(socket) {
                Ok(accepted) => accepted,
                Err(error) if is_about_one_connection(&error) => continue,
                Err(error) => break Err(error),
            };
            let connection = Connection { fd, client: super::Address::of_stream(&client) };
            if let Some(key) = self.exchange.dispatch().head_key() {
                self.seat.line.open();
                self.look_into(self.hold(desk, connection), key.clone());
                break Ok(None);
            }
            match self.exchange.place(Some(self.seat.slot), desk.port, Client::At(&connection.client)) {
                Choice::Here => break Ok(Some(self.hold(desk, connection))),
                Choice::There { slot, counted_by } => outgoing.push(slot, counted_by, connection),
                Choice::Undecided => break Ok(Some(self.take_in(desk, connection))),
            }
            if outgoing.len() >= MOST_HANDED_OVER {
                break Ok(None);
            }
        };
        let is_all_sent = self.hand_over(desk, outgoing);
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !is_all_sent => Ok(None),
            outcome => outcome,
        }
    }

    fn accept_from(&self, socket: &OwnedFd) -> io::Result<(OwnedFd, SockAddr)> {
        if !self.reserve.refill() {
            return Err(Errno::EMFILE.into());
        }
        // Another worker of the slot shares the open file, and one that makes it block must not stop this one.
        os::set_nonblocking(socket.as_fd())?;
        os::accept(socket.as_fd())
    }

    /// Accepts one connection and keeps it, whatever others have to do.
    pub(crate) fn accept_to_keep(&self, desk: &Arc<Desk>, socket: &OwnedFd) -> io::Result<Arrival> {
        let (fd, client) = self.accept_from(socket)?;
        Ok(self.take_in(desk, Connection { fd, client: super::Address::of_stream(&client) }))
    }

    /// Gives what waits at `desk` to others, as far as they can take it.
    pub(crate) fn pass_on(&self, desk: &Arc<Desk>) {
        let mut outgoing = Outgoing::default();
        let mut rest = VecDeque::new();
        for arrival in std::mem::take(&mut *desk.waiting()) {
            match self.exchange.place_again(desk.port, &arrival.connection.client) {
                Choice::There { slot, counted_by } if slot != self.seat.slot => {
                    outgoing.push(slot, counted_by, arrival.connection);
                }
                Choice::There { slot, counted_by } => {
                    self.exchange.withdraw(slot, counted_by);
                    rest.push_back(arrival);
                }
                Choice::Here | Choice::Undecided => rest.push_back(arrival),
            }
        }
        desk.waiting().extend(rest);
        _ = self.hand_over(desk, outgoing);
    }

    /// Takes no promises any more, as this worker is on its way out.
    pub(crate) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.seat.line.take_no_more();
        crate::worker::ring();
    }

    /// Whether everything that was promised to this worker has come.
    pub(crate) fn is_settled(&self) -> bool {
        self.seat.line.opened().count() as usize <= self.streams.alive()
    }

    /// Hands over what is not for us; `false` if some of it had to be kept.
    fn hand_over(&self, desk: &Arc<Desk>, outgoing: Outgoing) -> bool {
        let count = outgoing.len();
        if count == 0 {
            return true;
        }
        let left = self.exchange.send(desk.port, false, outgoing);
        self.seat.line.count_handed_over(count - left.len());
        let is_all_sent = left.is_empty();
        left.into_iter().for_each(|connection| desk.push(self.take_in(desk, connection)));
        is_all_sent
    }

    /// Looks at the first bytes of a connection to learn where it belongs.
    fn look_into(&self, arrival: Arrival, key: head::Key) {
        arrival.held.desk.looked_at.fetch_add(1, Ordering::Relaxed);
        let process = Process::current();
        tokio::spawn(async move {
            let desk = Arc::clone(&arrival.held.desk);
            process.reception().place_by_head(arrival, &key).await;
            desk.looked_at.fetch_sub(1, Ordering::Relaxed);
            desk.arrived.notify_one();
        });
    }

    async fn place_by_head(&self, arrival: Arrival, key: &head::Key) {
        let Arrival { connection: Connection { fd, client }, held } = arrival;
        let (fd, name) = match peek(fd, key).await {
            Ok(found) => found,
            Err(error) => return tracing::debug!(%error, "connection lost before it could be placed"),
        };
        let by = name.as_deref().map_or(Client::At(&client), Client::Named);
        let choice = self.exchange.place(Some(self.seat.slot), held.desk.port, by);
        let desk = Arc::clone(&held.desk);
        let connection = Connection { fd, client };
        match choice {
            Choice::There { slot, counted_by } => {
                let mut outgoing = Outgoing::default();
                outgoing.push(slot, counted_by, connection);
                self.hand_over(&desk, outgoing);
            }
            Choice::Here => {
                // Counted twice now.
                self.seat.line.close();
                desk.push(Arrival { connection, held });
            }
            Choice::Undecided => desk.push(Arrival { connection, held }),
        }
    }

    /// Counts a connection that nobody has counted.
    fn take_in(&self, desk: &Arc<Desk>, connection: Connection) -> Arrival {
        self.seat.line.open();
        self.hold(desk, connection)
    }

    /// The connection is on the board's count already.
    fn hold(&self, desk: &Arc<Desk>, connection: Connection) -> Arrival {
        self.seat.line.count_accepted();
        self.restate(desk);
        self.highest.fetch_max(connection.fd.as_raw_fd(), Ordering::Relaxed);
        desk.open.fetch_add(1, Ordering::Relaxed);
        let held = Held { line: self.seat.line, desk: Arc::clone(desk), _counted: Tally::count(&self.streams) };
        Arrival { connection, held }
    }

    /// Says again on the board what another process may have written over.
    fn restate(&self, desk: &Arc<Desk>) {
        let accepts = !self.seat.line.opened().is_closed() && self.seat.line.accepts(desk.port.0);
        if accepts || self.is_leaving.load(Ordering::Relaxed) || desk.pauses.load(Ordering::Relaxed) > 0 {
            return;
        }
        self.seat.line.take_more();
        if self.desks().get(&desk.port).is_some_and(|open| Arc::ptr_eq(open, desk)) {
            self.seat.line.set_accepts(desk.port.0, true);
        }
    }

    /// Puts right what a worker that died between a promise and the hand-over has left behind. To be called when the mailbox is
    /// empty: so what is counted and not here is lost, or on its way at this very moment.
    fn settle(&self) {
        let excess =
            self.seat.line.opened().count().saturating_sub(self.streams.alive().try_into().unwrap_or(u32::MAX));
        let mut odd = self.odd.lock().unwrap_or_else(PoisonError::into_inner);
        if excess == 0 {
            *odd = None;
            return;
        }
        let now = board::now();
        let Odd { since, least } = *odd.get_or_insert(Odd { since: now, least: excess });
        let least = least.min(excess);
        if Duration::from_nanos(now - since) > BROKEN_PROMISE {
            self.seat.line.correct(least);
            *odd = None;
        } else {
            *odd = Some(Odd { since, least });
        }
    }

    fn lock_strays(&self) -> MutexGuard<'_, Vec<Weak<Desk>>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn desks(&self) -> MutexGuard<'_, BTreeMap<PortId, Arc<Desk>>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn new(port: PortId) -> Self {
        Self {
            port,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            looked_at: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            closed: Notify::new(),
            pauses: AtomicUsize::new(0),
        }
    }

    pub(crate) fn port(&self) -> PortId {
        self.port
    }

    /// The next connection that waits here.
    pub(crate) fn pop(&self) -> Option<Arrival> {
        self.waiting().pop_front()
    }

    /// Waits for a sign that something may wait here.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Whether one more connection may have its first bytes looked at.
    pub(crate) fn may_look(&self) -> bool {
        self.looked_at.load(Ordering::Relaxed) < MOST_LOOKED_AT
    }

    /// Whether connections are on their way to it.
    pub(crate) fn is_expecting(&self) -> bool {
        self.looked_at.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether a connection waits here.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// Connections that the listener has given to the user and that are open.
    pub(crate) fn served(&self) -> usize {
        let waiting = self.waiting().len() + self.looked_at.load(Ordering::Relaxed);
        self.open().saturating_sub(waiting)
    }

    /// Waits for one of its connections to close.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// Everything that waits here waits at `other` from now on.
    fn move_to(&self, other: &Arc<Self>) {
        let waiting = std::mem::take(&mut *self.waiting());
        for mut arrival in waiting {
            self.open.fetch_sub(1, Ordering::Relaxed);
            other.open.fetch_add(1, Ordering::Relaxed);
            arrival.held.desk = Arc::clone(other);
            other.push(arrival);
        }
    }

    fn push(&self, arrival: Arrival) {
        self.waiting().push_back(arrival);
        self.arrived.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arrival>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let is_listening =
            self.reception.desks().get(&self.desk.port).is_some_and(|desk| Arc::ptr_eq(desk, &self.desk));
        if self.desk.pauses.fetch_sub(1, Ordering::Relaxed) == 1 && is_listening {
            self.reception.set_accepts(self.desk.port, true);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.line.close();
        self.desk.open.fetch_sub(1, Ordering::Relaxed);
        self.desk.closed.notify_one();
    }
}

/// Connections may wait for a listener that is not here as long as half of all descriptors are left for those that are.
fn most_strays() -> usize {
    usize::try_from(os::most_descriptors() / 2).unwrap_or(usize::MAX)
}

/// Looks for `key` at the beginning of what the client sends, and leaves it all where it is.
async fn peek(fd: OwnedFd, key: &head::Key) -> io::Result<(OwnedFd, Option<Vec<u8>>)> {
    let socket = os::register(fd, Interest::READABLE)?;
    // Who is silent for so long is placed by what is known.
    let found = timeout(LOOK, look_for(key, &socket)).await.unwrap_or(Ok(None))?;
    Ok((socket.into_inner(), found))
}

async fn look_for(key: &head::Key, socket: &AsyncFd<OwnedFd>) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; head::MOST];
    loop {
        let mut readable = socket.readable().await?;
        // Asked before the bytes are: those that came before the end are all there then. A socket that has ended is readable for
        // ever, so it must not be waited for once more.
        let is_all = readable.ready().is_read_closed();
        let len = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(len) => len,
            Err(Errno::EAGAIN) if !is_all => {
                readable.clear_ready();
                continue;
            }
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        match head::find(key, &buffer[..len]) {
            Found::Value(value) => return Ok(Some(value.to_owned())),
            // The next bytes make it readable once more.
            Found::Incomplete if len > 0 && len < head::MOST && !is_all => readable.clear_ready(),
            Found::Absent | Found::Incomplete => return Ok(None),
        }
    }
}
