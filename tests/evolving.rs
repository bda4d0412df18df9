//! Messages of two builds: what a reload and an upgrade take, what they refuse, and what neither sees.

use std::net::SocketAddr;

use support::http;
use support::release::Release;
use support::{Cluster, Signal};

const FIRST: &str = env!("CARGO_BIN_EXE_evolving");
const READS: &str = env!("CARGO_BIN_EXE_evolving-reads");
const WRITES: &str = env!("CARGO_BIN_EXE_evolving-writes");
const VERSIONED: &str = env!("CARGO_BIN_EXE_evolving-versioned");

fn start(program: &str) -> (Release, Cluster, SocketAddr) {
    let release = Release::of(program);
    let mut cluster = Cluster::of(release.program().to_str().unwrap()).start();
    let address = cluster.wait_ready();
    (release, cluster, address)
}

/// What the primary understands of what a worker says.
#[track_caller]
fn said(address: SocketAddr) -> String {
    http::body(address, "/say")
}

#[track_caller]
fn upgrade(cluster: &mut Cluster) {
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("cluster: upgraded");
    cluster.wait_for("reloaded: all workers");
    cluster.wait_for_workers(1);
}

#[test]
fn a_variant_that_is_appended_inside_a_field_comes_in_two_steps_without_a_stop() {
    let (release, mut cluster, address) = start(FIRST);
    release.deploy(READS);
    upgrade(&mut cluster);
    assert_eq!(said(address), "Hello");
    release.deploy(WRITES);
    // While the primary is still of the release before, it understands already.
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: all workers");
    cluster.wait_for_workers(1);
    assert_eq!(said(address), "Goodbye");
    upgrade(&mut cluster);
    assert_eq!(said(address), "Goodbye");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn in_one_step_it_is_not_seen_until_a_message_cannot_be_read() {
    let (release, mut cluster, address) = start(FIRST);
    release.deploy(WRITES);
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: all workers");
    cluster.wait_for_workers(1);
    // The worker notices that it has been given up, or is gone before.
    let answer = http::get(address, "/say").map(|answer| answer.body);
    assert!(answer.as_ref().map_or(true, |body| body.starts_with("no answer: ")), "{answer:?}");
    cluster.wait_for("broke the protocol");
}

#[test]
fn a_version_that_was_raised_is_refused_by_name_and_what_serves_goes_on() {
    let (release, mut cluster, address) = start(FIRST);
    let workers = cluster.wait_for_workers(1);
    release.deploy(VERSIONED);
    for (signal, end) in [(Signal::SIGHUP, "reload abandoned"), (Signal::SIGUSR2, "upgrade")] {
        cluster.signal(signal);
        let line = cluster.wait_for("its message type ToPrimary");
        assert!(line.contains("differs from "), "{line}");
        cluster.wait_logged(end);
        cluster.wait_for_workers(1);
        assert_eq!(cluster.workers(), workers);
        assert_eq!(said(address), "Hello");
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}
