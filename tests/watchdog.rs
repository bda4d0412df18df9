//! Workers that are stuck are replaced, and only those.

use std::thread::sleep;
use std::time::Duration;

use support::http::{self, Connection};
use support::who::{self, who};
use support::{Cluster, Launch, Signal, send};

const RENEWAL: &str = env!("CARGO_BIN_EXE_renewal");
/// The shortest that can be set.
const WATCHDOG: Duration = Duration::from_secs(1);

fn launch(workers: usize) -> Launch {
    Cluster::of(RENEWAL).workers(workers).env("CLUSTER_WATCHDOG", "1s")
}

fn is_alive(cluster: &Cluster, victim: who::Who) -> bool {
    cluster.workers().contains(&victim.pid)
}

#[test]
fn a_worker_that_spins_or_blocks_is_warned_of_and_aborted_and_replaced() {
    for (path, hint) in [("/spin", "it computes"), ("/block", "it sleeps")] {
        let mut cluster = launch(2).start();
        let address = cluster.wait_ready();
        let mut stuck = Connection::open(address).unwrap();
        stuck.send_get(path).unwrap();
        let warning = cluster.wait_for("has been stuck for 500ms");
        assert!(warning.contains(hint), "{warning}");
        cluster.wait_for("is stuck for 1s and is aborted");
        cluster.wait_for("was stuck and was aborted (killed by SIGABRT); restarted at once");
        cluster.wait_logged("Ready(WorkerId(3))");
        who::find(address, |who| who.id == 3);
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}

#[test]
fn without_a_watchdog_a_worker_may_be_stuck_for_ever() {
    let mut cluster = launch(2).env("CLUSTER_WATCHDOG", "off").start();
    let address = cluster.wait_ready();
    let mut stuck = Connection::open(address).unwrap();
    stuck.send_get("/spin").unwrap();
    cluster.wait_for("spinning");
    sleep(2 * WATCHDOG);
    assert_eq!(cluster.workers().len(), 2);
    assert!(!cluster.log_text().contains("stuck"));
    assert_eq!(http::get(address, "/who").unwrap().status, 200);
}

#[test]
fn idle_workers_are_not_stuck() {
    let mut cluster = launch(2).start();
    let address = cluster.wait_ready();
    let before = cluster.workers();
    sleep(2 * WATCHDOG);
    assert_eq!(cluster.workers(), before);
    assert_eq!(http::get(address, "/who").unwrap().status, 200);
    assert!(!cluster.log_text().contains("stuck"));
}

#[test]
fn a_primary_that_stood_still_kills_nobody_for_it() {
    let mut cluster = launch(2).start();
    let address = cluster.wait_ready();
    let before = cluster.workers();
    // All stand still in the midst of something, as when a container is frozen.
    let mut busy = Connection::open(address).unwrap();
    busy.send_get("/slow/100").unwrap();
    before.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    cluster.signal(Signal::SIGSTOP);
    sleep(3 * WATCHDOG);
    cluster.signal(Signal::SIGCONT);
    before.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
    assert_eq!(busy.answer().unwrap().status, 200);
    sleep(2 * WATCHDOG);
    assert_eq!(cluster.workers(), before);
}

#[test]
fn a_worker_that_somebody_has_stopped_is_left_alone() {
    let mut cluster = launch(2).start();
    let address = cluster.wait_ready();
    let mut busy = Connection::open(address).unwrap();
    busy.send_get("/spin").unwrap();
    cluster.wait_for("spinning");
    let victim = who::find(address, |_| true);
    let stuck = cluster.workers().into_iter().find(|pid| *pid != victim.pid).unwrap();
    send(stuck, Signal::SIGSTOP);
    cluster.wait_for("is stuck, but it is stopped by a signal: the watchdog waits");
    sleep(2 * WATCHDOG);
    assert!(cluster.workers().contains(&stuck));
    send(stuck, Signal::SIGCONT);
    cluster.wait_for("is stuck for 1s and is aborted");
    cluster.wait_until("the stuck one to be gone", |cluster| (!cluster.workers().contains(&stuck)).then_some(()));
    assert!(is_alive(&cluster, who(address)));
}

#[test]
fn workers_that_started_while_the_primary_stood_still_are_not_late_for_that() {
    let release = support::release::Release::of(RENEWAL);
    release.set_mode("slow first");
    let mode = release.mode();
    let mut cluster = launch(4).env("MODE", mode.to_str().unwrap()).env("CLUSTER_START_TIMEOUT", "3s").start();
    cluster.wait_for_workers(4);
    cluster.signal(Signal::SIGSTOP);
    sleep(Duration::from_secs(5));
    cluster.signal(Signal::SIGCONT);
    cluster.wait_ready();
    assert_eq!(cluster.workers().len(), 4);
}
