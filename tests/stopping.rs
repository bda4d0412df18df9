//! The cluster stops, or loses its primary: what is finished, what is cut, and that nothing is left.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;

use nix::sys::signal::killpg;
use support::http::{self, Connection};
use support::load::Load;
use support::who::who;
use support::{Cluster, Signal, send};

const WEB: &str = env!("CARGO_BIN_EXE_web");

#[test]
fn term_under_load_cuts_no_request_on_kept_connections() {
    term_under_load(Load::start_keep_alive);
}

#[test]
fn term_under_load_cuts_no_request_on_new_connections() {
    term_under_load(Load::start);
}

fn term_under_load(start: impl Fn(SocketAddr, usize, &'static str) -> Load) {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    let address = cluster.wait_ready();
    let load = start(address, 16, "/slow/2");
    cluster.wait_until("requests to be served", |_| (load.served() > 500).then_some(()));
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    let (_, failures) = load.stop();
    let cut: Vec<_> = failures.iter().filter(|failure| failure.was_accepted).collect();
    assert!(cut.is_empty(), "{cut:?}");
    TcpListener::bind(address).expect("the port is free");
}

/// What a service manager does to a control group, and `pkill` to a name.
#[test]
fn term_for_all_processes_at_once_cuts_no_request() {
    for primary_first in [true, false] {
        let mut cluster = Cluster::of(WEB).workers(4).start();
        let address = cluster.wait_ready();
        let load = Load::start(address, 16, "/slow/2");
        cluster.wait_until("requests to be served", |_| (load.served() > 500).then_some(()));
        let workers = cluster.wait_for_workers(4);
        if primary_first {
            cluster.signal(Signal::SIGTERM);
        }
        workers.into_iter().for_each(|worker| send(worker, Signal::SIGTERM));
        if !primary_first {
            cluster.signal(Signal::SIGTERM);
        }
        cluster.expect_exit(0);
        let (_, failures) = load.stop();
        let cut: Vec<_> = failures.iter().filter(|failure| failure.was_accepted).collect();
        assert!(cut.is_empty(), "{cut:?}");
    }
}

/// The worker is killed, and the stop comes before its replacement has come to listen.
#[test]
fn connections_that_wait_for_a_replacement_are_served_also_if_the_cluster_stops_meanwhile() {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    let address = cluster.wait_ready();
    let victim = who(address).pid;
    send(victim, Signal::SIGSTOP);
    let mut waiting: Vec<Connection> = (0..100).map(|_| Connection::open(address).unwrap()).collect();
    for connection in &mut waiting {
        connection.send_get("/who").unwrap();
    }
    send(victim, Signal::SIGKILL);
    cluster.wait_for("Forked(WorkerId(3))");
    cluster.signal(Signal::SIGTERM);
    for connection in &mut waiting {
        connection.answer().expect("somebody serves it");
    }
    cluster.expect_exit(0);
}

#[test]
fn a_closed_terminal_stops_the_cluster() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut cluster = Cluster::of(WEB).workers(1).with(|command| _ = command.stdin(terminal.slave)).start();
    cluster.wait_ready();
    drop(terminal.master);
    cluster.signal(Signal::SIGHUP);
    cluster.expect_exit(0);
}

#[test]
fn a_request_that_runs_is_finished_and_newcomers_are_refused_meanwhile() {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/3000").unwrap();
    cluster.wait_for("slow request begins");
    cluster.signal(Signal::SIGTERM);
    cluster.wait_until("newcomers to be refused", |_| match TcpStream::connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(()),
        Ok(_) | Err(_) => None,
    });
    let answer = slow.answer().unwrap();
    assert_eq!(answer.body, "slept 3000");
    assert!(answer.has_header("connection: close"));
    cluster.expect_exit(0);
}

#[test]
fn an_idle_connection_may_still_bring_a_request_and_is_then_closed() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    let address = cluster.wait_ready();
    let mut late = Connection::open(address).unwrap();
    let mut fresh = Connection::open(address).unwrap();
    let mut idle = Connection::open(address).unwrap();
    late.get("/who").unwrap();
    idle.get("/who").unwrap();
    cluster.signal(Signal::SIGTERM);
    // The order to drain is under way; the first answer that closes tells that it has come.
    while !late.get("/who").expect("a request that was on its way is answered").has_header("connection: close") {}
    let answer = fresh.get("/who").expect("the first request of a connection is answered too");
    assert!(answer.has_header("connection: close"));
    idle.rest().expect("the idle one is closed, not reset");
    cluster.expect_exit(0);
}

#[test]
fn half_sent_heads_and_endless_answers_are_cut_before_the_grace_period_ends() {
    let mut cluster = Cluster::of(WEB).workers(1).env("CLUSTER_GRACE", "2s").start();
    let address = cluster.wait_ready();
    let mut half_head = Connection::open(address).unwrap();
    half_head.send("GET /who HTTP/1.1\r\nhos").unwrap();
    let mut half_body = Connection::open(address).unwrap();
    half_body.send("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nhalf").unwrap();
    let mut endless = Connection::open(address).unwrap();
    endless.send_get("/endless").unwrap();
    endless.head().unwrap();
    assert_eq!(endless.chunk().unwrap().as_deref(), Some(&b"more"[..]));
    cluster.signal(Signal::SIGTERM);
    // Exit code 0: the worker ended by itself, nobody had to kill it.
    cluster.expect_exit(0);
    assert!(half_head.answer().is_err() && half_body.answer().is_err());
}

#[test]
fn a_worker_that_is_stuck_is_killed_at_the_end_of_the_grace_period() {
    let mut cluster = Cluster::of(WEB).workers(2).env("CLUSTER_GRACE", "1s").start();
    let address = cluster.wait_ready();
    let mut stuck = Connection::open(address).unwrap();
    stuck.send_get("/spin").unwrap();
    cluster.wait_for("spinning");
    cluster.signal(Signal::SIGTERM);
    cluster.wait_for("status: Signal(9), reason: GraceExpired");
    cluster.expect_exit(5);
}

#[test]
fn ctrl_c_stops_gracefully_and_a_second_one_kills_at_once() {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/600000").unwrap();
    cluster.wait_for("slow request begins");
    cluster.signal(Signal::SIGINT);
    cluster.wait_for("stopping");
    cluster.signal(Signal::SIGINT);
    cluster.expect_exit(130);
    assert!(slow.answer().is_err());
}

/// A service manager may repeat itself, and that must not cost the requests that still run.
#[test]
fn a_second_term_does_not_kill() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/1000").unwrap();
    cluster.wait_for("slow request begins");
    for _ in 0..3 {
        cluster.signal(Signal::SIGTERM);
        cluster.signal(Signal::SIGQUIT);
    }
    assert_eq!(slow.answer().unwrap().body, "slept 1000");
    cluster.expect_exit(0);
}

/// A terminal sends Ctrl-C to the whole foreground group.
#[test]
fn ctrl_c_for_the_whole_process_group_lets_the_workers_finish() {
    let mut cluster = Cluster::of(WEB).workers(2).with(|command| _ = command.process_group(0)).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/1000").unwrap();
    cluster.wait_for("slow request begins");
    killpg(cluster.primary(), Signal::SIGINT).unwrap();
    assert_eq!(slow.answer().unwrap().body, "slept 1000");
    cluster.expect_exit(0);
}

/// `pkill -HUP app` reaches the workers too.
#[test]
fn signals_that_are_meant_for_the_primary_do_not_hurt_a_worker() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    let address = cluster.wait_ready();
    let worker = who(address);
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
        send(worker.pid, signal);
        assert_eq!(who(address), worker, "after {signal}");
    }
}

/// test-cluster-primary-kill, test-cluster-primary-error: without a primary no worker stays, and what runs is finished.
#[test]
fn workers_without_a_primary_finish_what_runs_and_end() {
    let mut cluster = Cluster::of(WEB).workers(2).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/1000").unwrap();
    cluster.wait_for("slow request begins");
    cluster.signal(Signal::SIGKILL);
    cluster.wait_exit();
    assert_eq!(slow.answer().unwrap().body, "slept 1000");
    cluster.expect_nothing_left();
    TcpListener::bind(address).expect("the port is free");
}

#[test]
fn a_worker_that_is_stuck_does_not_outlive_its_primary_by_more_than_the_grace_period() {
    let mut cluster = Cluster::of(WEB).workers(2).env("CLUSTER_GRACE", "1s").start();
    let address = cluster.wait_ready();
    let mut stuck = Connection::open(address).unwrap();
    stuck.send_get("/spin").unwrap();
    cluster.wait_for("spinning");
    cluster.signal(Signal::SIGKILL);
    cluster.wait_exit();
    cluster.expect_nothing_left();
}

/// test-cluster-disconnect-before-exit: a stop passes over workers that are on their way out already.
#[test]
fn a_stop_while_a_worker_leaves_ends_both() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    let address = cluster.wait_ready();
    let mut slow = Connection::open(address).unwrap();
    slow.send_get("/slow/1000").unwrap();
    cluster.wait_for("slow request begins");
    send(who(address).pid, Signal::SIGTERM);
    cluster.wait_for("Forked(WorkerId(2))");
    cluster.signal(Signal::SIGTERM);
    assert_eq!(slow.answer().unwrap().body, "slept 1000");
    cluster.expect_exit(0);
}

#[test]
fn the_next_cluster_can_have_the_port_at_once() {
    let mut address = "127.0.0.1:0".to_owned();
    for _ in 0..3 {
        let mut cluster = Cluster::of(WEB).workers(2).env("ADDR", &address).start();
        let bound = cluster.wait_ready();
        address = bound.to_string();
        http::get(bound, "/who").unwrap();
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}
