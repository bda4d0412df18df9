//! Counters, gauges and histograms that all processes share.

use std::net::SocketAddr;

use support::http;
use support::release::Release;
use support::who::{self, who};
use support::{Cluster, Signal, send};

const RENEWAL: &str = env!("CARGO_BIN_EXE_renewal");

fn ask(address: SocketAddr, path: &str) -> String {
    http::body(address, path)
}

#[test]
fn what_any_worker_counts_all_see_and_the_primary_too() {
    let mut cluster = Cluster::of(RENEWAL).workers(4).start();
    let address = cluster.wait_ready();
    for _ in 0..100 {
        _ = ask(address, "/count");
    }
    assert_eq!(ask(address, "/counted"), "100 100 0 0 0");
    assert_eq!(ask(address, "/do/counted"), "100 0");
}

#[test]
fn what_a_worker_has_counted_outlives_its_crash_and_what_it_held_does_not() {
    let mut cluster = Cluster::of(RENEWAL).workers(1).start();
    let address = cluster.wait_ready();
    _ = ask(address, "/count");
    _ = ask(address, "/hold/7");
    assert_eq!(ask(address, "/counted"), "1 1 7 0 0");
    send(who(address).pid, Signal::SIGKILL);
    cluster.wait_logged("Ready(WorkerId(2))");
    _ = ask(address, "/count");
    assert_eq!(ask(address, "/counted"), "2 2 0 0 0");
}

#[test]
fn counts_outlive_reloads_and_upgrades() {
    let release = Release::of(RENEWAL);
    let mut cluster = Cluster::of(release.program().to_str().unwrap()).workers(2).start();
    let address = cluster.wait_ready();
    let mut count = 0;
    for signal in [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGHUP] {
        for _ in 0..10 {
            _ = ask(address, "/count");
            count += 1;
        }
        cluster.signal(signal);
        cluster.wait_for("reloaded: all workers");
        assert_eq!(ask(address, "/counted"), format!("{count} {count} 0 0 0"));
        assert_eq!(ask(address, "/do/counted"), format!("{count} 0"));
    }
}

#[test]
fn histograms_are_of_all_workers_together() {
    let mut cluster = Cluster::of(RENEWAL).workers(2).start();
    let address = cluster.wait_ready();
    for size in 1..=100 {
        _ = ask(address, &format!("/size/{size}"));
    }
    assert_eq!(ask(address, "/counted"), "0 0 0 100 63");
    let mut kept = [who::keep(address, |who| who.slot == 0), who::keep(address, |who| who.slot == 1)];
    kept.iter_mut().for_each(|kept| _ = kept.body("/size/1000000"));
    assert_eq!(ask(address, "/counted"), "0 0 0 102 63");
}
