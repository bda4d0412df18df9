//! What /proc tells of a process and its children.

use std::fs;
use std::time::Duration;

/// The processes that `pid` has started and that live.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let lists = tasks(pid).filter_map(|task| fs::read_to_string(task.join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// User and system time of the threads of one process so far. `stat` counts in hundredths of a second, which is much for a short
/// span; this is in nanoseconds, but without threads that have ended.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let texts = tasks(pid).filter_map(|task| fs::read_to_string(task.join("schedstat")).ok());
    texts.filter_map(|text| text.split_whitespace().next()?.parse().ok()).map(Duration::from_nanos).sum()
}

/// The same of a process and those that it has started; none of their threads may end between two looks.
pub(crate) fn tree_cpu_time(pid: u32) -> Duration {
    children(pid).into_iter().chain([pid]).map(cpu_time).sum()
}

/// Whether a signal has stopped it: the signal is delivered a moment after it was sent.
pub(crate) fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// Whether it has not ended.
pub(crate) fn lives(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// Whether it has ended and nobody has asked how.
pub(crate) fn is_zombie(pid: u32) -> bool {
    state(pid) == Some('Z')
}

/// How many descriptors it has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().count()
}

/// How often the threads of one process have gone to sleep by themselves so far, without those that have ended. Whoever sleeps
/// once more has woken up.
pub(crate) fn voluntary_switches(pid: u32) -> u64 {
    let texts = tasks(pid).filter_map(|task| fs::read_to_string(task.join("status")).ok());
    let count = |text: String| {
        text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    };
    texts.filter_map(count).sum()
}

/// Memory of one process, or a mean of several.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// With all of what others have, too (RSS).
    pub(crate) resident_mib: f64,
    /// That nobody else has.
    pub(crate) private_mib: f64,
    /// With its share of what others have, too (PSS).
    pub(crate) proportional_mib: f64,
}

/// Memory of one process.
pub(crate) fn memory(pid: u32) -> Memory {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let mib = |key: &str| -> f64 {
        let lines = rollup.lines().filter(|line| line.starts_with(key));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum::<f64>() / 1024.0
    };
    Memory {
        resident_mib: mib("Rss:"),
        private_mib: mib("Private_Dirty:") + mib("Private_Clean:"),
        proportional_mib: mib("Pss:"),
    }
}

fn tasks(pid: u32) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|task| task.path())
}

/// The name before it, in parentheses, may hold anything.
fn state(pid: u32) -> Option<char> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit(')').next()?.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::running::within;

    #[test]
    fn a_process_that_wakes_up_is_noticed() {
        let mut waking = Command::new("sh").args(["-c", "while sleep 0.01; do :; done"]).spawn().unwrap();
        let before = voluntary_switches(waking.id());
        let noticed = within(Duration::from_secs(60), || voluntary_switches(waking.id()) >= before + 5);
        waking.kill().unwrap();
        waking.wait().unwrap();
        assert!(noticed);
    }
}
