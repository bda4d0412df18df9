//! More workers and fewer, by signals and by orders of the primary function.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use support::http::{self, Connection};
use support::load::Load;
use support::who::{self, who};
use support::{Cluster, Signal};

const RENEWAL: &str = env!("CARGO_BIN_EXE_renewal");

fn order(address: SocketAddr, order: &str) -> String {
    http::body(address, &format!("/do/{order}"))
}

#[test]
fn a_signal_makes_it_one_more_and_another_one_fewer() {
    let mut cluster = Cluster::of(RENEWAL).workers(1).start();
    let address = cluster.wait_ready();
    cluster.signal(Signal::SIGTTIN);
    cluster.wait_for("scaling to 2 workers");
    cluster.wait_logged("Ready(WorkerId(2))");
    assert_eq!(who::find(address, |who| who.slot == 1).id, 2, "the new slot gets connections");
    cluster.signal(Signal::SIGTTOU);
    cluster.wait_for("scaling to 1 worker");
    cluster.wait_for_workers(1);
    cluster.signal(Signal::SIGTTOU);
    cluster.wait_for("cannot scale: a cluster has 1 to 1024 workers, not 0");
    assert_eq!(who(address).id, 1);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn no_request_fails_while_workers_come_and_go() {
    for dispatch in ["balanced", "sticky", "round-robin"] {
        let mut cluster = Cluster::of(RENEWAL).workers(1).env("CLUSTER_DISPATCH", dispatch).start();
        let address = cluster.wait_ready();
        let loads = [Load::start(address, 2, "/who"), Load::start_keep_alive(address, 2, "/who")];
        for count in [8, 1, 5, 2, 8, 1] {
            assert_eq!(order(address, &format!("scale-{count}")), "Ok(())");
            cluster.wait_for_workers(count);
        }
        for load in loads {
            let (served, failures) = load.stop();
            assert!(served > 0 && failures.is_empty(), "{dispatch}: {served} served, {failures:?}");
        }
        assert_eq!(who(address).slot, 0);
    }
}

#[test]
fn connections_that_wait_behind_a_worker_that_is_scaled_away_are_served_by_others() {
    for dispatch in ["balanced", "kernel", "sticky", "round-robin"] {
        let mut cluster = Cluster::of(RENEWAL).workers(4).env("CLUSTER_DISPATCH", dispatch).start();
        let address = cluster.wait_ready();
        let mut waiting: Vec<_> = (0..200).map(|_| Connection::open(address).unwrap()).collect();
        assert_eq!(order(address, "scale-1"), "Ok(())");
        for connection in &mut waiting {
            connection.send("GET /who HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        }
        for mut connection in waiting {
            assert_eq!(connection.answer().unwrap().status, 200, "{dispatch}");
        }
        cluster.wait_for_workers(1);
    }
}

#[test]
fn a_number_that_cannot_be_is_refused_and_nothing_happens() {
    let mut cluster = Cluster::of(RENEWAL).workers(2).start();
    let address = cluster.wait_ready();
    for count in ["0", "1025"] {
        let outcome = order(address, &format!("scale-{count}"));
        assert!(outcome.contains("a cluster has 1 to 1024 workers"), "{outcome}");
    }
    assert_eq!(cluster.workers().len(), 2);
}

#[test]
fn with_a_policy_of_their_own_users_fork_and_kill_and_disconnect() {
    let mut cluster = Cluster::of(RENEWAL).workers(2).env("CLUSTER_RESTART", "never").start();
    let address = cluster.wait_ready();
    assert_eq!(order(address, "fork"), "Ok(WorkerId(3))");
    cluster.wait_logged("Spawning(WorkerId(3))");
    cluster.wait_logged("Ready(WorkerId(3))");
    let mut one = who::keep(address, |who| who.id == 1);
    assert_eq!(one.body("/do/kill-2-9"), "Ok(())");
    cluster.wait_logged("Exited(WorkerId(2), Exit { status: Signal(9), reason: Crashed })");
    assert_eq!(one.body("/do/fork"), "Ok(WorkerId(4))", "in the slot that is empty");
    cluster.wait_logged("Ready(WorkerId(4))");
    assert_eq!(who::find(address, |who| who.id == 4).slot, 1);
    assert_eq!(one.body("/do/disconnect-3"), "Ok(())");
    cluster.wait_logged("Exited(WorkerId(3), Exit { status: Code(0), reason: Asked })");
    assert!(order(address, "kill-1-12345").contains("there is no signal 12345"));
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    let ids: BTreeSet<_> =
        (1..=5).filter(|id| cluster.log_text().contains(&format!("Forked(WorkerId({id}))"))).collect();
    assert_eq!(ids, BTreeSet::from([1, 2, 3, 4]), "nobody was restarted");
}

#[test]
fn more_workers_than_there_are_descriptors_for_are_refused_and_nothing_is_spoilt() {
    let script = support::scratch::Scratch::new();
    let path = script.path("limited");
    std::fs::write(&path, format!("#!/bin/sh\nulimit -n 80\nexec {RENEWAL}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut cluster = Cluster::of(path.to_str().unwrap()).workers(1).start();
    let address = cluster.wait_ready();
    let outcome = order(address, "scale-6");
    assert!(outcome.contains("6 workers take") && outcome.contains("the limit is 80"), "{outcome}");
    assert_eq!(order(address, "reload"), "Ok(2)");
    assert_eq!(order(address, "scale-2"), "Ok(())");
    cluster.wait_for_workers(2);
}
