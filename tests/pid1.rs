//! The cluster as PID 1 of a container: signals have no default there, and every orphan is its child.

use std::fs;
use std::process::Command;

use nix::unistd::Pid;
use support::who::{self, who};
use support::{Cluster, Signal, http, send, skip};

const STARTER: &str = env!("CARGO_BIN_EXE_starter");

/// A namespace of its own, with the cluster as its first process. Needs root.
fn contained() -> Option<(Cluster, Pid)> {
    let options = ["--pid", "--fork", "--mount-proc"];
    if !Command::new("unshare").args(options).arg("true").status().is_ok_and(|status| status.success()) {
        skip("unshare cannot make a PID namespace");
        return None;
    }
    let [pid, fork, mount_proc] = options;
    let mut cluster = Cluster::of("unshare").args([pid, fork, mount_proc, STARTER, "serve"]).start();
    let outside = cluster.primary();
    let primary = cluster.wait_until("the first process", |_| children(outside).first().copied());
    Some((cluster, primary))
}

/// The children of all threads of a process, as they are numbered outside.
fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect::<Vec<_>>())
        .collect()
}

fn name(pid: Pid) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned())
}

#[test]
fn term_from_outside_stops_it_gracefully() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let Some((mut cluster, primary)) = contained() else { return };
        cluster.wait_ready();
        send(primary, signal);
        cluster.wait_for("stopping");
        cluster.expect_exit(0);
    }
}

#[test]
fn a_worker_that_is_killed_is_replaced() {
    let Some((mut cluster, primary)) = contained() else { return };
    let address = cluster.wait_ready();
    // Its own number is the one inside; outside it is a child like any other.
    assert!((2..100).contains(&who(address).pid.as_raw()));
    for id in 3..6 {
        send(children(primary)[0], Signal::SIGKILL);
        cluster.wait_logged(&format!("Ready(WorkerId({id}))"));
        who::find(address, |who| who.id == id);
        assert_eq!(children(primary).len(), 2);
    }
    send(primary, Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// A grandchild whose parent is gone becomes the child of PID 1, and stays a zombie if that does not reap it.
#[test]
fn orphans_are_reaped() {
    let Some((mut cluster, primary)) = contained() else { return };
    let address = cluster.wait_ready();
    for _ in 0..3 {
        http::get(address, "/orphan").unwrap();
    }
    let is_orphan = |pid: &Pid| name(*pid).as_deref() == Some("sleep");
    let orphans = cluster.wait_until("three orphans", |_| {
        Some(children(primary).into_iter().filter(is_orphan).collect::<Vec<_>>()).filter(|orphans| orphans.len() == 3)
    });
    cluster.wait_until("the orphans to be reaped", |_| orphans.iter().all(|pid| name(*pid).is_none()).then_some(()));
    assert_eq!(children(primary).len(), 2, "the workers live");
    // A worker that ends is still told properly: nobody else has reaped it.
    let victim = children(primary)[0];
    send(victim, Signal::SIGKILL);
    cluster.wait_logged("crashed (killed by SIGKILL)");
    cluster.wait_logged("Ready(WorkerId(3))");
    send(primary, Signal::SIGTERM);
    cluster.expect_exit(0);
}
