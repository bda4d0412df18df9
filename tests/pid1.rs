//! The cluster as PID 1 of a container: signals have no default there, and every orphan is its child.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use nix::unistd::Pid;
use support::who::{self, who};
use support::{Cluster, Signal, http, send, skip};

const STARTER: &str = env!("CARGO_BIN_EXE_starter");

/// A namespace of its own, with the cluster as its first process. Needs root.
fn contained() -> Option<(Cluster, Pid)> {
    contained_by(&[STARTER, "serve"])
}

fn contained_by(command: &[&str]) -> Option<(Cluster, Pid)> {
    let options = ["--pid", "--fork", "--mount-proc"];
    if !Command::new("unshare").args(options).arg("true").status().is_ok_and(|status| status.success()) {
        skip("unshare cannot make a PID namespace");
        return None;
    }
    let launch = Cluster::of("unshare").args(options).with(|unshare| _ = unshare.args(command));
    let mut cluster = launch.start();
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
    expect_orphans_reaped(&mut cluster, address, primary);
    // A worker that ends is still told properly: nobody else has reaped it.
    let victim = children(primary)[0];
    send(victim, Signal::SIGKILL);
    cluster.wait_logged("crashed (killed by SIGKILL)");
    cluster.wait_logged("Ready(WorkerId(3))");
    send(primary, Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[track_caller]
fn expect_orphans_reaped(cluster: &mut Cluster, address: SocketAddr, primary: Pid) {
    for _ in 0..3 {
        http::get(address, "/orphan").unwrap();
    }
    let orphans =
        cluster.wait_until("three orphans", |_| Some(orphans_of(primary)).filter(|orphans| orphans.len() == 3));
    cluster.wait_until("the orphans to be reaped", |_| orphans.iter().all(|pid| name(*pid).is_none()).then_some(()));
    cluster.wait_until("only workers to be left", |_| (children(primary).len() == 2).then_some(()));
}

fn orphans_of(primary: Pid) -> Vec<Pid> {
    children(primary).into_iter().filter(|pid| name(*pid).as_deref() == Some("sleep")).collect()
}

#[test]
fn it_is_reloaded_and_upgraded_in_place_and_reaps_orphans_of_before_and_after() {
    let Some((mut cluster, primary)) = contained() else { return };
    let address = cluster.wait_ready();
    send(primary, Signal::SIGHUP);
    cluster.wait_for("reloaded: all workers are of generation 2");
    expect_orphans_reaped(&mut cluster, address, primary);
    for generation in [3, 4] {
        // It ends around the time at which nobody reaps.
        http::get(address, "/orphan").unwrap();
        send(primary, Signal::SIGUSR2);
        cluster.wait_for("cluster: upgraded");
        cluster.wait_for(&format!("reloaded: all workers are of generation {generation}"));
        cluster.wait_until("the orphan to be reaped", |_| orphans_of(primary).is_empty().then_some(()));
        expect_orphans_reaped(&mut cluster, address, primary);
    }
    // What the next program knows of its workers is right.
    send(children(primary)[0], Signal::SIGKILL);
    cluster.wait_logged("crashed (killed by SIGKILL); restarted at once");
    cluster.wait_logged("Ready(WorkerId(9))");
    send(primary, Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// The shell of a container's entry point becomes the cluster, and its children with it.
#[test]
fn what_had_died_before_the_cluster_began_is_reaped() {
    let Some((mut cluster, primary)) = contained_by(&["sh", "-c", "sleep 0 & exec \"$0\" serve", STARTER]) else {
        return;
    };
    cluster.wait_ready();
    cluster.wait_until("only workers to be left", |_| (children(primary).len() == 2).then_some(()));
    send(primary, Signal::SIGTERM);
    cluster.expect_exit(0);
}
