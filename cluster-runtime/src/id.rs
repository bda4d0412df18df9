//! The one key by which everything in the cluster names a worker.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names one worker process for the life of the cluster; counted from 1 and never used again.
///
/// A replacement gets a new id and the *slot* of the worker that it replaces. The id is not the process id: the kernel
/// reuses those.
///
/// ```
/// # fn show(worker: cluster::WorkerId) {
/// println!("worker {worker}");                      // worker 17
/// assert!(worker.get() > 0);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(u64);

impl WorkerId {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
