//! Workers listen: one port for all, every way to serve on it, and every way in which it can be refused.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use axum::body::{Body, to_bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::http::{self, Connection};
use support::who::{self, who};
use support::{Cluster, DEADLINE, Launch, Signal, skip};

const WEB: &str = env!("CARGO_BIN_EXE_web");
const SOCKETS: &str = env!("CARGO_BIN_EXE_sockets");

fn sockets(program: &str) -> Launch {
    Cluster::of(SOCKETS).args([program])
}

/// test-cluster-listening-port: the port is real, and the same for all.
#[test]
fn every_worker_serves_on_the_one_port_that_the_kernel_chose() {
    let mut cluster = Cluster::of(WEB).workers(4).start();
    let address = cluster.wait_ready();
    for slot in 0..4 {
        who::find(address, |who| who.slot == slot);
    }
    let log = cluster.log_text();
    for id in 1..=4 {
        assert!(log.contains(&format!("Listening(WorkerId({id}), Tcp({address}))")), "{log}");
    }
}

#[test]
fn a_handler_knows_its_clients_address() {
    let mut cluster = Cluster::of(WEB).start();
    let address = cluster.wait_ready();
    let peer: SocketAddr = http::body(address, "/peer").parse().unwrap();
    assert!(peer.ip().is_loopback() && peer != address);
}

#[test]
fn a_request_over_http2_is_finished_when_the_cluster_stops_meanwhile() {
    let mut cluster = Cluster::of(WEB).workers(1).start();
    let address = cluster.wait_ready();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let closed = tokio::spawn(connection);
        let request = |path: &str| {
            let uri = format!("http://{address}{path}");
            hyper::Request::builder().uri(uri).body(Body::empty()).unwrap()
        };
        let quick = client.send_request(request("/who")).await.unwrap();
        assert_eq!(quick.version(), hyper::Version::HTTP_2);
        let slow = tokio::spawn(client.send_request(request("/slow/1000")));
        tokio::task::block_in_place(|| cluster.wait_for("slow request begins"));
        cluster.signal(Signal::SIGTERM);
        let answer = slow.await.unwrap().unwrap();
        let body = to_bytes(Body::new(answer.into_body()), 100).await.unwrap();
        assert_eq!(&body[..], b"slept 1000");
        tokio::time::timeout(DEADLINE, closed).await.expect("the connection ends").unwrap().unwrap();
    });
    cluster.expect_exit(0);
}

/// A program that knows nothing of the shutdown ends too, as soon as its last connection is closed.
#[test]
fn axum_serve_works_on_our_listener_and_ends_with_the_cluster() {
    for program in ["axum", "axum-graceful"] {
        let mut cluster = sockets(program).start();
        let address = cluster.wait_ready();
        assert!(["1", "2"].contains(&http::body(address, "/").as_str()));
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}

#[test]
fn a_loop_over_accept_serves_and_ends_when_the_worker_drains() {
    let mut cluster = sockets("plain").start();
    let address = cluster.wait_ready();
    let mut greeted = BTreeSet::new();
    cluster.wait_until("both workers to greet", |_| {
        let mut greeting = String::new();
        TcpStream::connect(address).unwrap().read_to_string(&mut greeting).unwrap();
        greeted.insert(greeting);
        (greeted.len() == 2).then_some(())
    });
    cluster.signal(Signal::SIGTERM);
    cluster.wait_for("the loop has ended");
    cluster.wait_for("the loop has ended");
    cluster.expect_exit(0);
}

#[test]
fn a_listener_that_nobody_looks_after_does_not_delay_the_end() {
    let mut cluster = sockets("idle").start();
    cluster.wait_ready();
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// test-cluster-disconnect-idle-worker: a worker need not listen at all.
#[test]
fn workers_without_a_listener_are_ready_when_they_say_so_and_told_to_go() {
    let mut cluster = sockets("quiet").start();
    cluster.wait_for("2 workers ready");
    cluster.signal(Signal::SIGTERM);
    cluster.wait_for("was told to go");
    cluster.wait_for("was told to go");
    cluster.expect_exit(0);
}

/// test-cluster-child-index-net: the n-th kernel-chosen port of every worker is the same, and comes back after a close.
#[test]
fn several_listeners_of_a_worker_are_shared_one_by_one() {
    let mut cluster = sockets("several").start();
    let one = cluster.wait_for("worker 1: ports ");
    let other = cluster.wait_until("the other worker's ports", |cluster| {
        cluster.log_text().lines().find(|line| line.contains("worker 2: ports ")).map(str::to_owned)
    });
    let ports = |line: &str| line.split("ports ").nth(1).unwrap().to_owned();
    assert_eq!(ports(&one), ports(&other));
    let ports: Vec<_> = one.split(' ').rev().take(3).collect();
    let [again, second, first] = ports[..] else { panic!("{one}") };
    assert_eq!(first, again);
    assert_ne!(first, second);
}

/// test-cluster-listen-twice-same-port, and a port that came from 0 asked for by its number.
#[test]
fn listening_twice_in_one_worker_is_an_error_that_can_be_caught() {
    let fixed = free_port();
    let mut cluster = sockets("twice").env("FIXED", &fixed.to_string()).start();
    cluster.wait_for("the second is refused: AddrInUse");
    cluster.wait_for("the same is refused: AddrInUse");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// net-server-close-before-ipc-response: the socket that nobody waits for any more is closed, and the port can be had.
#[test]
fn listening_can_be_cancelled_and_leaves_nothing_open() {
    let mut cluster = sockets("hasty").start();
    let address = cluster.wait_ready();
    let count = |log: &str| log.matches("1 more descriptors").count();
    cluster.wait_until("both workers' counts", |cluster| (count(&cluster.log_text()) == 2).then_some(()));
    assert!(["1", "2"].contains(&http::body(address, "/").as_str()));
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// test-cluster-shared-handle-bind-error, test-cluster-worker-disconnect-on-error.
#[test]
fn a_bind_error_reaches_the_worker_with_its_kind_and_a_retry_works() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let mut cluster = sockets("stubborn").env("ADDR", &address.to_string()).start();
    cluster.wait_for(&format!("AddrInUse: cannot listen on {address}: Address already in use"));
    drop(holder);
    cluster.wait_for("listens at last");
    cluster.wait_for("listens at last");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// test-cluster-shared-handle-bind-privileged-port, test-cluster-bind-privileged-port.
#[test]
fn a_port_that_is_not_allowed_is_refused_with_its_kind() {
    let lowest: u16 =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim().parse().unwrap();
    if lowest <= 42 {
        return skip("every port is free for everybody here (net.ipv4.ip_unprivileged_port_start)");
    }
    // root may, so the capability goes first.
    let without = ["--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service", SOCKETS, "stubborn"];
    if Command::new("setpriv").arg("--version").output().is_err() {
        return skip("there is no setpriv");
    }
    let mut cluster = Cluster::of("setpriv").args(without).env("ADDR", "127.0.0.1:42").start();
    cluster.wait_for("PermissionDenied: cannot listen on 127.0.0.1:42: Permission denied");
}

#[test]
fn an_address_that_cannot_be_read_or_is_not_ours_is_refused_with_its_kind() {
    for (address, told) in [
        ("3000", "InvalidInput"),
        ("127.0.0.1:99999", "InvalidInput"),
        ("nowhere.invalid:80", "failed to lookup address"),
        ("192.0.2.1:80", "AddrNotAvailable"),
    ] {
        let mut cluster = sockets("stubborn").env("ADDR", address).start();
        let line = cluster.wait_for(told);
        assert!(line.contains("cannot listen on"), "{line}");
    }
}

/// test-cluster-bind-twice: never shared by accident.
#[test]
fn a_second_cluster_on_the_port_fails_and_the_first_goes_on() {
    let mut first = Cluster::of(WEB).workers(2).start();
    let address = first.wait_ready();
    // One worker, as the words of two would mingle.
    let mut second = Cluster::of(WEB).workers(1).env("ADDR", &address.to_string()).start();
    second.wait_for(&format!("Error: cannot listen on {address}: Address already in use"));
    second.expect_exit(3);
    let before = who(address);
    assert!(first.workers().contains(&before.pid));
}

#[test]
fn a_connection_that_sends_no_request_or_half_of_one_is_closed_in_time() {
    let mut cluster = sockets("impatient").start();
    let address = cluster.wait_ready();
    let mut silent = Connection::open(address).unwrap();
    silent.rest().unwrap();
    let mut half = Connection::open(address).unwrap();
    half.send("GET / HTTP/1.1\r\nho").unwrap();
    half.rest().unwrap();
    let mut idle = Connection::open(address).unwrap();
    idle.get("/").unwrap();
    idle.rest().unwrap();
}

/// The server has long answered; the client still reads.
#[test]
fn an_answer_is_not_cut_because_its_client_is_slow_to_read() {
    let mut cluster = sockets("heavy").start();
    let address = cluster.wait_ready();
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut received = 0;
    let mut part = vec![0; 512 << 10];
    loop {
        match slow.read(&mut part).unwrap() {
            0 => break,
            count => received += count,
        }
        // All in all, this takes several times the header timeout.
        http::get(address, "/nap").unwrap();
    }
    assert!(received > 32 << 20, "{received}");
}

#[test]
fn a_worker_that_panics_ends_although_a_blocking_task_runs() {
    let mut cluster = sockets("panics-beside-a-task").start();
    cluster.wait_for("while a blocking task runs");
    cluster.expect_exit(3);
}

#[test]
fn an_upgraded_connection_is_waited_for_when_the_worker_drains() {
    let mut cluster = sockets("upgrade").start();
    let address = cluster.wait_ready();
    let mut connection = Connection::open(address).unwrap();
    connection.send("GET /upgrade HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
    assert_eq!(connection.head().unwrap().0, 101);
    connection.send("x").unwrap();
    cluster.signal(Signal::SIGTERM);
    assert_eq!(connection.rest().unwrap(), "xbye");
    cluster.expect_exit(0);
}

/// Node removes its mark from the environment too: what a worker starts is no worker.
#[test]
fn a_workers_own_child_is_not_taken_for_a_worker() {
    let mut cluster = sockets("parent").start();
    cluster.wait_for("before run: worker=false primary=true");
    cluster.wait_for("before run: worker=true primary=false");
    cluster.wait_for("grandchild: worker=false primary=true");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// A port that was free a moment ago; the kernel does not give it to anybody else soon.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
