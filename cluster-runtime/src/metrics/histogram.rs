use std::sync::atomic::{AtomicU64, Ordering};

use super::sheet::{Cells, HISTOGRAM, Kind};

/// How numbers are spread, such as the times that requests take: of all processes of the cluster together.
///
/// ```
/// static TIMES: cluster::Histogram = cluster::histogram!("times", "what a request takes, in microseconds");
///
/// for time in [90, 100, 110, 5_000] {
///     TIMES.record(time);
/// }
/// let times = TIMES.summary();
/// # if times.count() > 0 { // outside a cluster nothing is kept
/// assert!((90..=127).contains(&times.quantile(0.5)));
/// # }
/// ```
///
/// Recording is three atomic additions on memory that is this process's own, and no system call. A number is remembered to within
/// a half of its power of two. A cluster has 32 histograms; what is beyond, and what is recorded outside a cluster, is not kept.
#[derive(Debug)]
pub struct Histogram {
    name: &'static str,
    help: &'static str,
    cells: Cells,
}

/// Declares a [`Histogram`](struct@crate::Histogram): its name, and what it measures.
#[macro_export]
macro_rules! histogram {
    ($name:expr, $help:expr $(,)?) => {
        $crate::Histogram::new($name, $help)
    };
}

/// What a [`Histogram`] held at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    count: u64,
    sum: u64,
    buckets: Vec<u64>,
}

/// The first cells are the count and the sum.
const COUNT: usize = 0;
const SUM: usize = 1;
const BUCKETS: usize = 2;

impl Histogram {
    /// What [`histogram!`](crate::histogram!) makes.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, cells: Cells::new() }
    }

    /// Adds one number.
    pub fn record(&'static self, value: u64) {
        if let Some(cells) = self.cells.own_all(Kind::Histogram, self.name) {
            let add = |cell: &AtomicU64, count| _ = cell.fetch_add(count, Ordering::Relaxed);
            add(&cells[BUCKETS + bucket(value)], 1);
            add(&cells[SUM], value);
            add(&cells[COUNT], 1);
        }
    }

    /// What all processes have recorded so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let sum = |cell| self.cells.sum(Kind::Histogram, self.name, cell);
        Summary { count: sum(COUNT), sum: sum(SUM), buckets: (BUCKETS..HISTOGRAM).map(sum).collect() }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it measures.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.help
    }
}

impl Summary {
    /// How many numbers there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Their sum; it begins anew beyond the largest number.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// The number that so large a part of all does not exceed: the upper end of where it was remembered. 0 if there is none.
    ///
    /// # Panics
    /// If `part` is not from 0 to 1.
    #[must_use]
    pub fn quantile(&self, part: f64) -> u64 {
        assert!((0.0..=1.0).contains(&part), "a part is from 0 to 1, and not {part}");
        // Any process of the cluster can write there, so the sum may be anything.
        let all = self.buckets.iter().fold(0, |all: u64, count| all.saturating_add(*count));
        let rank = ((all as f64 * part).ceil() as u64).max(1);
        let mut below: u64 = 0;
        let reaches = |count: &u64| {
            below = below.saturating_add(*count);
            below >= rank
        };
        self.buckets.iter().position(reaches).map_or(0, upper_end)
    }
}

/// Two for each power of two; the first are the numbers themselves.
fn bucket(value: u64) -> usize {
    match value.checked_ilog2() {
        None | Some(0) => value as usize,
        Some(log) => (2 * log + u32::from(value >> (log - 1) & 1 == 1)) as usize,
    }
}

fn upper_end(bucket: usize) -> u64 {
    if bucket < 2 {
        return bucket as u64;
    }
    let (log, half) = (bucket / 2, bucket as u64 % 2);
    let step = 1_u64 << (log - 1);
    ((1_u64 << log) + step * half).saturating_add(step - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_bucket_and_lies_in_it() {
        let numbers =
            (0..200).chain((6..64).flat_map(|log| [(1 << log) - 1, 1 << log, 3 << (log - 1)])).chain([u64::MAX]);
        for value in numbers {
            let index = bucket(value);
            assert!(index < HISTOGRAM - BUCKETS, "{value}");
            assert!(value <= upper_end(index), "{value}");
            assert!(index == 0 || value > upper_end(index - 1), "{value}");
        }
    }

    #[test]
    fn a_quantile_is_the_end_of_where_it_was_remembered() {
        let mut buckets = vec![0; HISTOGRAM - BUCKETS];
        for value in 1..=1000 {
            buckets[bucket(value)] += 1;
        }
        let summary = Summary { count: 1000, sum: 500_500, buckets };
        assert_eq!((summary.quantile(0.5), summary.quantile(1.0)), (511, 1023));
        assert_eq!(summary.quantile(0.0), 1);
        let nonsense = Summary { count: 7, sum: 7, buckets: vec![u64::MAX; HISTOGRAM - BUCKETS] };
        assert_eq!((nonsense.quantile(0.5), nonsense.quantile(1.0)), (0, 0));
        let empty = Summary { count: 0, sum: 0, buckets: vec![0; HISTOGRAM - BUCKETS] };
        assert_eq!(empty.quantile(0.99), 0);
    }
}
