//! The guard: a small thread that outlasts whatever the runtime is stuck in.
//!
//! It waits for the primary's death and costs nothing while it waits. The runtime sees the same event and drains; a worker
//! that has not ended when the grace period is over, spinning in CPU code perhaps, is ended here. While the primary lives, it
//! does that itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::os;

/// Starts the guard; `primary` becomes readable when the primary dies. The runtime gets a duplicate.
pub(super) fn start(primary: OwnedFd, grace: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let duplicate = os::register(primary.try_clone()?, Interest::READABLE)?;
    let watch = move || {
        // The user's handlers run on the user's threads.
        _ = SigSet::all().thread_block();
        await_death(&primary);
        thread::sleep(grace);
        os::kill_self()
    };
    thread::Builder::new().name("cluster-guard".into()).stack_size(64 * 1024).spawn(watch)?;
    Ok(duplicate)
}

fn await_death(primary: &OwnedFd) {
    loop {
        match poll(&mut [PollFd::new(primary.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) => return,
            Err(Errno::EINTR) => {}
            // Without the watch the worker might outlive its primary for ever: rather drain and end now.
            Err(_) => return,
        }
    }
}
