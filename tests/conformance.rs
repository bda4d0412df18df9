//! The service keeps to the protocols as others understand them: tables of cases in `conformance/*.py`, which speak by bytes and frames,
//! and slowhttptest. `conformance/install` installs what they need.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use support::{Cluster, Signal, http};

/// How many seconds a client has in the tests of slow ones.
const SHORT: &str = "3";

#[test]
fn http2_is_spoken_as_each_of_its_sections_says() {
    all_pass("http2.py", "", 147);
}

#[test]
fn raw_shapes_are_answered_once_and_as_nginx_answers_or_for_a_reason() {
    if !is_installed("nginx") {
        return;
    }
    all_pass("smuggling.py", "", 77);
}

#[test]
fn websockets_keep_to_their_protocol() {
    all_pass("websocket.py", "http1", 117);
}

#[test]
fn websockets_over_http2_keep_to_the_same() {
    all_pass("websocket.py", "http2", 114);
}

#[test]
fn websockets_are_understood_by_anothers_client() {
    all_pass("websocket.py", "client", 6);
}

#[test]
fn websockets_are_told_by_their_number_when_the_service_stops() {
    let Some(python) = python() else { return };
    let (mut cluster, address) = service(&[]);
    let mut clients = script(&python, "websocket.py", address, "goodbye").start();
    clients.wait_for("open");
    cluster.signal(Signal::SIGTERM);
    clients.wait_for("20 cases, 0 failed");
    clients.expect_exit(0);
    cluster.expect_exit(0);
}

#[test]
fn heads_that_drip_cost_nobody_else_and_come_to_an_end() {
    outlives(&["-H", "-t", "GET", "-i", "1", "-x", "24"], "/");
}

#[test]
fn bodies_that_drip_cost_nobody_else_and_come_to_an_end() {
    outlives(&["-B", "-t", "POST", "-s", "8192", "-i", "8", "-x", "10"], "/slow");
}

#[test]
fn answers_that_nobody_reads_cost_nobody_else_and_come_to_an_end() {
    outlives(&["-X", "-w", "512", "-y", "1024", "-n", "8", "-z", "65536", "-k", "1"], "/large");
}

/// Runs a table against the service, which must have so many cases, and sees that it goes on afterwards.
fn all_pass(name: &str, how: &str, cases: usize) {
    let Some(python) = python() else { return };
    let (mut cluster, address) = service(&[]);
    let workers = cluster.workers();
    let mut run = script(&python, name, address, how).start();
    // A deadline for each case, and not for all of them.
    let mut seen = 0;
    while !run.log_text().contains(" cases, ") {
        seen =
            run.wait_until("the next case", |run| Some(run.log_text().lines().count()).filter(|lines| *lines > seen));
    }
    let status = run.wait_exit();
    run.expect_nothing_left();
    let log = run.log_text();
    let failed: Vec<_> = log.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(status.success() && log.ends_with(&format!("{cases} cases, 0 failed")), "{}", failed.join("\n"));
    assert_eq!(http::body(address, "/after"), "GET /after 0\n");
    assert_eq!(cluster.workers(), workers, "none of them was replaced");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// 60 slow clients at once: others are served meanwhile, and the service lets go of the slow ones, who would stay.
fn outlives(how: &[&str], path: &str) {
    if !is_installed("slowhttptest") || !is_installed("ss") {
        return;
    }
    let (mut cluster, address) = service(&[("SHORT", SHORT)]);
    let url = format!("http://{address}{path}");
    let mut slow = Cluster::of("slowhttptest")
        .args(["-c", "60", "-r", "60", "-l", "600", "-p", "60", "-u", &url])
        .with(|command| _ = command.args(how))
        .start();
    let meanwhile = || assert_eq!(http::body(address, "/meanwhile"), "GET /meanwhile 0\n");
    slow.wait_until("many slow clients", |_| {
        meanwhile();
        (held_by(address) > 20).then_some(())
    });
    slow.wait_until("the end of the slow ones", |_| {
        meanwhile();
        // Its look whether the service is available.
        (held_by(address) <= 1).then_some(())
    });
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// How many connections the service has.
fn held_by(address: SocketAddr) -> usize {
    let of_the_service = format!("sport = :{}", address.port());
    let found = Command::new("ss").args(["-Htn", "state", "established", &of_the_service]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().count()
}

fn service(environment: &[(&str, &str)]) -> (Cluster, SocketAddr) {
    let fixture = support::example_beside("conformance");
    let launch = environment.iter().fold(Cluster::of(&fixture), |launch, (name, value)| launch.env(name, value));
    let mut cluster = launch.env("CLUSTER_GRACE", "30s").start();
    let address = cluster.wait_ready();
    (cluster, address)
}

/// The Python that has what the scripts need.
fn python() -> Option<String> {
    let test = std::env::current_exe().unwrap();
    let python = test.ancestors().nth(3).unwrap().join("conformance/bin/python");
    if python.exists() {
        return python.into_os_string().into_string().ok();
    }
    support::skip("tests/conformance/install was not run");
    None
}

fn script(python: &str, name: &str, address: SocketAddr, how: &str) -> support::Launch {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conformance").join(name);
    let how = Some(how).filter(|how| !how.is_empty());
    Cluster::of(python)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .with(|command| _ = command.arg(path).arg(address.to_string()).args(how))
}

fn is_installed(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap().status.success();
    if !found {
        support::skip(&format!("{program} is not installed: tests/conformance/install does it"));
    }
    found
}
