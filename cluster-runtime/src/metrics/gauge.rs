use std::sync::atomic::Ordering;

use super::sheet::{Cells, Kind};

/// A number of each process that goes up and down, such as the jobs that it has in hand; the cluster's is their sum.
///
/// ```
/// static JOBS: cluster::Gauge = cluster::gauge!("jobs", "jobs in hand");
///
/// JOBS.add(1);
/// JOBS.add(-1);
/// assert_eq!(JOBS.total(), 0);
/// ```
///
/// It costs what a [`Counter`](struct@crate::Counter) costs, and is known by its name like one. What a worker's part was is forgotten when it is
/// gone: it has no jobs in hand any more.
#[derive(Debug)]
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    cells: Cells,
}

/// Declares a [`Gauge`](struct@crate::Gauge): its name, and what it says.
#[macro_export]
macro_rules! gauge {
    ($name:expr, $help:expr $(,)?) => {
        $crate::Gauge::new($name, $help)
    };
}

impl Gauge {
    /// What [`gauge!`](crate::gauge!) makes.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, cells: Cells::new() }
    }

    /// Adds to this process's part, or takes off.
    #[inline]
    pub fn add(&'static self, count: i64) {
        self.cells.own(Kind::Gauge, self.name).fetch_add(count.cast_unsigned(), Ordering::Relaxed);
    }

    /// Sets this process's part.
    #[inline]
    pub fn set(&'static self, value: i64) {
        self.cells.own(Kind::Gauge, self.name).store(value.cast_unsigned(), Ordering::Relaxed);
    }

    /// The sum over all processes that live.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.cells.sum(Kind::Gauge, self.name, 0).cast_signed()
    }

    /// The part of the workers of one slot.
    #[must_use]
    pub fn of_slot(&self, slot: usize) -> i64 {
        self.cells.of_slot(Kind::Gauge, self.name, slot).cast_signed()
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it says.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.help
    }
}
