//! Where the cells are: which name has which, and which are this process's.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use crate::board::{Board, MOST_SLOTS};

/// Counters and gauges that a cluster may have, together.
const MOST_SCALARS: usize = 512;
/// Histograms that it may have.
const MOST_HISTOGRAMS: usize = 32;
/// Cells of a histogram.
pub(super) const HISTOGRAM: usize = 130;
/// A worker and its successor in each slot, and the primary.
const LINES: usize = 2 * MOST_SLOTS + 1;

/// The layout of the shared memory; all zero at first.
#[repr(C, align(64))]
pub(crate) struct Sheet {
    /// The names, as their hashes, in an open hash table; 0 is free.
    scalars: [AtomicU64; MOST_SCALARS],
    histograms: [AtomicU64; MOST_HISTOGRAMS],
    /// How many lines have been in use: whoever adds up looks no further.
    lines_used: AtomicU64,
    lines: [Line; LINES],
}

/// The cells of one process, on pages of its own.
#[repr(C, align(4096))]
struct Line {
    scalars: [AtomicU64; MOST_SCALARS],
    histograms: [[AtomicU64; HISTOGRAM]; MOST_HISTOGRAMS],
}

/// A process among those of the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Primary,
    Worker { slot: usize, line: usize },
}

/// What a name stands for; the same name for another kind is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric as this process has it; starts out empty, in a static.
#[derive(Debug)]
pub(super) struct Cells {
    /// This process's first cell, once it is known.
    first: AtomicPtr<AtomicU64>,
    /// Counts of before the cluster, or without one, or without room in it.
    alone: AtomicU64,
    /// That there is no room has been said.
    is_told: AtomicBool,
}

/// This process's part in the cluster.
#[derive(Clone, Copy)]
struct Entered {
    board: Board,
    line: usize,
}

static ENTERED: OnceLock<Entered> = OnceLock::new();

/// From here on this process counts at its place on the board. Once for each process.
pub(crate) fn enter(board: Board, place: Place) {
    let line = place.line();
    board.metrics().lines_used.fetch_max(line as u64 + 1, Ordering::Relaxed);
    _ = ENTERED.set(Entered { board, line });
}

impl Place {
    /// The primary is first, so that those that are in use are together.
    const fn line(self) -> usize {
        match self {
            Self::Primary => 0,
            Self::Worker { slot, line } => 1 + 2 * slot + line,
        }
    }
}

impl Sheet {
    /// Forgets what gauges say of a process that is gone.
    pub(crate) fn forget_gauges(&self, place: Place) {
        let line = &self.lines[place.line()];
        for (name, cell) in self.scalars.iter().zip(&line.scalars) {
            // Only gauges have an odd hash.
            if name.load(Ordering::Relaxed) & 1 == 1 {
                cell.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Finds or claims a place for `name`.
    fn find(&self, kind: Kind, name: &str) -> Option<usize> {
        let table: &[AtomicU64] = if kind == Kind::Histogram { &self.histograms } else { &self.scalars };
        let hash = hash(kind, name);
        let start = hash as usize / 2;
        (0..table.len()).map(|step| (start + step) % table.len()).find(|index| {
            let found = table[*index].compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire);
            found.map_or_else(|there| there == hash, |_| true)
        })
    }

    fn cells(&self, line: usize, kind: Kind, index: usize) -> &[AtomicU64] {
        let line = &self.lines[line];
        match kind {
            Kind::Counter | Kind::Gauge => std::slice::from_ref(&line.scalars[index]),
            Kind::Histogram => &line.histograms[index],
        }
    }
}

impl Cells {
    pub(super) const fn new() -> Self {
        Self { first: AtomicPtr::new(std::ptr::null_mut()), alone: AtomicU64::new(0), is_told: AtomicBool::new(false) }
    }

    /// This process's cell for a counter or a gauge.
    #[inline]
    pub(super) fn own(&'static self, kind: Kind, name: &str) -> &'static AtomicU64 {
        crate::os::cell(&self.first).unwrap_or_else(|| self.own_slowly(kind, name))
    }

    #[cold]
    fn own_slowly(&'static self, kind: Kind, name: &str) -> &'static AtomicU64 {
        match self.own_all(kind, name) {
            Some(cells) => {
                let cell = &cells[0];
                // What was counted before the cluster began, by whoever comes here first.
                cell.fetch_add(self.alone.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                self.first.store(std::ptr::from_ref(cell).cast_mut(), Ordering::Release);
                cell
            }
            // It may be in a cluster later; but one that has no room will have none.
            None if ENTERED.get().is_none() => &self.alone,
            None => {
                self.first.store(std::ptr::from_ref(&self.alone).cast_mut(), Ordering::Release);
                &self.alone
            }
        }
    }

    /// This process's cells; `None` outside a cluster, or where it has no room.
    pub(super) fn own_all(&self, kind: Kind, name: &str) -> Option<&'static [AtomicU64]> {
        let Entered { board, line } = *ENTERED.get()?;
        let Some(index) = board.metrics().find(kind, name) else {
            if !self.is_told.swap(true, Ordering::Relaxed) {
                complain(kind, name);
            }
            return None;
        };
        Some(board.metrics().cells(line, kind, index))
    }

    /// The sum over all processes of one cell of them.
    pub(super) fn sum(&self, kind: Kind, name: &str, cell: usize) -> u64 {
        let alone = if cell == 0 { self.alone.load(Ordering::Relaxed) } else { 0 };
        let Some((board, index)) = ENTERED.get().and_then(|it| Some((it.board, it.board.metrics().find(kind, name)?)))
        else {
            return alone;
        };
        let sheet = board.metrics();
        let used = usize::try_from(sheet.lines_used.load(Ordering::Relaxed)).unwrap_or(LINES).min(LINES);
        let of_line = |line| sheet.cells(line, kind, index)[cell].load(Ordering::Relaxed);
        (0..used).map(of_line).fold(alone, u64::wrapping_add)
    }

    /// What the workers of one slot have in their cells.
    pub(super) fn of_slot(&self, kind: Kind, name: &str, slot: usize) -> u64 {
        let Some(board) = ENTERED.get().map(|entered| entered.board).filter(|_| slot < MOST_SLOTS) else { return 0 };
        let sheet = board.metrics();
        let Some(index) = sheet.find(kind, name) else { return 0 };
        let of_line = |line| sheet.cells(Place::Worker { slot, line }.line(), kind, index)[0].load(Ordering::Relaxed);
        (0..2).map(of_line).fold(0, u64::wrapping_add)
    }
}

#[cold]
fn complain(kind: Kind, name: &str) {
    tracing::error!(
        name,
        "no room for another {}: a cluster has {MOST_SCALARS} counters and gauges and {MOST_HISTOGRAMS} histograms at most; \
         what is counted here is seen by this process only",
        match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    );
}

/// FNV-1a, which spreads short texts well enough; never 0, and odd for gauges alone.
fn hash(kind: Kind, name: &str) -> u64 {
    let seed = 0xcbf2_9ce4_8422_2325 ^ kind as u64;
    let spread = name.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (spread ^ (spread >> 31)) & !1;
    if kind == Kind::Gauge { mixed | 1 } else { mixed.max(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_place_and_another_kind_another() {
        let (board, _fd) = Board::create().unwrap();
        let sheet = board.metrics();
        let one = sheet.find(Kind::Counter, "hits").unwrap();
        assert_eq!(sheet.find(Kind::Counter, "hits"), Some(one));
        assert_ne!(sheet.find(Kind::Gauge, "hits"), Some(one));
        assert_ne!(sheet.find(Kind::Counter, "misses"), Some(one));
    }

    #[test]
    fn there_are_only_so_many_and_then_there_is_none() {
        let (board, _fd) = Board::create().unwrap();
        let sheet = board.metrics();
        let found: std::collections::BTreeSet<_> =
            (0..MOST_SCALARS).map(|n| sheet.find(Kind::Counter, &n.to_string()).unwrap()).collect();
        assert_eq!(found.len(), MOST_SCALARS);
        assert_eq!(sheet.find(Kind::Counter, "one more"), None);
        assert!(sheet.find(Kind::Counter, "7").is_some(), "those that are there are found");
        assert!(sheet.find(Kind::Histogram, "times").is_some());
    }

    #[test]
    fn a_gauge_is_forgotten_with_its_process_and_a_counter_is_not() {
        let (board, _fd) = Board::create().unwrap();
        let sheet = board.metrics();
        let place = Place::Worker { slot: 3, line: 1 };
        let cell = |kind, name| &sheet.cells(place.line(), kind, sheet.find(kind, name).unwrap())[0];
        cell(Kind::Gauge, "open").store(7, Ordering::Relaxed);
        cell(Kind::Counter, "hits").store(8, Ordering::Relaxed);
        sheet.forget_gauges(place);
        assert_eq!(cell(Kind::Gauge, "open").load(Ordering::Relaxed), 0);
        assert_eq!(cell(Kind::Counter, "hits").load(Ordering::Relaxed), 8);
    }

    #[test]
    fn places_are_apart() {
        let places = [Place::Primary, Place::Worker { slot: 0, line: 0 }, Place::Worker { slot: 0, line: 1 }];
        assert_eq!(places.map(Place::line), [0, 1, 2]);
        assert_eq!(Place::Worker { slot: MOST_SLOTS - 1, line: 1 }.line(), LINES - 1);
    }
}
