//! A worker dies: what its clients, its siblings and its queue notice of it.

use std::collections::BTreeSet;
use std::io::Write as _;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use support::http::{self, Connection};
use support::load::Load;
use support::who::{self, who};
use support::{Cluster, Signal, send};

const WEB: &str = env!("CARGO_BIN_EXE_web");

/// test-cluster-worker-kill, test-cluster-worker-kill-signal: the signal is reported, exactly once, and asked for by nobody.
#[test]
fn a_killed_worker_is_told_once_and_replaced_in_its_slot() {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    let address = cluster.wait_ready();
    let victim = who(address);
    send(victim.pid, Signal::SIGKILL);
    cluster.wait_for(&format!("Exited(WorkerId({}), Exit {{ status: Signal(9), reason: Crashed }})", victim.id));
    cluster.wait_logged("Ready(WorkerId(3))");
    let replacement = who::find(address, |who| who.id == 3);
    assert_eq!(replacement.slot, victim.slot);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    let log = cluster.log_text();
    let ends = format!("Exited(WorkerId({})", victim.id);
    assert_eq!(log.matches(&ends).count(), 1, "{log}");
    assert!(
        log.contains(&format!(
            "worker={} pid={}: crashed (killed by SIGKILL); restarted at once",
            victim.id, victim.pid
        ))
    );
}

/// The accept queue outlives its worker.
#[test]
fn connections_that_wait_in_the_killed_queue_of_the_only_worker_are_served_by_its_replacement() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    assert_eq!(served_after_a_kill(&mut cluster), BTreeSet::from([2]));
}

/// Nobody waits for the replacement where somebody else serves.
#[test]
fn connections_that_wait_in_a_killed_workers_queue_are_served_by_whoever_lives() {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    served_after_a_kill(&mut cluster);
}

/// Kills a worker behind which 200 connections wait, and tells who has served them; each must be.
fn served_after_a_kill(cluster: &mut Cluster) -> BTreeSet<u64> {
    let address = cluster.wait_ready();
    // A stopped worker accepts nothing, so its share of these waits in its queue when it is killed.
    let victim = who(address).pid;
    send(victim, Signal::SIGSTOP);
    let mut waiting: Vec<Connection> = (0..200).map(|_| Connection::open(address).unwrap()).collect();
    for connection in &mut waiting {
        connection.send_get("/who").unwrap();
    }
    send(victim, Signal::SIGKILL);
    waiting.iter_mut().map(|connection| who::parse(&connection.answer().unwrap().body).id).collect()
}

#[test]
fn killed_under_load_only_what_the_worker_had_accepted_fails_and_the_total_goes_on() {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    let address = cluster.wait_ready();
    let load = Load::start(address, 4, "/hit");
    for replacement in 3..6 {
        let served = load.served();
        cluster.wait_until("requests to be served", |_| (load.served() > served + 200).then_some(()));
        let victim = *cluster.wait_for_workers(2).first().unwrap();
        send(victim, Signal::SIGKILL);
        cluster.wait_for("reason: Crashed");
        cluster.wait_logged(&format!("Ready(WorkerId({replacement}))"));
    }
    let (served, failures) = load.stop();
    // Each client has one connection at a time, so one kill costs each of them at most one request.
    assert!(failures.len() <= 3 * 4, "of {served} failed: {failures:?}");
    assert!(failures.iter().all(|failure| failure.was_accepted), "{failures:?}");
    // A kill may take along the hits of a few answered requests that were not on their way yet, or leave a hit counted that was
    // never answered. The last hits may still be on their way while another worker asks for the total.
    let slack = 3 * 2 * 4;
    cluster.wait_until("the total to be what was served", |_| {
        let total: usize = http::body(address, "/total").parse().unwrap();
        (total + slack >= served && total <= served + slack).then_some(())
    });
}

#[test]
fn a_worker_that_aborts_overflows_its_stack_or_exits_takes_nobody_with_it() {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    let address = cluster.wait_ready();
    let cases = [
        ("/abort", "crashed (killed by SIGABRT)"),
        ("/overflow", "crashed (killed by SIGABRT)"),
        ("/exit/42", "crashed (exit code 42)"),
        ("/exit/0", "finished (exit code 0)"),
    ];
    for ((path, told), replacement) in cases.into_iter().zip(3..) {
        let before = cluster.wait_for_workers(2);
        http::get(address, path).expect_err("the worker is gone before it can answer");
        cluster.wait_logged(told);
        let after = cluster.wait_until("a replacement", |cluster| {
            Some(cluster.workers()).filter(|workers| workers.len() == 2 && *workers != before)
        });
        assert_eq!(before.intersection(&after).count(), 1, "{path}: the sibling went on");
        cluster.wait_logged(&format!("Ready(WorkerId({replacement}))"));
    }
    assert!(cluster.workers().contains(&who(address).pid));
}

#[test]
fn a_panic_in_a_handler_costs_one_request_and_no_worker() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    let address = cluster.wait_ready();
    let before = who(address).id;
    http::get(address, "/panic").expect_err("the connection is closed");
    assert_eq!(who(address).id, before);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// "TERM to a worker: it drains and is replaced", and the same by `disconnect()`.
#[test]
fn a_worker_that_leaves_finishes_its_requests_and_is_replaced_meanwhile() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/1000").unwrap();
    cluster.wait_for("slow request begins");
    let leaver = *cluster.wait_for_workers(1).first().unwrap();
    send(leaver, Signal::SIGTERM);
    cluster.wait_for("Ready(WorkerId(2))");
    assert_eq!(who(address).id, 2, "the successor serves");
    let answer = slow.answer().expect("the request that ran was finished");
    assert_eq!(answer.body, "slept 1000");
    assert!(answer.has_header("connection: close"));
    cluster.wait_for("Exited(WorkerId(1), Exit { status: Code(0), reason: Asked })");
    assert_eq!(http::body(address, "/disconnect"), "2");
    cluster.wait_for("Exited(WorkerId(2), Exit { status: Code(0), reason: Asked })");
    assert_eq!(who(address).id, 3);
}

/// TERM may come to a worker that has just been spawned: it is replaced, and never taken for one that failed to start.
#[test]
fn term_to_a_worker_that_is_starting_does_not_end_the_cluster() {
    for _ in 0..10 {
        let mut cluster = Cluster::of(WEB).workers(2).start();
        for worker in cluster.wait_for_workers(2) {
            send(worker, Signal::SIGTERM);
        }
        let address = cluster.wait_ready();
        assert_eq!(http::get(address, "/who").unwrap().status, 200);
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}

/// A slot that stays empty must not swallow its share of the connections.
#[test]
fn clients_are_served_by_the_rest_when_a_worker_is_not_replaced() {
    let mut cluster = Cluster::of(WEB).workers(2).env("CLUSTER_RESTART", "never").start();
    let address = cluster.wait_ready();
    let leaver = who(address);
    send(leaver.pid, Signal::SIGTERM);
    cluster.wait_for("reason: Asked");
    for _ in 0..50 {
        assert_ne!(who(address).id, leaver.id);
    }
    let killed = who(address);
    send(killed.pid, Signal::SIGKILL);
    cluster.expect_exit(4);
}

#[test]
fn a_cluster_whose_stderr_nobody_reads_goes_on() {
    let (reader, writer) = std::io::pipe().unwrap();
    // Filled to the last byte, so that the next one who writes waits for ever.
    let filler = writer.try_clone().unwrap();
    fcntl(&filler, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while (&filler).write(&[b'.'; 4096]).is_ok() {}
    while (&filler).write(b".").is_ok() {}
    fcntl(&filler, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut cluster = Cluster::of(WEB).workers(2).with(|command| _ = command.stderr(writer)).start();
    cluster.wait_for("Ready(");
    cluster.wait_for("Ready(");
    let victim = *cluster.wait_for_workers(2).first().unwrap();
    send(victim, Signal::SIGKILL);
    cluster.wait_for("Ready(WorkerId(3))");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    drop(reader);
}

/// A worker that keeps crashing after it was ready is held back more and more, and still comes back.
#[test]
fn a_worker_that_keeps_crashing_is_restarted_after_growing_pauses() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    let address = cluster.wait_ready();
    for (pause, replacement) in ["at once", "in 100ms", "in 200ms", "in 400ms"].into_iter().zip(2..) {
        http::get(address, "/exit/1").expect_err("the worker is gone before it can answer");
        cluster.wait_logged(&format!("crashed (exit code 1); restarted {pause}"));
        cluster.wait_logged(&format!("Ready(WorkerId({replacement}))"));
    }
}
