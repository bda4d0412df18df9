//! Counters, gauges and histograms that all processes of a cluster share, without a message.
//!
//! They are kept in the cluster's shared memory: each process adds in cells of its own, and whoever wants to know adds them up. What a
//! process has counted stays when it ends, as its slot's next worker goes on in the same cells; only what a gauge says of it is
//! forgotten with it.
//!
//! A name is claimed by one exchange of one word, so a process may die between any two instructions here.

mod counter;
mod gauge;
mod histogram;
mod sheet;

pub use counter::Counter;
pub use gauge::Gauge;
pub use histogram::{Histogram, Summary};
pub(crate) use sheet::{Place, Sheet, enter};
