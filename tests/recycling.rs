//! Workers that have had their share are replaced, one at a time and without a gap.

use support::http;
use support::load::Load;
use support::who::who;
use support::{Cluster, Signal};

const RENEWAL: &str = env!("CARGO_BIN_EXE_renewal");

#[test]
fn a_worker_that_has_had_its_requests_is_replaced_and_no_request_fails() {
    let mut cluster = Cluster::of(RENEWAL).workers(2).env("CLUSTER_MAX_REQUESTS", "500").start();
    let address = cluster.wait_ready();
    let loads = [Load::start(address, 2, "/who"), Load::start_keep_alive(address, 2, "/who")];
    cluster.wait_logged("Ready(WorkerId(10))");
    for load in loads {
        let (served, failures) = load.stop();
        assert!(served > 0 && failures.is_empty(), "{served} served, {failures:?}");
    }
    let log = cluster.log_text();
    assert!(log.contains("Exited(WorkerId(1), Exit { status: Code(0), reason: Asked })"), "{log}");
    assert!(!log.contains("Crashed"), "{log}");
}

#[test]
fn an_idle_worker_that_has_lived_its_time_is_replaced_too() {
    let mut cluster = Cluster::of(RENEWAL).workers(1).env("CLUSTER_MAX_AGE", "1s").start();
    let address = cluster.wait_ready();
    cluster.wait_logged("Ready(WorkerId(3))");
    assert!(who(address).id >= 3);
    let log = cluster.log_text();
    assert!(log.contains("Exited(WorkerId(1), Exit { status: Code(0), reason: Asked })"), "{log}");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_worker_that_has_grown_too_large_is_replaced() {
    let mut cluster = Cluster::of(RENEWAL).workers(2).env("CLUSTER_MAX_MEMORY", "100MiB").start();
    let address = cluster.wait_ready();
    assert_eq!(http::body(address, "/eat/150"), (150 << 20).to_string());
    let load = Load::start(address, 1, "/who");
    cluster.wait_logged("Ready(WorkerId(3))");
    cluster.wait_for_workers(2);
    let (_, failures) = load.stop();
    assert!(failures.is_empty(), "{failures:?}");
    cluster.wait_logged("reason: Asked");
}
