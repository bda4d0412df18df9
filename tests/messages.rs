//! Typed messages between real processes: what arrives, in which order, who waits, and what is heard of the dead.

use support::{Cluster, Launch, Signal, send};

fn talker(program: &str) -> Launch {
    Cluster::of(env!("CARGO_BIN_EXE_talker")).args([program])
}

fn talker_with(program: &str, way: &str) -> Launch {
    Cluster::of(env!("CARGO_BIN_EXE_talker")).args([program, way])
}

/// Waits until all these lines are in the log, in whatever order.
#[track_caller]
fn wait_for_all(cluster: &mut Cluster, lines: &[String]) {
    cluster.wait_until(&format!("{lines:?}"), |cluster| {
        let log = cluster.log_text();
        lines.iter().all(|line| log.lines().any(|found| found == line)).then_some(())
    });
}

#[track_caller]
fn stop(cluster: &mut Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<u64> {
    line.split(' ').filter_map(|word| word.parse().ok()).collect()
}

/// test-cluster-message, test-cluster-advanced-serialization.
#[test]
fn messages_of_every_shape_arrive_equal_both_ways() {
    let mut cluster = talker("shapes").start();
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("worker {id}: all came back equal")));
    stop(&mut cluster);
    let log = cluster.log_text();
    assert_eq!(log.matches("nests too deep: Err(Encode(").count(), 2, "{log}");
}

#[test]
fn a_hundred_thousand_messages_each_way_at_once_keep_their_order() {
    let mut cluster = talker("order").workers(3).start();
    wait_for_all(&mut cluster, &[1, 2, 3].map(|id| format!("worker {id}: took 100000 in order")));
    wait_for_all(&mut cluster, &[1, 2, 3].map(|id| format!("primary: took 100000 of {id} in order")));
    stop(&mut cluster);
}

#[test]
fn many_requests_at_once_go_both_ways_and_each_gets_its_own_answer() {
    let mut cluster = talker("calls").start();
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("worker {id}: 500 answers are right")));
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("primary: 500 answers of {id} are right")));
    stop(&mut cluster);
}

#[test]
fn a_request_whose_reply_is_dropped_fails_at_once_and_the_next_is_answered() {
    let mut cluster = talker("unanswered").workers(1).start();
    cluster.wait_for("worker 1: Err(Unanswered)");
    cluster.wait_for("worker 1: Ok(8)");
    cluster.wait_for("primary: Err(Unanswered) Ok(10)");
    stop(&mut cluster);
}

#[test]
fn the_primary_function_can_call_a_worker_whose_messages_it_leaves_unread() {
    let mut cluster = talker("backlog").start();
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("primary: called {id} while its messages waited")));
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("primary: took 30000 of {id} in order")));
    stop(&mut cluster);
}

#[test]
fn a_broadcast_reaches_all_and_says_how_many_they_are() {
    let mut cluster = talker("broadcast").workers(3).env("CLUSTER_RESTART", "never").start();
    cluster.wait_for("primary: 1 sent to 3");
    let told = cluster.wait_for("2 sent to 2");
    let aborted = numbers(&told)[0];
    wait_for_all(&mut cluster, &[1, 2, 3].map(|id| format!("worker {id}: heard 1")));
    let left: Vec<_> = (1..=3).filter(|id| *id != aborted).map(|id| format!("worker {id}: heard 2")).collect();
    wait_for_all(&mut cluster, &left);
    stop(&mut cluster);
    assert!(cluster.log_text().contains("primary: none is left, 3 sent to 0"));
}

#[test]
fn what_is_sent_before_anybody_takes_messages_is_kept() {
    let mut cluster = talker("early").start();
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("worker {id}: took 1000 in order")));
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("primary: took 1000 of {id} in order")));
    stop(&mut cluster);
}

#[test]
fn what_a_worker_sends_before_main_returns_arrives() {
    last_words("returns", "Code(0), reason: Finished");
}

#[test]
fn what_a_worker_sends_before_main_fails_arrives() {
    last_words("fails", "Code(1), reason: Crashed");
}

#[test]
fn what_a_worker_has_flushed_arrives_though_it_aborts() {
    last_words("aborts", "Signal(6), reason: Crashed");
}

#[test]
fn what_a_worker_has_flushed_arrives_though_it_exits() {
    last_words("exits", "Code(7), reason: Crashed");
}

#[test]
fn what_a_worker_has_flushed_arrives_though_it_is_killed() {
    last_words("is-killed", "Signal(9), reason: Crashed");
}

/// test-cluster-worker-death and test-cluster-worker-exit, with messages on the way.
fn last_words(way: &str, exit: &str) {
    let mut cluster = talker_with("parting", way).start();
    cluster.wait_for("primary: took 10000 of 1 in order");
    cluster.wait_for("Disconnected(WorkerId(1))");
    cluster.wait_for(&format!("Exited(WorkerId(1), Exit {{ status: {exit} }})"));
    stop(&mut cluster);
}

/// No more of a flood of 110 MB than this is ever in the memory of one process, in kB.
const MEMORY: u64 = 40_000;
/// Nor this many blobs of 100 kB on the way: two windows, two socket buffers, and some change.
const ON_THE_WAY: u64 = 40;

#[test]
fn a_primary_function_that_takes_nothing_makes_workers_wait_and_nobodys_memory_grows() {
    let mut cluster = talker("flood-up").start();
    for _ in 0..2 {
        let stuck = numbers(&cluster.wait_for("primary: stuck at "))[0];
        assert!(stuck <= ON_THE_WAY, "{stuck} were sent though none was taken");
    }
    for _ in 0..2 {
        let told = cluster.wait_for("primary: took all in order; peaks ");
        assert!(numbers(&told).iter().all(|peak| *peak < MEMORY), "{told}");
    }
    stop(&mut cluster);
}

#[test]
fn a_worker_that_takes_nothing_makes_the_primary_wait_and_nobodys_memory_grows() {
    let mut cluster = talker("flood-down").workers(1).start();
    let stuck = *numbers(&cluster.wait_for("worker 1: stuck at ")).last().unwrap();
    assert!(stuck <= ON_THE_WAY, "{stuck} were sent though none was taken");
    cluster.wait_for("worker 1: took all in order");
    let told = cluster.wait_for("primary: peaks ");
    assert!(numbers(&told).iter().all(|peak| *peak < MEMORY), "{told}");
    stop(&mut cluster);
}

#[test]
fn a_worker_that_takes_nothing_holds_up_nobody_else_and_who_waits_for_it_hears_of_its_end() {
    let mut cluster = talker("deaf").env("CLUSTER_RESTART", "never").start();
    let queued = *numbers(&cluster.wait_for("primary: Full after ")).last().unwrap();
    assert!((500..2000).contains(&queued), "{queued} of 1 kB");
    cluster.wait_for("worker 2: heard 2");
    cluster.wait_for("primary: Ok(42)");
    cluster.wait_for("primary: Err(Full), and three wait");
    cluster.wait_for("primary: Ok(Err(Gone)) Ok(Err(Gone)) Ok(Ok(1))");
    cluster.expect_exit(0);
}

#[test]
fn a_worker_that_is_gone_is_an_error_and_open_requests_fail_at_once() {
    let mut cluster = talker("gone").start();
    cluster.wait_for("primary: 100 of 100 calls: Gone");
    for when in ["dead", "reaped"] {
        cluster.wait_for(&format!("primary: {when}: Err(Gone) Err(Failed(Gone)) Err(Gone)"));
    }
    stop(&mut cluster);
}

/// test-cluster-primary-kill, for whoever was in the middle of a conversation.
#[test]
fn a_worker_whose_primary_is_killed_hears_so_in_every_call_and_ends() {
    let mut cluster = talker("orphan").start();
    cluster.wait_for("primary: all have asked");
    cluster.signal(Signal::SIGKILL);
    cluster.wait_exit();
    for id in [1, 2] {
        wait_for_all(
            &mut cluster,
            &["call: Err(Gone)", "send: Gone", "recv: None", "later: Err(Gone) Err(Gone)"]
                .map(|end| format!("worker {id}: {end}")),
        );
    }
    cluster.expect_nothing_left();
    let log = cluster.log_text();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn when_the_primary_function_has_returned_workers_send_into_the_void_and_requests_fail() {
    unheard(talker("unheard"));
}

#[test]
fn without_a_primary_function_workers_send_into_the_void_and_requests_fail() {
    unheard(talker("nobody"));
}

#[test]
fn when_the_events_are_dropped_workers_send_into_the_void_and_requests_fail() {
    let log = unheard(talker_with("unheard", "drops"));
    assert!(log.contains("primary: all workers are gone"), "{log}");
}

fn unheard(launch: Launch) -> String {
    let mut cluster = launch.start();
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("worker {id}: sent all; call: Err(Unanswered)")));
    stop(&mut cluster);
    cluster.log_text()
}

#[test]
fn a_primary_function_that_blocks_its_thread_does_not_stop_supervision() {
    let mut cluster = talker("spin").env("CLUSTER_GRACE", "2s").start();
    cluster.wait_for("primary: spins");
    let before = cluster.wait_for_workers(2);
    send(*before.first().unwrap(), Signal::SIGKILL);
    cluster.wait_for("crashed (killed by SIGKILL); restarted at once");
    cluster.wait_until("a replacement", |cluster| {
        Some(cluster.workers()).filter(|workers| workers.len() == 2 && *workers != before)
    });
    cluster.signal(Signal::SIGTERM);
    cluster.wait_for("the primary function did not return");
    cluster.expect_exit(0);
}

/// Orders travel apart from messages.
#[test]
fn a_worker_that_floods_hears_the_order_to_end() {
    let mut cluster = talker_with("endless", "listens-for-the-end").start();
    term_amid_a_flood(&mut cluster);
}

#[test]
fn a_worker_that_floods_in_main_and_never_asks_for_the_end_is_ended() {
    let mut cluster = talker_with("endless", "in-main").start();
    term_amid_a_flood(&mut cluster);
}

#[test]
fn a_worker_that_floods_in_a_task_and_never_asks_for_the_end_is_ended() {
    let mut cluster = talker_with("endless", "in-a-task").start();
    term_amid_a_flood(&mut cluster);
}

fn term_amid_a_flood(cluster: &mut Cluster) {
    wait_for_all(cluster, &[1, 2].map(|id| format!("worker {id}: floods")));
    // Code 0: nobody had to be killed at the end of the grace period.
    stop(cluster);
}

#[test]
fn a_drain_order_reaches_a_worker_that_floods_the_primary() {
    let mut cluster = talker("told").env("CLUSTER_RESTART", "never").start();
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("worker {id}: told amid the flood")));
    cluster.expect_exit(0);
}

#[test]
fn a_drain_order_reaches_a_worker_that_floods_a_primary_function_that_takes_nothing() {
    let mut cluster = talker_with("told", "unread").env("CLUSTER_RESTART", "never").start();
    wait_for_all(&mut cluster, &[1, 2].map(|id| format!("worker {id}: told while it waits for room")));
    cluster.wait_for("primary: both have ended, and nothing was read");
    cluster.expect_exit(0);
}

/// test-cluster-invalid-message: the sender is to blame, and nobody else suffers.
#[test]
fn a_message_that_the_primary_cannot_decode_ends_the_worker_that_sent_it() {
    let mut cluster = talker_with("touchy", "up-fails").start();
    cluster.wait_for("Disconnected(WorkerId(1))");
    cluster.wait_for("Exited(WorkerId(1), Exit { status: Signal(9), reason: Misbehaved })");
    // The successor may be heard of before the last of its predecessor.
    cluster.wait_logged("Ready(WorkerId(3))");
    stop(&mut cluster);
    let log = cluster.log_text();
    let told = log
        .lines()
        .find(|line| line.contains("broke the protocol and is killed: a message of type Talk cannot be decoded"));
    let why = if cfg!(feature = "bincode") { "do not touch" } else { "it was refused, and postcard keeps no reasons" };
    assert!(told.is_some_and(|told| told.contains("worker=1") && told.contains(why)), "{log}");
}

#[test]
fn a_message_whose_decoding_panics_is_a_panic_of_the_primary_function() {
    let mut cluster = talker_with("touchy", "up-panics").start();
    cluster.wait_for("the primary function failed, so the cluster stops: it panicked: touched");
    cluster.expect_exit(1);
}

#[test]
fn a_message_that_a_worker_cannot_decode_ends_that_worker() {
    let mut cluster = talker_with("touchy", "down-fails").start();
    cluster.wait_for("worker 1: heard the end; send: Err(Gone)");
    cluster.wait_for("Disconnected(WorkerId(1))");
    cluster.wait_for("Exited(WorkerId(1)");
    // The successor may be heard of before the last of its predecessor.
    cluster.wait_logged("Ready(WorkerId(3))");
    stop(&mut cluster);
}

#[test]
fn a_message_whose_decoding_panics_is_a_panic_of_the_worker_that_takes_it() {
    let mut cluster = talker_with("touchy", "down-panics").start();
    cluster.wait_for("touched");
    cluster.wait_for("Exited(WorkerId(1), Exit { status: Code(101), reason: Crashed })");
    // The successor may be heard of before the last of its predecessor.
    cluster.wait_logged("Ready(WorkerId(3))");
    stop(&mut cluster);
}
