//! The primary becomes another program while it serves.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;

use support::http::{self, Connection};
use support::load::Load;
use support::release::Release;
use support::scratch::Scratch;
use support::who::who;
use support::{Cluster, Launch, Signal, send};

const RENEWAL: &str = env!("CARGO_BIN_EXE_renewal");
const OTHER: &str = env!("CARGO_BIN_EXE_renewal-other");

fn launch(release: &Release) -> Launch {
    Cluster::of(release.program().to_str().unwrap()).env("MODE", release.mode().to_str().unwrap())
}

fn releases(address: SocketAddr) -> BTreeSet<String> {
    (0..50).map(|_| http::body(address, "/release")).collect()
}

/// Which file the primary runs.
fn image(cluster: &Cluster) -> u64 {
    fs::metadata(format!("/proc/{}/exe", cluster.primary())).unwrap().ino()
}

/// Whoever asks may be quicker than what others have sent.
#[track_caller]
fn expect_total(cluster: &mut Cluster, address: SocketAddr, total: usize) {
    let is_reached = || (http::body(address, "/total") == total.to_string()).then_some(());
    cluster.wait_until("every message to be counted", |_| is_reached());
    assert_eq!(http::body(address, "/total"), total.to_string(), "and no more");
}

#[track_caller]
fn upgrade(cluster: &mut Cluster) {
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("cluster: upgraded");
    cluster.wait_for("reloaded: all workers");
}

#[test]
fn an_upgrade_keeps_the_pid_and_the_workers_until_their_successors_serve_and_no_request_fails() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    let old = image(&cluster);
    let loads = [Load::start(address, 2, "/who"), Load::start_keep_alive(address, 2, "/who")];
    release.deploy(RENEWAL);
    release.set_mode("good second");
    upgrade(&mut cluster);
    for load in loads {
        let (served, failures) = load.stop();
        assert!(served > 0 && failures.is_empty(), "{served} served, {failures:?}");
    }
    assert_ne!(image(&cluster), old);
    // Those of before serve what waits for them while they go.
    cluster.wait_for_workers(2);
    assert_eq!(releases(address), BTreeSet::from(["second".into()]));
    let name = fs::read_to_string(format!("/proc/{}/comm", cluster.primary())).unwrap();
    assert_eq!(name.trim(), "app");
    cluster.wait_for_workers(2);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn ten_upgrades_in_a_row_leave_no_descriptor_and_no_process_behind() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    let descriptors = |cluster: &Cluster| fs::read_dir(format!("/proc/{}/fd", cluster.primary())).unwrap().count();
    upgrade(&mut cluster);
    cluster.wait_for_workers(2);
    let before = descriptors(&cluster);
    let load = Load::start(address, 2, "/who");
    for _ in 0..9 {
        upgrade(&mut cluster);
        cluster.wait_for_workers(2);
    }
    let (served, failures) = load.stop();
    assert!(served > 0 && failures.is_empty(), "{served} served, {failures:?}");
    cluster.wait_until("the descriptors of before", |cluster| (descriptors(cluster) <= before).then_some(()));
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn the_primary_function_carries_a_value_over_and_hears_of_every_worker_anew() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    for _ in 0..7 {
        assert_eq!(http::get(address, "/hit").unwrap().status, 200);
    }
    expect_total(&mut cluster, address, 7);
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("Upgrading");
    cluster.wait_for("ends with 7 hits");
    cluster.wait_for("begins with 7 hits");
    for event in ["Forked(WorkerId(1))", "Online(WorkerId(1))", "Listening(WorkerId(1)", "Ready(WorkerId(1))"] {
        cluster.wait_for(event);
    }
    cluster.wait_logged("reloaded: all workers");
    assert_eq!(http::get(address, "/hit").unwrap().status, 200);
    expect_total(&mut cluster, address, 8);
}

#[test]
fn messages_that_nobody_has_taken_wait_for_the_next_program_and_none_is_lost_or_doubled() {
    let release = Release::of(RENEWAL);
    release.set_mode("chatty first");
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.set_mode("good second");
    cluster.wait_logged("begins with 0 hits");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("Upgrading");
    let line = cluster.wait_for("begins with");
    let taken: u64 = line.split(' ').nth(2).unwrap().parse().unwrap();
    assert!(taken < 40_000, "the upgrade came before the end of the messages: {taken}");
    expect_total(&mut cluster, address, 40_000);
}

#[test]
fn requests_to_a_primary_function_that_has_returned_fail_at_once() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).start();
    let address = cluster.wait_ready();
    let mut asking = Connection::open(address).unwrap();
    asking.send_get("/forget").unwrap();
    _ = http::body(address, "/total");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("ends with 0 hits");
    let answer = asking.answer().unwrap().body;
    assert!(answer.contains("answer"), "{answer}");
    cluster.wait_logged("upgraded");
}

#[test]
fn a_unix_socket_and_its_file_outlive_the_upgrade() {
    let (release, place) = (Release::of(RENEWAL), Scratch::new());
    let socket = place.path("app.sock");
    let mut cluster = launch(&release).workers(2).env("ADDR", &format!("unix:{}", socket.display())).start();
    cluster.wait_for("2 workers ready on ");
    let inode = fs::metadata(&socket).unwrap().ino();
    upgrade(&mut cluster);
    assert_eq!(fs::metadata(&socket).unwrap().ino(), inode);
    let mut connection = Connection::over(UnixStream::connect(&socket).unwrap());
    assert_eq!(connection.get("/who").unwrap().status, 200);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    assert!(!socket.exists());
}

#[test]
fn a_connection_that_waits_is_served_across_the_upgrade() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/2000").unwrap();
    cluster.wait_for("slow request begins");
    upgrade(&mut cluster);
    assert_eq!(slow.answer().unwrap().body, "slept 2000");
}

#[test]
fn workers_that_were_scaled_live_stay_as_many() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).start();
    cluster.wait_ready();
    cluster.signal(Signal::SIGTTIN);
    cluster.wait_logged("scaling to 2 workers");
    cluster.signal(Signal::SIGTTIN);
    cluster.wait_logged("scaling to 3 workers");
    cluster.wait_for_workers(3);
    upgrade(&mut cluster);
    cluster.wait_for_workers(3);
}

/// The upgrade ends with `reason`, whoever asked learns it, and everything is as it was.
#[track_caller]
fn expect_refused(cluster: &mut Cluster, address: SocketAddr, reason: &str) {
    let (before, program) = (cluster.workers(), image(cluster));
    assert_eq!(http::get(address, "/hit").unwrap().status, 200);
    let load = Load::start(address, 2, "/who");
    let outcome = http::body(address, "/do/upgrade");
    assert!(outcome.starts_with("Err") && outcome.contains(reason), "{outcome}");
    cluster.wait_logged("upgrade abandoned: ");
    let (served, failures) = load.stop();
    assert!(served > 0 && failures.is_empty(), "{failures:?}");
    assert_eq!((cluster.workers(), image(cluster)), (before, program));
    expect_total(cluster, address, 1);
}

#[test]
fn a_program_that_cannot_be_executed_is_refused() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.deploy_bytes(b"\x7fELF and no more");
    expect_refused(&mut cluster, address, "");
}

#[test]
fn a_program_that_crashes_or_exits_when_it_is_tried_is_refused() {
    for (mode, reason) in [("trial-crashes", "killed by SIGABRT"), ("trial-exits", "ended without an answer")] {
        let release = Release::of(RENEWAL);
        let mut cluster = launch(&release).workers(2).start();
        let address = cluster.wait_ready();
        release.set_mode(mode);
        expect_refused(&mut cluster, address, reason);
    }
}

#[test]
fn a_program_that_hangs_when_it_is_tried_is_refused_in_time() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.set_mode("trial-hangs");
    expect_refused(&mut cluster, address, "did not say within");
}

#[test]
fn a_program_with_other_messages_is_refused_by_name() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.deploy(OTHER);
    expect_refused(&mut cluster, address, "its message type ToPrimary");
}

#[test]
fn a_program_with_another_kind_of_dispatch_is_refused() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.set_mode("in-primary");
    expect_refused(&mut cluster, address, "dispatch is something other than round-robin in the running cluster");
}

#[test]
fn a_program_that_could_go_on_and_cannot_gives_everything_back() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    assert_eq!(http::get(address, "/hit").unwrap().status, 200);
    let (before, program) = (cluster.workers(), image(&cluster));
    let load = Load::start(address, 2, "/who");
    release.deploy(RENEWAL);
    release.set_mode("trial-lies");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("Upgrading");
    cluster.wait_for("upgrade abandoned: grace is");
    cluster.wait_logged("begins with 1 hits");
    let (served, failures) = load.stop();
    assert!(served > 0 && failures.is_empty(), "{failures:?}");
    assert_eq!((cluster.workers(), image(&cluster)), (before, program));
    expect_total(&mut cluster, address, 1);
    release.set_mode("good second");
    upgrade(&mut cluster);
    cluster.wait_for_workers(2);
    assert_eq!(releases(address), BTreeSet::from(["second".into()]));
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_stop_in_every_phase_of_an_upgrade_is_a_stop() {
    for (mode, mark) in [
        ("trial-hangs", "upgrading the primary"),
        ("good", "upgrading the primary"),
        ("good", "Upgrading"),
        ("good", "ends with"),
        ("good", "cluster: upgraded"),
        ("hang", "reloading: generation 2"),
    ] {
        let release = Release::of(RENEWAL);
        let mut cluster = launch(&release).workers(2).env("CLUSTER_GRACE", "5s").start();
        cluster.wait_ready();
        release.set_mode(mode);
        cluster.signal(Signal::SIGUSR2);
        cluster.wait_logged(mark);
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}

#[test]
fn a_primary_that_is_killed_in_any_phase_of_an_upgrade_leaves_nobody_behind() {
    for (mode, mark) in [("trial-hangs", "upgrading the primary"), ("good", "ends with"), ("good", "cluster: upgraded")]
    {
        let release = Release::of(RENEWAL);
        let mut cluster = launch(&release).workers(2).env("CLUSTER_GRACE", "1s").start();
        cluster.wait_ready();
        release.set_mode(mode);
        cluster.signal(Signal::SIGUSR2);
        cluster.wait_logged(mark);
        cluster.signal(Signal::SIGKILL);
        cluster.wait_exit();
        cluster.expect_nothing_left();
    }
}

#[test]
fn a_worker_that_crashes_around_an_upgrade_is_replaced() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    for _ in 0..3 {
        cluster.signal(Signal::SIGUSR2);
        cluster.wait_for("Upgrading");
        send(who(address).pid, Signal::SIGKILL);
        cluster.wait_for("reloaded: all workers");
        cluster.wait_for_workers(2);
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_function_that_does_not_return_ends_the_upgrade_and_workers_are_reloaded_as_ever() {
    let release = Release::of(RENEWAL);
    release.set_mode("blocked first");
    let mut cluster = launch(&release).workers(1).env("CLUSTER_GRACE", "1s").start();
    let address = cluster.wait_ready();
    release.set_mode("good second");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("Upgrading");
    cluster.wait_logged("upgrade abandoned: the primary function has not returned within the grace period");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: all workers");
    cluster.wait_for_workers(1);
    assert_eq!(releases(address), BTreeSet::from(["second".into()]));
    // What is sent is on its way to somebody who may come back.
    assert_eq!(http::get(address, "/hit").unwrap().status, 200);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn programs_neither_of_which_can_go_on_are_the_end_and_the_workers_drain() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/1000").unwrap();
    cluster.wait_for("slow request begins");
    release.set_mode("both-lie");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_logged("nor as the program that was: after an upgrade that was abandoned (grace is");
    assert_eq!(slow.answer().unwrap().body, "slept 1000");
    cluster.expect_exit(2);
}

#[test]
fn messages_of_a_worker_that_comes_and_goes_during_the_upgrade_are_taken_by_the_next_program() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).env("LINGER", "1").start();
    let address = cluster.wait_ready();
    release.set_mode("hundred first");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("Upgrading");
    send(who(address).pid, Signal::SIGKILL);
    cluster.wait_logged("has sent a hundred");
    release.set_mode("good second");
    send(who(address).pid, Signal::SIGKILL);
    cluster.wait_for("begins with 0 hits");
    expect_total(&mut cluster, address, 100);
}

#[test]
fn a_stop_while_the_function_returns_leaves_no_request_without_an_answer() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).env("LINGER", "1").start();
    let address = cluster.wait_ready();
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("Upgrading");
    let mut asking = Connection::open(address).unwrap();
    asking.send_get("/total").unwrap();
    cluster.signal(Signal::SIGTERM);
    cluster.wait_logged("upgrade abandoned: the cluster stops");
    assert_eq!(asking.answer().unwrap().status, 200);
    cluster.expect_exit(0);
}

#[test]
fn an_upgrade_that_is_asked_for_during_another_one_is_refused_aloud() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).env("LINGER", "1").start();
    cluster.wait_ready();
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("Upgrading");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_logged("an upgrade is under way already; ask again when it is over");
    cluster.wait_logged("reloaded: all workers");
}

#[test]
fn an_upgrade_for_which_there_are_no_descriptors_is_refused() {
    let release = Release::of(RENEWAL);
    let script = Scratch::new();
    let path = script.path("limited");
    fs::write(&path, format!("#!/bin/sh\nulimit -n 56\nexec {}\n", release.program().display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let limited = Cluster::of(path.to_str().unwrap()).env("MODE", release.mode().to_str().unwrap());
    let mut cluster = limited.workers(3).start();
    let address = cluster.wait_ready();
    expect_refused(&mut cluster, address, "descriptors for a moment, and the limit is 56");
}

#[test]
fn what_the_primary_function_starts_can_be_ended() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).env("SHOW_MASK", "1").start();
    let line = cluster.wait_for("signals blocked in a child");
    let mask = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD] {
        assert_eq!(mask & 1 << (signal as u64 - 1), 0, "{signal}: {line}");
    }
}
