//! The board: shared memory in which every process of the cluster sees at once how the others are doing.
//!
//! A worker has a line of its own, one cache line, which it writes and all others read. A slot has two lines, as a worker and
//! its successor may live at the same time. The primary clears a line when it has reaped the worker, so a worker may die
//! between any two instructions.
//!
//! What stands here are hints for placement and for messages between workers, and figures for the operator: a worker gone mad can write
//! nonsense, and nothing suffers but the spread of connections, and what workers say to each other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io};

use nix::time::{ClockId, clock_gettime};

use crate::config::MESSAGES;
use crate::{WorkerId, metrics, os};

/// Slots that a cluster may have.
pub(crate) const MOST_SLOTS: usize = 1024;
/// Ports that a cluster may have: one bit each in a line.
pub(crate) const MOST_PORTS: usize = 64;

/// The board as one process sees it.
#[derive(Clone, Copy)]
pub(crate) struct Board(&'static Sheet);

/// The layout of the shared memory; all zero at first.
#[repr(C, align(64))]
pub(crate) struct Sheet {
    /// Until when the primary surely looks after the workers by itself. A time that is past, or too far away to be the primary's, asks for
    /// the bell at the next sign of life.
    watching: AtomicU64,
    /// Not 0 once the cluster stops, so that nobody hands a connection to somebody who is on the way out.
    stopping: AtomicU64,
    slots: [Slot; MOST_SLOTS],
    /// What the user counts. Memory is there only for what is in use.
    metrics: metrics::Sheet,
}

/// One slot.
#[repr(C, align(64))]
pub(crate) struct Slot {
    /// Not 0 if a worker is there or comes soon; written by the primary.
    manned: AtomicU64,
    /// The id of the worker that messages of others are for, 0 if there is none; written by the primary.
    lead: AtomicU64,
    lines: [Line; 2],
}

/// One worker.
#[repr(C, align(64))]
pub(crate) struct Line {
    /// Whose line it is, and how many connections it has or was promised; see [`Opened`].
    opened: AtomicU64,
    /// The ports, by bit, on which it takes connections.
    ports: AtomicU64,
    /// When its runtime last found something to do, in nanoseconds of the monotonic clock, and as the last bit whether it has not come
    /// to wait since.
    woken: AtomicU64,
    accepted: AtomicU64,
    handed_over: AtomicU64,
    requests: AtomicU64,
    /// The most bytes of a message that it takes; written by the primary.
    max_message: AtomicU64,
}

/// The first word of a line as it was at one moment: owner and count in one, so that no promise goes to a successor unawares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened(u64);

/// A worker in the words of [`Opened`]; 0 is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u32);

/// The figures of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) open: u32,
    pub(crate) accepted: u64,
    pub(crate) handed_over: u64,
    pub(crate) requests: u64,
}

impl Board {
    /// Makes the board of a cluster, and the descriptor by which its workers map it.
    pub(crate) fn create() -> io::Result<(Self, OwnedFd)> {
        let fd = os::create_sheet()?;
        Ok((Self::open(fd.as_fd())?, fd))
    }

    pub(crate) fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        os::map_sheet(fd).map(Self)
    }

    /// # Panics
    /// From [`MOST_SLOTS`] on.
    pub(crate) fn slot(&self, slot: usize) -> &'static Slot {
        &self.0.slots[slot]
    }

    pub(crate) fn metrics(&self) -> &'static metrics::Sheet {
        &self.0.metrics
    }

    /// The primary looks by itself until then; `None` while it sleeps.
    pub(crate) fn set_watching(&self, until: Option<u64>) {
        self.0.watching.store(until.unwrap_or(0), Ordering::SeqCst);
    }

    /// Says whether the cluster stops: from then on all workers keep what they accept.
    pub(crate) fn set_stopping(&self, is_stopping: bool) {
        if self.is_stopping() != is_stopping {
            self.0.stopping.store(is_stopping.into(), Ordering::SeqCst);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst) != 0
    }

    /// Whether the primary must be rung for; true for one process only, for a while.
    pub(crate) fn must_ring(&self, now: u64) -> bool {
        let until = self.0.watching.load(Ordering::SeqCst);
        // What is further away another process has written: the primary would sleep for ever.
        let is_watching = until.checked_sub(now).is_some_and(|left| left <= LONGEST_WATCH);
        let rung = now + RUNG;
        !is_watching && self.0.watching.compare_exchange(until, rung, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The longest that the primary says in advance that it looks, in nanoseconds.
pub(crate) const LONGEST_WATCH: u64 = 1_000_000_000;
/// For so long after the bell has rung it rings no more, in nanoseconds.
const RUNG: u64 = 100_000_000;

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Board")
    }
}

impl Slot {
    pub(crate) fn is_manned(&self) -> bool {
        self.manned.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn set_manned(&self, is_manned: bool) {
        if self.is_manned() != is_manned {
            self.manned.store(is_manned.into(), Ordering::Relaxed);
        }
    }

    pub(crate) fn lead(&self) -> Option<WorkerId> {
        match self.lead.load(Ordering::Acquire) {
            0 => None,
            worker => Some(WorkerId::new(worker)),
        }
    }

    pub(crate) fn set_lead(&self, worker: Option<WorkerId>) {
        let worker = worker.map_or(0, WorkerId::get);
        // Those who look often keep it in their caches as long as nobody writes.
        if self.lead.load(Ordering::Relaxed) != worker {
            self.lead.store(worker, Ordering::Release);
        }
    }

    pub(crate) fn lines(&self) -> &[Line; 2] {
        &self.lines
    }

    /// The line of `worker`, while it has one.
    pub(crate) fn line_of(&self, worker: WorkerId) -> Option<&Line> {
        self.lines.iter().find(|line| line.opened().tag() == Tag::of(worker))
    }

    /// The most bytes of a message that `worker` takes, while it has a line.
    pub(crate) fn max_message_of(&self, worker: WorkerId) -> Option<usize> {
        self.line_of(worker)?.max_message()
    }

    /// The line of the worker that takes connections from `port`; of two, the newer one's.
    pub(crate) fn accepting(&self, port: usize) -> Option<(&Line, Opened)> {
        self.newest(|line| line.accepts(port))
    }

    /// The line of the worker that takes connections from any port; of two, the newer one's.
    pub(crate) fn accepting_any(&self) -> Option<(&Line, Opened)> {
        self.newest(|line| line.ports.load(Ordering::Acquire) != 0)
    }

    fn newest(&self, is_meant: impl Fn(&Line) -> bool) -> Option<(&Line, Opened)> {
        let lines = self.lines.iter().filter(|line| is_meant(line)).map(|line| (line, line.opened()));
        lines.filter(|(_, opened)| !opened.is_closed()).max_by_key(|(_, opened)| opened.tag().0)
    }

    /// How long ago one of its workers last had something to do; zero while one has.
    pub(crate) fn at_rest_for(&self, now: u64) -> Duration {
        self.lines.iter().map(|line| line.at_rest_for(now)).min().unwrap_or(Duration::MAX)
    }
}

impl Line {
    /// The last bit of the time.
    const AWAKE: u64 = 1;

    /// The primary gives the line to a worker that it is about to spawn, and that takes messages of so many bytes.
    pub(crate) fn give_to(&self, worker: WorkerId, max_message: usize) {
        self.clear();
        self.max_message.store(max_message as u64, Ordering::Release);
        self.opened.store(Opened::of(Tag::of(worker)).0, Ordering::Release);
    }

    /// Says again whose line it is, if another process has written over that.
    pub(crate) fn restate(&self, worker: WorkerId, max_message: usize) {
        let tag = Tag::of(worker);
        if self.opened().tag() != tag {
            self.opened.store(Opened::of(tag).0, Ordering::Release);
        }
        if self.max_message.load(Ordering::Relaxed) != max_message as u64 {
            self.max_message.store(max_message as u64, Ordering::Release);
        }
    }

    /// The primary takes the line of a worker that it has reaped.
    pub(crate) fn clear(&self) {
        let Self { opened, ports, woken, accepted, handed_over, requests, max_message } = self;
        // The owner first: a promise that is being made finds nobody.
        for word in [opened, ports, woken, accepted, handed_over, requests, max_message] {
            word.store(0, Ordering::Release);
        }
    }

    pub(crate) fn opened(&self) -> Opened {
        Opened(self.opened.load(Ordering::Acquire))
    }

    /// Counts one connection more, if nothing has changed since `seen`.
    pub(crate) fn promise(&self, seen: Opened) -> bool {
        let more = seen.0 + 1;
        self.opened.compare_exchange(seen.0, more, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes a promise to the owner `tag` back; if it is another's line by now, the promise is gone with the old one.
    pub(crate) fn withdraw(&self, tag: Tag) {
        let less = |opened| (Opened(opened).tag() == tag && Opened(opened).count() > 0).then(|| opened - 1);
        _ = self.opened.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
    }

    /// Counts one connection more; only the owner may.
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one of its connections as closed; only the owner may.
    pub(crate) fn close(&self) {
        let less = |opened| (Opened(opened).count() > 0).then(|| opened - 1);
        _ = self.opened.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
    }

    /// Corrects a count that is too high by `excess`: promises whose makers died before they were kept. Only the owner may.
    pub(crate) fn correct(&self, excess: u32) {
        let less = |opened| Some(opened - u64::from(excess.min(Opened(opened).count())));
        _ = self.opened.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
    }

    /// Takes no promises any more, for good; only the owner may.
    pub(crate) fn take_no_more(&self) {
        self.opened.fetch_or(Opened::CLOSED, Ordering::AcqRel);
    }

    /// Takes promises again: another process had said otherwise. Only the owner may.
    pub(crate) fn take_more(&self) {
        self.opened.fetch_and(!Opened::CLOSED, Ordering::AcqRel);
    }

    pub(crate) fn accepts(&self, port: usize) -> bool {
        self.ports.load(Ordering::Acquire) & bit(port) != 0
    }

    pub(crate) fn set_accepts(&self, port: usize, accepts: bool) {
        if accepts {
            self.ports.fetch_or(bit(port), Ordering::AcqRel);
        } else {
            self.ports.fetch_and(!bit(port), Ordering::AcqRel);
        }
    }

    /// The runtime has something to do from now on; returns the time.
    pub(crate) fn wake(&self) -> u64 {
        let now = now();
        // In one order with `Board::must_ring`: either the primary sees this or we see that it does not look.
        self.woken.store(now | Self::AWAKE, Ordering::SeqCst);
        now
    }

    /// The runtime waits for something to do.
    pub(crate) fn rest(&self) {
        // Nobody else writes it.
        self.woken.store(self.woken.load(Ordering::Relaxed) & !Self::AWAKE, Ordering::Release);
    }

    /// How long the runtime has been at one thing, if it does not wait.
    pub(crate) fn busy_for(&self, now: u64) -> Duration {
        match self.woken.load(Ordering::Acquire) {
            woken if woken & Self::AWAKE != 0 => Duration::from_nanos(now.saturating_sub(woken)),
            _ => Duration::ZERO,
        }
    }

    /// When the runtime last found something to do, if it does not wait; the same as long as it is at the same thing.
    pub(crate) fn woken(&self) -> Option<u64> {
        Some(self.woken.load(Ordering::Acquire)).filter(|woken| woken & Self::AWAKE != 0)
    }

    fn at_rest_for(&self, now: u64) -> Duration {
        match self.woken.load(Ordering::SeqCst) {
            woken if woken & Self::AWAKE != 0 => Duration::ZERO,
            woken => Duration::from_nanos(now.saturating_sub(woken)),
        }
    }

    pub(crate) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_handed_over(&self, connections: usize) {
        self.handed_over.fetch_add(connections as u64, Ordering::Relaxed);
    }

    #[cfg_attr(not(feature = "axum"), expect(dead_code, reason = "only HTTP has requests"))]
    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// `None` if it has just been cleared.
    fn max_message(&self) -> Option<usize> {
        match self.max_message.load(Ordering::Acquire) {
            0 => None,
            // Whatever somebody gone mad has written.
            bytes => Some(bytes.clamp(*MESSAGES.start(), *MESSAGES.end()) as usize),
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            open: self.opened().count(),
            accepted: self.accepted(),
            handed_over: self.handed_over.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.figures().fmt(f)
    }
}

impl Opened {
    /// Bits 0 to 31: how many.
    const COUNT: u64 = u32::MAX as u64;
    /// Bit 63: it takes no more. Between the two stands the owner.
    const CLOSED: u64 = 1 << 63;

    fn of(owner: Tag) -> Self {
        Self(u64::from(owner.0) << 32)
    }

    pub(crate) fn tag(self) -> Tag {
        Tag(((self.0 & !Self::CLOSED) >> 32) as u32)
    }

    pub(crate) fn count(self) -> u32 {
        (self.0 & Self::COUNT) as u32
    }

    pub(crate) fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }
}

impl Tag {
    pub(crate) const NOBODY: Self = Self(0);

    /// Ids are told apart for two thousand million workers in a row.
    pub(crate) fn of(worker: WorkerId) -> Self {
        Self((worker.get() % (1 << 31)) as u32)
    }

    pub(crate) const fn numbered(number: u32) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u32 {
        self.0
    }
}

/// Nanoseconds of the clock that all processes of a machine share, never 0.
pub(crate) fn now() -> u64 {
    // It fails for a clock that does not exist, which this one does.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(1, |time| Duration::from(time).as_nanos() as u64)
}

fn bit(port: usize) -> u64 {
    1 << port.min(MOST_PORTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> (Board, &'static Line) {
        let (board, _fd) = Board::create().unwrap();
        (board, &board.slot(3).lines()[1])
    }

    #[test]
    fn two_maps_of_one_board_see_each_other() {
        let (one, fd) = Board::create().unwrap();
        let other = Board::open(fd.as_fd()).unwrap();
        one.slot(MOST_SLOTS - 1).lines()[1].give_to(WorkerId::new(7), 1 << 20);
        other.slot(MOST_SLOTS - 1).lines()[1].open();
        assert_eq!(one.slot(MOST_SLOTS - 1).lines()[1].opened().count(), 1);
    }

    #[test]
    fn nobody_can_resize_the_board() {
        let (_board, fd) = Board::create().unwrap();
        assert!(nix::unistd::ftruncate(&fd, 1).is_err());
        assert!(nix::unistd::ftruncate(&fd, 1 << 30).is_err());
    }

    #[test]
    fn what_is_not_a_board_is_refused() {
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Board::open(end.as_fd()).is_err());
        let plain = nix::sys::memfd::memfd_create(c"plain", nix::sys::memfd::MFdFlags::empty()).unwrap();
        assert!(Board::open(plain.as_fd()).is_err());
    }

    #[test]
    fn a_promise_is_made_to_one_owner_and_at_one_count_only() {
        let (_board, line) = line();
        line.give_to(WorkerId::new(1), 1 << 20);
        let seen = line.opened();
        assert!(line.promise(seen));
        assert!(!line.promise(seen), "somebody was quicker");
        let old = line.opened();
        line.clear();
        line.give_to(WorkerId::new(2), 1 << 20);
        assert!(!line.promise(old), "it is another's by now");
        line.withdraw(old.tag());
        assert_eq!(line.opened().count(), 0, "a promise to the dead is gone with it");
    }

    #[test]
    fn a_line_that_takes_no_more_still_counts_what_closes() {
        let (board, line) = line();
        line.give_to(WorkerId::new(1), 1 << 20);
        line.set_accepts(5, true);
        line.open();
        line.open();
        assert!(board.slot(3).accepting(5).is_some());
        let before = line.opened();
        line.take_no_more();
        assert!(!line.promise(before));
        assert!(board.slot(3).accepting(5).is_none());
        line.close();
        assert_eq!(line.opened().count(), 1);
        assert_eq!(line.opened().tag(), Tag::of(WorkerId::new(1)));
    }

    #[test]
    fn of_two_workers_in_a_slot_the_newer_one_gets_the_promises() {
        let (board, _fd) = Board::create().unwrap();
        let slot = board.slot(0);
        for (line, worker) in slot.lines().iter().zip([9, 4]) {
            line.give_to(WorkerId::new(worker), 1 << 20);
            line.set_accepts(0, true);
        }
        assert_eq!(slot.accepting(0).unwrap().1.tag(), Tag::of(WorkerId::new(9)));
        assert!(slot.accepting(1).is_none());
    }

    #[test]
    fn the_bell_is_rung_once_until_the_primary_looks_away_again() {
        let (board, _fd) = Board::create().unwrap();
        assert!(board.must_ring(now()));
        assert!(!board.must_ring(now()));
        board.set_watching(None);
        assert!(board.must_ring(now()));
    }

    #[test]
    fn the_bell_is_rung_whatever_another_process_has_written() {
        let (board, _fd) = Board::create().unwrap();
        let now = now();
        for forged in [1, now + LONGEST_WATCH + 1, u64::MAX] {
            board.set_watching(Some(forged));
            assert!(board.must_ring(now), "{forged}");
        }
        board.set_watching(Some(now + 1000));
        assert!(!board.must_ring(now), "the primary looks");
        assert!(board.must_ring(now + 1001), "the primary was to look and has not");
    }

    #[test]
    fn a_line_that_was_written_over_is_its_workers_again() {
        let (_board, line) = line();
        line.give_to(WorkerId::new(7), 1 << 20);
        line.opened.store(u64::MAX, Ordering::Release);
        line.max_message.store(3, Ordering::Release);
        line.restate(WorkerId::new(7), 1 << 20);
        assert_eq!((line.opened().tag(), line.opened().is_closed()), (Tag::of(WorkerId::new(7)), false));
        assert_eq!(line.max_message(), Some(1 << 20));
        line.open();
        line.restate(WorkerId::new(7), 1 << 20);
        assert_eq!(line.opened().count(), 1, "what is right stays");
    }
}
