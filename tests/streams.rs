//! Requests that are answered by many values, between real processes: who waits, and who hears of whose end.

use support::{Cluster, Signal, send};

fn streams(program: &str, ways: &str) -> Cluster {
    Cluster::of(env!("CARGO_BIN_EXE_streams")).args([program, ways]).start()
}

#[track_caller]
fn stop(cluster: &mut Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    let log = cluster.log_text();
    assert!(!log.contains("panicked"), "{log}");
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<u64> {
    line.split([' ', ';']).filter_map(|word| word.parse().ok()).collect()
}

/// No more of 100 MB than this is ever in the memory of one process, in kB.
const MEMORY: u64 = 40_000;

#[test]
fn a_worker_that_takes_values_slowly_makes_the_primary_wait_and_nobodys_memory_grows() {
    a_slow_reader("worker", "down");
}

#[test]
fn a_primary_that_takes_values_slowly_makes_the_worker_wait_and_nobodys_memory_grows() {
    a_slow_reader("primary", "up");
}

fn a_slow_reader(who: &str, way: &str) {
    let mut cluster = streams("slow", way);
    let stuck = *numbers(&cluster.wait_for(&format!("{who}: stuck at "))).last().unwrap();
    // One window of a stream, of lines of some 100 bytes.
    assert!((1000..3000).contains(&stuck), "{stuck} were sent though none was taken");
    let told = cluster.wait_for(&format!("{who}: took 1000000 in order; peaks "));
    assert!(numbers(&told)[1..].iter().all(|peak| *peak < MEMORY), "{told}");
    stop(&mut cluster);
}

#[test]
fn who_takes_values_from_a_worker_that_is_killed_hears_so_at_once() {
    let mut cluster = streams("endless", "up");
    let worker = *cluster.wait_for_workers(1).first().unwrap();
    cluster.wait_for("primary: reads");
    send(worker, Signal::SIGKILL);
    cluster.wait_for("primary: lines: Gone; silence: Err(Gone)");
    // Its replacement is asked, too.
    cluster.wait_for("primary: reads");
    stop(&mut cluster);
}

#[test]
fn who_takes_values_from_a_primary_that_is_killed_hears_so_at_once() {
    let mut cluster = streams("endless", "down");
    cluster.wait_for("worker: reads");
    cluster.signal(Signal::SIGKILL);
    cluster.wait_exit();
    cluster.wait_for("worker: lines: Gone; silence: Err(Gone)");
    cluster.expect_nothing_left();
}

#[test]
fn a_worker_whose_values_nobody_wants_any_more_stops() {
    an_asker_that_leaves("worker", "up");
}

#[test]
fn a_primary_whose_values_nobody_wants_any_more_stops() {
    an_asker_that_leaves("primary", "down");
}

fn an_asker_that_leaves(answerer: &str, way: &str) {
    let mut cluster = streams("leaving", way);
    // In either order.
    cluster.wait_logged(&format!("{answerer}: stops after "));
    cluster.wait_logged(&format!("{answerer}: nobody listens to the silence"));
    stop(&mut cluster);
    assert!(cluster.log_text().contains(": Gone"));
}

#[test]
fn many_streams_both_ways_beside_a_flood_of_messages_come_whole() {
    let mut cluster = streams("crowd", "up and down");
    for who in ["primary", "worker"] {
        cluster.wait_logged(&format!("{who}: 60 streams came whole"));
        cluster.wait_logged(&format!("{who}: took 50000 in order"));
    }
    stop(&mut cluster);
}
