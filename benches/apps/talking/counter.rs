//! Adding to a counter in the worker of a cluster, with nobody else at it.

use std::hint::black_box;
use std::time::Instant;

use cluster::Worker;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};

static ADDED: cluster::Counter = cluster::counter!("added", "what the bench has added");

const ADDITIONS: u64 = 100_000_000;

/// Prints what each addition took and how much of that in the kernel, in ns, and how often the thread slept meanwhile.
pub(super) async fn worker(worker: Worker) -> cluster::Result {
    worker.ready();
    // The first one looks the counter up.
    ADDED.add(1);
    let before = usage();
    let started = Instant::now();
    for _ in 0..ADDITIONS {
        ADDED.add(black_box(1));
    }
    let took = started.elapsed().as_nanos() as f64;
    let after = usage();
    assert_eq!(ADDED.total(), ADDITIONS + 1);
    let in_kernel = nanoseconds(after.system_time()) - nanoseconds(before.system_time());
    let slept = after.voluntary_context_switches() - before.voluntary_context_switches();
    println!("added {} {} {slept}", took / ADDITIONS as f64, in_kernel / ADDITIONS as f64);
    worker.shutdown().await;
    Ok(())
}

/// Of this thread.
fn usage() -> Usage {
    getrusage(UsageWho::RUSAGE_THREAD).expect("the kernel knows this thread")
}

fn nanoseconds(time: TimeVal) -> f64 {
    time.num_nanoseconds() as f64
}
