//! No path stops supervision: log files, directories, programs and sockets in a file system that does not answer.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use support::hung::Hung;
use support::release::Release;
use support::scratch::Scratch;
use support::who::{self, who};
use support::{Cluster, Signal, http, send};

const SETUP: &str = env!("CARGO_BIN_EXE_setup");

fn setup(arguments: &[&str]) -> Cluster {
    Cluster::of(SETUP).with(|command| _ = command.args(arguments)).env("CLUSTER_GRACE", "3s").start()
}

fn stop(mut cluster: Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// A directory in which anybody may make files.
fn open_directory(scratch: &Scratch, name: &str) -> String {
    let path = scratch.path(name);
    fs::create_dir(&path).unwrap();
    assert!(Command::new("chmod").arg("1777").arg(&path).status().unwrap().success());
    path.into_os_string().into_string().unwrap()
}

#[test]
fn log_files_that_hang_cost_their_worker_and_nobody_else_and_it_comes_back() {
    for user in [&[][..], &["user=nobody"]] {
        let scratch = Scratch::new();
        let logs = open_directory(&scratch, "logs");
        let output = format!("output={logs}/{{slot}}.log");
        let mut cluster = setup(&[&[output.as_str()], user].concat());
        let address = cluster.wait_ready();
        let victim = who(address);
        let sibling = who::find(address, |who| who.id != victim.id);
        let mut kept = who::keep(address, |who| who.id == sibling.id);
        let Some(hung) = Hung::over(Path::new(&logs)) else { return stop(cluster) };
        cluster.signal(Signal::SIGUSR1);
        for _ in [victim, sibling] {
            let line = cluster.wait_for("its output goes on where it went: cannot open its log file");
            assert!(line.contains("did not answer within 2s"), "{line}");
        }
        send(victim.pid, Signal::SIGKILL);
        let line = cluster.wait_for("cannot be spawned: cannot open its log file");
        assert!(line.contains("has not answered an earlier attempt yet"), "{line}");
        assert_eq!(kept.ask(), sibling);
        drop(hung);
        who::find(address, |who| who.slot == victim.slot && who.id > 2);
        stop(cluster);
    }
}

#[test]
fn a_stop_is_obeyed_while_a_log_file_hangs() {
    let scratch = Scratch::new();
    let logs = open_directory(&scratch, "logs");
    let mut cluster = setup(&[&format!("output={logs}/{{slot}}.log"), "user=nobody"]);
    let address = cluster.wait_ready();
    let Some(_hung) = Hung::over(Path::new(&logs)) else { return stop(cluster) };
    send(who(address).pid, Signal::SIGKILL);
    cluster.wait_for("restarted at once");
    cluster.signal(Signal::SIGUSR1);
    stop(cluster);
}

#[test]
fn what_hangs_at_the_start_is_told_with_its_setting() {
    for (key, name) in [("cwd=", ""), ("output=", "a.log")] {
        let scratch = Scratch::new();
        let place = open_directory(&scratch, "place");
        let Some(_hung) = Hung::over(Path::new(&place)) else { return };
        let mut cluster = setup(&[&format!("{key}{place}/{name}")]);
        cluster.expect_exit(2);
        cluster.wait_for("did not answer within 2s");
    }
}

#[test]
fn a_directory_that_hangs_fails_the_spawn_and_it_is_tried_again() {
    let scratch = Scratch::new();
    let place = open_directory(&scratch, "place");
    let mut cluster = setup(&[&format!("cwd={place}"), "user=nobody"]);
    let address = cluster.wait_ready();
    let victim = who(address);
    let hung = Hung::over(Path::new(&place));
    send(victim.pid, Signal::SIGKILL);
    if let Some(hung) = hung {
        let line = cluster.wait_for("cannot be spawned: cwd ");
        assert!(line.contains("did not answer within 2s"), "{line}");
        drop(hung);
    }
    who::find(address, |who| who.slot == victim.slot && who.id > 2);
    stop(cluster);
}

#[test]
fn a_program_that_hangs_or_is_none_abandons_reload_and_upgrade_and_what_served_serves_on() {
    let release = Release::of(SETUP);
    let launch = Cluster::of(release.program().to_str().unwrap()).env("CLUSTER_GRACE", "3s");
    let mut cluster = launch.start();
    let address = cluster.wait_ready();
    let before = who(address);
    let expect_abandoned = |cluster: &mut Cluster, why: &str| {
        cluster.signal(Signal::SIGHUP);
        let line = cluster.wait_for("the program cannot be opened: ");
        assert!(line.contains(why), "{line}");
        cluster.wait_for("reload abandoned: ");
        cluster.signal(Signal::SIGUSR2);
        let line = cluster.wait_for("upgrade abandoned: ");
        assert!(line.contains(why), "{line}");
        who::find(address, |who| who.pid == before.pid);
    };
    fs::remove_file(release.program()).unwrap();
    mkfifo(&release.program(), Mode::from_bits_truncate(0o777)).unwrap();
    expect_abandoned(&mut cluster, "it is no regular file");
    release.deploy(SETUP);
    if let Some(hung) = Hung::over(release.program().parent().unwrap()) {
        cluster.signal(Signal::SIGHUP);
        cluster.wait_for("did not answer within 2s");
        cluster.wait_for("reload abandoned: ");
        expect_abandoned(&mut cluster, "has not answered an earlier attempt yet");
        drop(hung);
    }
    // Those who wait there are let go in their own time.
    cluster.wait_until("a reload that comes about", |cluster| {
        cluster.signal(Signal::SIGHUP);
        cluster.log_text().contains("reloaded: ").then_some(())
    });
    stop(cluster);
}

#[test]
fn a_socket_whose_path_hangs_is_refused_and_the_primary_goes_on() {
    let scratch = Scratch::new();
    let place = open_directory(&scratch, "place");
    let mut cluster = setup(&[]);
    let address = cluster.wait_ready();
    let Some(hung) = Hung::over(Path::new(&place)) else { return stop(cluster) };
    let answer = http::body(address, &format!("/listen/unix:{place}/a.sock"));
    assert!(answer.starts_with("TimedOut: ") && answer.contains("did not answer within 2s"), "{answer}");
    drop(hung);
    let socket = format!("unix:{place}/a.sock");
    cluster.wait_until("the path to answer", |_| {
        (http::body(address, &format!("/listen/{socket}")) == format!("listens on {socket}")).then_some(())
    });
    // Its file cannot be removed at the end, which is in nobody's way.
    let _hung = Hung::over(Path::new(&place));
    stop(cluster);
}

/// The service manager's path may hang as any other.
#[test]
fn a_service_manager_that_hangs_is_not_waited_for() {
    let scratch = Scratch::new();
    let place = open_directory(&scratch, "place");
    let Some(_hung) = Hung::over(Path::new(&place)) else { return };
    let launch = Cluster::of(SETUP).env("NOTIFY_SOCKET", &format!("{place}/notify")).env("CLUSTER_GRACE", "3s");
    let mut cluster = launch.start();
    let address = cluster.wait_ready();
    send(who(address).pid, Signal::SIGKILL);
    who::find(address, |who| who.id > 2);
    stop(cluster);
}
