//! Requests that are answered by many values, between real processes: who waits, and who hears of whose end.

use nix::unistd::Pid;
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

#[test]
fn a_worker_that_takes_values_slowly_makes_another_worker_wait_and_nobodys_memory_grows() {
    a_slow_reader("slot 0", "between");
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

/// The worker of a slot, by what it says of itself.
fn worker_of(cluster: &mut Cluster, slot: usize) -> Pid {
    let line = cluster.wait_logged(&format!("slot {slot}: lives as "));
    Pid::from_raw(line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn who_takes_values_from_another_worker_that_is_killed_hears_so_at_once() {
    let mut cluster = streams("endless", "between again");
    let answerer = worker_of(&mut cluster, 1);
    cluster.wait_for("slot 0: reads");
    // So that nobody else can have told it.
    cluster.signal(Signal::SIGSTOP);
    send(answerer, Signal::SIGKILL);
    cluster.wait_for("slot 0: lines: Gone; silence: Err(Gone)");
    cluster.signal(Signal::SIGCONT);
    // Its replacement is asked, too.
    cluster.wait_for("slot 0: reads");
    stop(&mut cluster);
}

#[test]
fn a_worker_that_answers_another_one_that_is_killed_stops_at_once() {
    let mut cluster = streams("endless", "between");
    let asker = worker_of(&mut cluster, 0);
    cluster.wait_for("slot 0: reads");
    cluster.signal(Signal::SIGSTOP);
    send(asker, Signal::SIGKILL);
    // In either order.
    let stopped = cluster.wait_logged("slot 1: stops after ");
    assert!(stopped.ends_with(": Gone"), "{stopped}");
    cluster.wait_logged("slot 1: nobody listens to the silence");
    cluster.signal(Signal::SIGCONT);
    stop(&mut cluster);
}

#[test]
fn a_worker_whose_values_nobody_wants_any_more_stops() {
    an_asker_that_leaves("worker", "up");
}

#[test]
fn a_primary_whose_values_nobody_wants_any_more_stops() {
    an_asker_that_leaves("primary", "down");
}

#[test]
fn a_worker_whose_values_another_worker_does_not_want_any_more_stops() {
    an_asker_that_leaves("slot 1", "between");
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
    let cluster = streams("crowd", "up and down");
    expect_crowd(cluster, ["primary", "worker"]);
}

#[test]
fn many_streams_between_workers_both_ways_beside_a_flood_of_messages_come_whole() {
    expect_crowd(streams("crowd", "between, both ways"), ["slot 0", "slot 1"]);
}

fn expect_crowd(mut cluster: Cluster, both: [&str; 2]) {
    for who in both {
        cluster.wait_logged(&format!("{who}: 60 streams came whole"));
        cluster.wait_logged(&format!("{who}: took 50000 in order"));
    }
    stop(&mut cluster);
}

#[test]
fn who_takes_values_from_a_primary_that_is_upgraded_gets_all_that_were_sent_and_hears_that_the_rest_will_not_come() {
    let taken = a_reader_across_an_upgrade("down");
    assert!(taken > 0);
}

#[test]
fn values_that_wait_for_a_slow_worker_outlive_the_upgrade_of_the_primary_that_has_sent_them() {
    let taken = a_reader_across_an_upgrade("late down");
    // One window.
    assert!((1000..3000).contains(&taken), "{taken}");
}

#[test]
fn a_large_value_that_is_on_its_way_outlives_the_upgrade_of_the_primary_that_has_sent_it() {
    let taken = a_reader_across_an_upgrade("large, down");
    assert!(taken > 0);
}

/// How many were taken before the end.
fn a_reader_across_an_upgrade(way: &str) -> u64 {
    let mut cluster = streams("renewed", way);
    cluster.wait_for("worker: reads");
    cluster.signal(Signal::SIGUSR2);
    let told = cluster.wait_for("worker: took ");
    assert!(told.ends_with(": Unanswered"), "{told}");
    // The program may have ended between a `send` that had succeeded and the line that counts it.
    let [taken, sent, to_send] = numbers(&told.replace(':', ";"))[..] else { panic!("{told}") };
    assert!(sent <= taken && taken <= to_send, "{told}");
    cluster.wait_for("worker: took 1000 in order after the upgrade");
    cluster.wait_logged("reloaded: all workers");
    stop(&mut cluster);
    taken
}

#[test]
fn a_worker_that_answers_a_primary_that_is_upgraded_stops_and_answers_the_next_program() {
    let stopped = an_answerer_across_an_upgrade("up, stay");
    assert!(stopped > 0);
}

#[test]
fn a_request_for_a_stream_that_a_worker_takes_after_the_upgrade_of_the_primary_is_one_that_nobody_wants_any_more() {
    let stopped = an_answerer_across_an_upgrade("late up, stay");
    // One window.
    assert!(stopped < 3000, "{stopped}");
}

/// How many values the worker has sent before it stopped.
fn an_answerer_across_an_upgrade(way: &str) -> u64 {
    let mut cluster = streams("renewed", way);
    cluster.wait_for("primary: reads");
    cluster.signal(Signal::SIGUSR2);
    // In either order.
    let stopped = cluster.wait_logged("worker: stops after ");
    assert!(stopped.ends_with(": Gone"), "{stopped}");
    cluster.wait_logged("worker: nobody listens to the silence");
    cluster.wait_logged("primary: took 1000 in order after the upgrade");
    cluster.wait_logged("reloaded: all workers");
    stop(&mut cluster);
    numbers(&stopped.replace(':', ";"))[0]
}
