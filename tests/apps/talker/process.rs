//! The processes behind the talk.

use cluster::{Event, Primary, PrimaryHandle, WorkerId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::talk::Talk;

/// The ids of the workers in slots 0 and 1, once both are ready.
pub(crate) async fn two_ready(primary: &mut Primary<Talk, Talk>) -> (WorkerId, WorkerId) {
    let mut ready = Vec::new();
    while ready.len() < 2 {
        if let Event::Ready(id) = primary.next().await.expect("the cluster runs") {
            ready.push(id);
        }
    }
    // The first workers are spawned in the order of their slots.
    ready.sort_unstable();
    (ready[0], ready[1])
}

/// The worker's pid, by the list.
pub(crate) fn pid_of(primary: &PrimaryHandle<Talk, Talk>, id: WorkerId) -> Option<Pid> {
    let info = primary.workers().into_iter().find(|info| info.id == id)?;
    Some(Pid::from_raw(info.pid.cast_signed()))
}

/// The most memory in kB that a process (or this one) ever had in use.
pub(crate) fn peak(pid: Option<Pid>) -> u64 {
    let path = format!("/proc/{}/status", pid.unwrap_or_else(Pid::this));
    let status = std::fs::read_to_string(path).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}

pub(crate) fn kill_oneself() -> ! {
    kill(Pid::this(), Signal::SIGKILL).expect("a process may kill itself");
    unreachable!("it is dead")
}
