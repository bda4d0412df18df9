//! The pulse: shows on the board whether this worker's runtime waits for something to do, and if not, since when.
//!
//! The primary serves what waits behind a worker that is stuck. It looks only while somebody is awake; the first one to wake up
//! rings for it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio::runtime::Builder;

use crate::board::{Board, Line};
use crate::os;

static PULSE: OnceLock<Pulse> = OnceLock::new();
/// Threads of the runtime that do not wait.
static AWAKE: AtomicUsize = AtomicUsize::new(0);
static THREADS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct Pulse {
    board: Board,
    line: &'static Line,
    bell: OwnedFd,
}

/// Makes the runtime of `threads` threads, which is about to be built, have a pulse.
pub(super) fn attend(builder: &mut Builder, threads: usize) {
    // They start awake and park when they have nothing to do.
    AWAKE.store(threads, Ordering::SeqCst);
    THREADS.store(threads, Ordering::Relaxed);
    if threads == 1 {
        builder.on_thread_park(rest_alone).on_thread_unpark(wake_alone);
    } else {
        builder.on_thread_park(rest).on_thread_unpark(wake);
    }
}

/// From here on the board shows it.
pub(super) fn start(board: Board, line: &'static Line, bell: OwnedFd) {
    // Threads that rest already have found no pulse to tell.
    PULSE.get_or_init(|| Pulse { board, line, bell }).show();
}

fn wake_alone() {
    if let Some(pulse) = PULSE.get() {
        pulse.wake();
    }
}

fn rest_alone() {
    if let Some(pulse) = PULSE.get() {
        pulse.line.rest();
    }
}

/// A worker of several threads is busy when none of them is left.
fn wake() {
    if AWAKE.fetch_add(1, Ordering::SeqCst) + 1 >= THREADS.load(Ordering::Relaxed)
        && let Some(pulse) = PULSE.get()
    {
        pulse.show();
    }
}

fn rest() {
    if AWAKE.fetch_sub(1, Ordering::SeqCst) >= THREADS.load(Ordering::Relaxed)
        && let Some(pulse) = PULSE.get()
    {
        pulse.show();
    }
}

fn are_all_awake() -> bool {
    AWAKE.load(Ordering::SeqCst) >= THREADS.load(Ordering::Relaxed)
}

/// Has the primary look at the board, whatever it is doing.
pub(crate) fn ring() {
    if let Some(pulse) = PULSE.get() {
        pulse.ring();
    }
}

impl Pulse {
    fn show(&self) {
        loop {
            let is_busy = are_all_awake();
            if is_busy {
                self.wake();
            } else {
                self.line.rest();
            }
            // Another thread may have come or gone meanwhile, and shown it before we have shown what was before.
            fence(Ordering::SeqCst);
            if are_all_awake() == is_busy {
                return;
            }
        }
    }

    fn wake(&self) {
        let now = self.line.wake();
        if self.board.must_ring(now) {
            self.ring();
        }
    }

    fn ring(&self) {
        // Nobody is to wait for others to make it so: all share it.
        _ = os::set_nonblocking(self.bell.as_fd());
        // A bell that rings already cannot ring more.
        _ = nix::unistd::write(&self.bell, &1_u64.to_ne_bytes());
    }
}
