//! The program is replaced while it serves: what clients, workers and whoever asked for it notice.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, symlink};

use support::http::{self, Connection};
use support::load::Load;
use support::release::Release;
use support::scratch::Scratch;
use support::who::{self, Who, who};
use support::{Cluster, Launch, Signal, send};

const RENEWAL: &str = env!("CARGO_BIN_EXE_renewal");
const OTHER: &str = env!("CARGO_BIN_EXE_renewal-other");

fn launch(release: &Release) -> Launch {
    Cluster::of(release.program().to_str().unwrap()).env("MODE", release.mode().to_str().unwrap())
}

/// Sends an order to the primary function, by some worker, and returns its outcome.
fn order(address: SocketAddr, order: &str) -> String {
    http::body(address, &format!("/do/{order}"))
}

/// Asks often enough to meet every worker.
fn releases(address: SocketAddr) -> BTreeSet<String> {
    (0..50).map(|_| http::body(address, "/release")).collect()
}

fn image(who: &Who) -> u64 {
    fs::metadata(format!("/proc/{}/exe", who.pid)).unwrap().ino()
}

#[test]
fn a_reload_replaces_every_worker_by_the_program_on_disk_and_no_request_fails() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    let old = image(&who(address));
    let loads = [Load::start(address, 2, "/who"), Load::start_keep_alive(address, 2, "/who")];
    release.deploy(RENEWAL);
    release.set_mode("good second");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloading: generation 2 takes over");
    cluster.wait_for("reloaded: all workers are of generation 2");
    for load in loads {
        let (served, failures) = load.stop();
        assert!(served > 0 && failures.is_empty(), "{served} served, {failures:?}");
    }
    cluster.wait_for_workers(2);
    assert_eq!(releases(address), BTreeSet::from(["second".into()]));
    let new = who(address);
    assert_ne!(image(&new), old);
    assert!(new.id > 2);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_crash_brings_back_what_served_and_not_what_is_on_disk_meanwhile() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).start();
    let address = cluster.wait_ready();
    let old = who(address);
    let image_of_old = image(&old);
    release.deploy_bytes(b"not a program");
    send(old.pid, Signal::SIGKILL);
    cluster.wait_logged("Ready(WorkerId(2))");
    assert_eq!(image(&who(address)), image_of_old);
}

#[test]
fn a_link_that_is_turned_to_the_next_release_is_followed() {
    let (first, second, place) = (Release::of(RENEWAL), Release::of(RENEWAL), Scratch::new());
    let link = place.path("current");
    symlink(first.program(), &link).unwrap();
    let mut cluster = Cluster::of(link.to_str().unwrap()).workers(1).start();
    let address = cluster.wait_ready();
    symlink(second.program(), place.path("next")).unwrap();
    fs::rename(place.path("next"), &link).unwrap();
    assert_eq!(order(address, "reload"), "Ok(2)");
    cluster.wait_for_workers(1);
    assert_eq!(image(&who(address)), fs::metadata(second.program()).unwrap().ino());
}

#[test]
fn whoever_asks_for_a_reload_learns_the_new_generation_once_it_serves() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(3).start();
    let address = cluster.wait_ready();
    release.set_mode("good second");
    // The worker that passes the order on is replaced itself, and finishes this request first.
    assert_eq!(order(address, "reload"), "Ok(2)");
    assert!(releases(address).contains("second"));
    // Those of before serve what waits for them while they go.
    cluster.wait_for_workers(3);
    assert_eq!(releases(address), BTreeSet::from(["second".into()]));
}

/// The reload ends with `reason`, whoever asked learns it, and the workers of before serve as before.
#[track_caller]
fn expect_abandoned(cluster: &mut Cluster, address: SocketAddr, reason: &str) {
    let before = cluster.workers();
    let load = Load::start(address, 2, "/who");
    let outcome = order(address, "reload");
    assert!(outcome.starts_with("Err") && outcome.contains(reason), "{outcome}");
    cluster.wait_logged("reload abandoned: ");
    let (served, failures) = load.stop();
    assert!(served > 0 && failures.is_empty(), "{failures:?}");
    cluster.wait_for_workers(before.len());
    assert_eq!(cluster.workers(), before);
    assert_eq!(releases(address), BTreeSet::from(["first".into()]));
}

#[test]
fn a_successor_that_exits_ends_the_reload() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.set_mode("exit");
    expect_abandoned(&mut cluster, address, "worker 3 of the new generation failed before it was ready (exit code 7)");
    release.set_mode("good second");
    assert_eq!(order(address, "reload"), "Ok(3)", "the next one may be better");
}

#[test]
fn a_successor_that_crashes_ends_the_reload() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.set_mode("abort");
    expect_abandoned(&mut cluster, address, "killed by SIGABRT");
}

#[test]
fn a_successor_that_hangs_ends_the_reload_at_the_start_timeout() {
    for mode in ["hang", "spin"] {
        let release = Release::of(RENEWAL);
        let mut cluster = launch(&release).workers(2).env("CLUSTER_START_TIMEOUT", "1s").start();
        let address = cluster.wait_ready();
        release.set_mode(mode);
        expect_abandoned(&mut cluster, address, "was not ready within the start timeout");
    }
}

#[test]
fn a_file_that_is_no_program_ends_the_reload() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.deploy_bytes(b"echo this is no program");
    expect_abandoned(&mut cluster, address, "its program cannot be opened");
    cluster.wait_logged("neither a program nor a script");
}

#[test]
fn a_program_that_is_missing_ends_the_reload() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    fs::remove_file(release.program()).unwrap();
    expect_abandoned(&mut cluster, address, "its program cannot be opened");
    cluster.wait_logged(release.program().to_str().unwrap());
}

#[test]
fn a_release_with_other_messages_is_refused_by_name_before_any_worker_goes() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.deploy(OTHER);
    expect_abandoned(&mut cluster, address, "its message type ToPrimary");
}

#[test]
fn a_successor_that_is_slow_is_waited_for_and_its_predecessor_serves_meanwhile() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).start();
    let address = cluster.wait_ready();
    release.set_mode("slow second");
    let load = Load::start(address, 2, "/who");
    assert_eq!(order(address, "reload"), "Ok(2)");
    let (served, failures) = load.stop();
    assert!(served > 100 && failures.is_empty(), "{served} served, {failures:?}");
}

#[test]
fn a_predecessor_that_is_deaf_is_killed_at_the_end_of_the_grace_period_and_holds_up_only_the_next_reload() {
    let release = Release::of(RENEWAL);
    release.set_mode("deaf first");
    let mut cluster = launch(&release).workers(1).env("CLUSTER_GRACE", "1s").start();
    let address = cluster.wait_ready();
    release.set_mode("good second");
    assert_eq!(order(address, "reload"), "Ok(2)");
    assert_eq!(order(address, "reload"), "Ok(3)");
    cluster.wait_logged("worker=1");
    cluster.wait_logged("did not end within the grace period");
    assert_eq!(releases(address), BTreeSet::from(["second".into()]));
}

#[test]
fn reloads_that_are_asked_for_at_once_follow_one_another() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.set_mode("slow second");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloading: generation 2");
    for _ in 0..3 {
        _ = http::body(address, "/begin/reload");
    }
    for _ in 0..3 {
        cluster.wait_for("done: reload: Ok(3)");
    }
    // stdout and stderr reach the log in no fixed order.
    cluster.wait_logged("reloaded: all workers are of generation 3");
    let log = cluster.log_text();
    let marks: Vec<_> = log.lines().filter(|line| line.starts_with("cluster: reload")).collect();
    assert_eq!(marks.len(), 4, "{marks:?}");
    assert!(marks[1].contains("reloaded: all workers are of generation 2"), "never interleaved: {marks:?}");
}

#[test]
fn requests_that_run_when_their_worker_is_replaced_are_finished() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(1).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/1000").unwrap();
    cluster.wait_for("slow request begins");
    assert_eq!(order(address, "reload"), "Ok(2)");
    assert_eq!(slow.answer().unwrap().body, "slept 1000");
    cluster.wait_for_workers(1);
}

#[test]
fn a_stop_in_every_phase_of_a_reload_is_a_stop() {
    let phases = [
        ("hang second", "reloading: generation 2"),
        ("good second", "worker=3"),
        ("good second", "reloaded: all"),
        ("exit second", "reload abandoned"),
    ];
    for (mode, mark) in phases {
        let release = Release::of(RENEWAL);
        let mut cluster = launch(&release).workers(2).env("CLUSTER_GRACE", "5s").start();
        cluster.wait_ready();
        release.set_mode(mode);
        cluster.signal(Signal::SIGHUP);
        if mark.starts_with("worker") {
            cluster.wait_logged("Ready(WorkerId(3))");
        } else {
            cluster.wait_for(mark);
        }
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}

#[test]
fn two_interrupts_during_a_reload_kill_all_of_both_generations() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    release.set_mode("hang second");
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/60000").unwrap();
    cluster.wait_for("slow request begins");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_logged("Forked(WorkerId(3))");
    cluster.signal(Signal::SIGINT);
    cluster.wait_logged("stopping within");
    cluster.signal(Signal::SIGINT);
    cluster.expect_exit(130);
}

#[test]
fn a_primary_that_is_killed_in_any_phase_of_a_reload_leaves_nobody_behind() {
    for (mode, mark) in
        [("hang second", "Forked(WorkerId(3))"), ("good second", "Ready(WorkerId(3))"), ("deaf x", "reloaded: all")]
    {
        let release = Release::of(RENEWAL);
        let mut cluster = launch(&release).workers(2).env("CLUSTER_GRACE", "1s").start();
        cluster.wait_ready();
        release.set_mode(mode);
        cluster.signal(Signal::SIGHUP);
        cluster.wait_logged(mark);
        cluster.signal(Signal::SIGKILL);
        cluster.wait_exit();
        cluster.expect_nothing_left();
    }
}

#[test]
fn reloads_and_scaling_at_once_end_with_as_many_workers_of_the_new_release_as_were_wanted() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).start();
    let address = cluster.wait_ready();
    let load = Load::start(address, 2, "/who");
    release.set_mode("good second");
    _ = http::body(address, "/begin/reload");
    for count in [4, 1, 5, 3] {
        assert_eq!(order(address, &format!("scale-{count}")), "Ok(())");
    }
    cluster.wait_for("done: reload: Ok(2)");
    cluster.wait_for_workers(3);
    cluster.wait_until("the new release alone", |_| {
        (releases(address) == BTreeSet::from(["second".into()])).then_some(())
    });
    let (served, failures) = load.stop();
    assert!(served > 0 && failures.is_empty(), "{failures:?}");
}

#[test]
fn a_surge_starts_so_many_at_a_time() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(4).env("CLUSTER_SURGE", "4").start();
    let address = cluster.wait_ready();
    release.set_mode("hang second");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for_workers(8);
    assert_eq!(who::find(address, |_| true).id.max(4), 4, "the old ones serve");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_successor_that_is_deaf_when_its_reload_is_abandoned_is_killed_at_the_end_of_the_grace_period() {
    let release = Release::of(RENEWAL);
    let mut cluster = launch(&release).workers(2).env("CLUSTER_SURGE", "2").env("CLUSTER_GRACE", "1s").start();
    let address = cluster.wait_ready();
    release.set_mode("exit-or-deaf");
    expect_abandoned(&mut cluster, address, "worker 3 of the new generation failed before it was ready (exit code 7)");
    cluster.wait_logged("worker=4");
}
