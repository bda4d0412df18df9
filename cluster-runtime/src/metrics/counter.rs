use std::sync::atomic::Ordering;

use super::sheet::{Cells, Kind};

/// A number that all processes of the cluster add to, and that only grows.
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// static HITS: cluster::Counter = cluster::counter!("hits", "requests served");
///
/// #[cluster::main(workers = "auto")]
/// async fn main() -> cluster::Result {
///     let app = Router::new().route("/", get(hello)).route("/total", get(|| async { HITS.total().to_string() }));
///     cluster::serve("127.0.0.1:3000", app).await
/// }
///
/// async fn hello() -> &'static str {
///     HITS.add(1);
///     "hello\n"
/// }
/// ```
///
/// Adding is one atomic instruction on memory that is this process's own, and no system call. What a worker has added stays when it
/// crashes, is reloaded, or the primary is upgraded. A counter is known by its name: two statics of one name are one counter.
///
/// A cluster has 512 counters and gauges. What is beyond, and what is counted outside a cluster, this process alone sees; the first case
/// is logged as an error. What was counted before [`run`](crate::run()) counts from then on.
#[derive(Debug)]
pub struct Counter {
    name: &'static str,
    help: &'static str,
    cells: Cells,
}

/// Declares a [`Counter`](struct@crate::Counter): its name, and what it counts.
#[macro_export]
macro_rules! counter {
    ($name:expr, $help:expr $(,)?) => {
        $crate::Counter::new($name, $help)
    };
}

impl Counter {
    /// What [`counter!`](crate::counter!) makes.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, cells: Cells::new() }
    }

    /// Adds to it.
    #[inline]
    pub fn add(&'static self, count: u64) {
        self.cells.own(Kind::Counter, self.name).fetch_add(count, Ordering::Relaxed);
    }

    /// What all processes have added so far, those that are gone among them. It takes a look at each worker's cell, and is as exact as
    /// that can be while others add.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.cells.sum(Kind::Counter, self.name, 0)
    }

    /// What the workers of one slot have added so far.
    #[must_use]
    pub fn of_slot(&self, slot: usize) -> u64 {
        self.cells.of_slot(Kind::Counter, self.name, slot)
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it counts.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.help
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ALONE: Counter = counter!("alone", "outside a cluster");

    #[test]
    fn outside_a_cluster_it_counts_for_this_process() {
        ALONE.add(2);
        ALONE.add(3);
        assert_eq!(ALONE.total(), 5);
        assert_eq!((ALONE.name(), ALONE.help()), ("alone", "outside a cluster"));
    }
}
