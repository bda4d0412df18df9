//! What /proc tells of a process and its children.

use std::fs;
use std::time::Duration;

/// The processes that `pid` has started and that live.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// User and system time of one process so far.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// Linux counts CPU time for user space in hundredths on every architecture that this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Memory of one process, or a mean of several.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// That nobody else has.
    pub(crate) private_kib: f64,
    /// With its share of what others have, too (PSS).
    pub(crate) proportional_kib: f64,
}

/// Memory of one process.
pub(crate) fn memory(pid: u32) -> Memory {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let sum = |key: &str| -> f64 {
        let lines = rollup.lines().filter(|line| line.starts_with(key));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum()
    };
    Memory { private_kib: sum("Private_Dirty:") + sum("Private_Clean:"), proportional_kib: sum("Pss:") }
}
