//! As PID 1, the primary is also the parent of every orphan in its container, and must reap them.

use std::collections::BTreeSet;
use std::time::Duration;
use std::{fs, io, process};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// How long a dead child that is no worker is left alone: somebody in the primary function may be about to wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reaps strangers for ever if this process is PID 1; does nothing elsewhere, where every child is somebody's own.
///
/// `is_worker` tells the pids that the supervisor reaps.
pub(super) async fn reap_strangers(is_worker: impl Fn(Pid) -> bool) -> io::Result<()> {
    if process::id() != 1 {
        return Ok(());
    }
    let mut child_ended = signal(SignalKind::child())?;
    // Nobody tells of those that had ended before: they came with the program that this process was before its exec.
    let mut has_more = Some(());
    while has_more.is_some() {
        tokio::time::sleep(PATIENCE).await;
        for pid in children().into_iter().filter(|pid| !is_worker(*pid)) {
            // A child that lives on, or was reaped by its owner meanwhile, is none of ours.
            _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
        has_more = child_ended.recv().await;
    }
    Ok(())
}

/// The children of all threads of this process. What cannot be read now is found the next time.
fn children() -> BTreeSet<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids = |list: String| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>();
    lists.flat_map(pids).map(Pid::from_raw).collect()
}
