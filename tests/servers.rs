//! Every kind of server on the shared port, by its example: what it promises while it runs and when it ends.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::unistd::Pid;
use support::http::Connection;
use support::tls::{Client, Identity, Pin};
use support::{Cluster, DEADLINE, Signal, send};
use tokio_websockets::{ClientBuilder, CloseCode, Message};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

const AXUM_SERVE: &str = env!("CARGO_BIN_EXE_example-axum-serve");
const HYPER: &str = env!("CARGO_BIN_EXE_example-hyper");
const TCP: &str = env!("CARGO_BIN_EXE_example-tcp");
const TLS: &str = env!("CARGO_BIN_EXE_example-tls");
const WEBSOCKET: &str = env!("CARGO_BIN_EXE_example-websocket");

fn example(program: &str) -> Cluster {
    Cluster::of(program).workers(2).env("ADDR", "127.0.0.1:0").start()
}

fn example_with_tls(identity: &Identity) -> Cluster {
    identity.give_to(Cluster::of(TLS).workers(2).env("ADDR", "127.0.0.1:0")).start()
}

#[test]
fn tcp_clients_of_both_workers_get_every_line_back_and_a_goodbye() {
    let mut cluster = example(TCP);
    let address = cluster.wait_ready();
    let mut clients = of_each_worker(|| {
        let tcp = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut client = BufReader::new(tcp);
        let greeting = line(&mut client);
        (greeting.strip_prefix("hello from worker ").unwrap().trim().parse().unwrap(), client)
    });
    for client in clients.values_mut() {
        client.get_mut().write_all(b"one\ntwo\nhal").unwrap();
        assert_eq!((line(client), line(client)), ("one\n".into(), "two\n".into()));
    }
    cluster.signal(Signal::SIGTERM);
    for client in clients.values_mut() {
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "goodbye\n");
    }
    cluster.expect_exit(0);
}

/// More than a worker accepts in one go, so that it hears of the stop while some still wait.
#[test]
fn an_accept_loop_that_ends_by_its_error_serves_all_who_waited_when_the_cluster_stopped() {
    let mut cluster = example(TCP);
    let address = cluster.wait_ready();
    let workers = cluster.workers();
    workers.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    let waiting: Vec<_> = (0..400).map(|_| Connection::open(address).unwrap()).collect();
    cluster.signal(Signal::SIGTERM);
    cluster.wait_for("stopping");
    workers.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
    for mut connection in waiting {
        let words = connection.rest().unwrap();
        assert!(words.starts_with("hello from worker ") && words.ends_with("\ngoodbye\n"), "{words:?}");
    }
    cluster.expect_exit(0);
}

#[test]
fn axum_serve_finishes_a_request_that_runs_when_the_cluster_stops() {
    a_request_that_runs_is_finished(AXUM_SERVE, "/shout", "BE HEARD", |address| Connection::open(address).unwrap());
}

#[test]
fn hyper_finishes_a_request_that_runs_when_the_cluster_stops() {
    a_request_that_runs_is_finished(HYPER, "/", "be heard", |address| Connection::open(address).unwrap());
}

#[test]
fn behind_tls_a_request_that_runs_is_finished_when_the_cluster_stops() {
    let (client, identity) = (Client::new(&Pin::default()), Identity::new());
    let connect = |address| Connection::over(client.connect(address).unwrap());
    a_request_that_runs_is_finished_by(example_with_tls(&identity), "/", "be heard", connect);
}

fn a_request_that_runs_is_finished(
    program: &str,
    path: &str,
    expected: &str,
    connect: impl Fn(SocketAddr) -> Connection,
) {
    a_request_that_runs_is_finished_by(example(program), path, expected, connect);
}

fn a_request_that_runs_is_finished_by<S: Read + Write>(
    mut cluster: Cluster,
    path: &str,
    expected: &str,
    connect: impl Fn(SocketAddr) -> Connection<S>,
) {
    let address = cluster.wait_ready();
    // Greeted by its worker, with the address that the client has.
    let greeted = || {
        let mut connection = connect(address);
        let greeting = connection.get("/").unwrap().body;
        assert!(greeting.starts_with("hello 127.0.0.1:"), "{greeting:?}");
        (who(&greeting).0, connection)
    };
    let mut running = of_each_worker(greeted).remove(&1).unwrap();
    let mut idle = of_each_worker(greeted).remove(&1).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 8\r\n\r\n");
    running.send(&head).unwrap();
    // The server says so when the handler asks for the body.
    assert_eq!(running.head().unwrap().0, 100);
    running.send("be ").unwrap();
    cluster.signal(Signal::SIGTERM);
    assert_eq!(idle.rest().unwrap(), "", "an idle connection is closed when the drain begins");
    running.send("heard").unwrap();
    let answer = running.answer().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, expected));
    assert_eq!(running.rest().unwrap(), "");
    cluster.expect_exit(0);
}

#[test]
fn grpc_calls_that_stream_are_told_and_ended_when_the_cluster_stops() {
    let mut cluster = example(&support::example_beside("example-grpc"));
    let address = cluster.wait_ready();
    in_time(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut client = HealthClient::new(channel.connect().await.unwrap());
        let checked = client.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(checked.into_inner(), status(ServingStatus::Serving));
        let unknown = client.check(HealthCheckRequest { service: "nobody".into() }).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);
        let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap(), Some(status(ServingStatus::Serving)));
        cluster.signal(Signal::SIGTERM);
        assert_eq!(watch.message().await.unwrap(), Some(status(ServingStatus::NotServing)));
        assert_eq!(watch.message().await.unwrap(), None, "it ends as a call that went well");
    });
    cluster.expect_exit(0);
}

fn status(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[test]
fn websocket_clients_of_both_workers_get_a_close_frame_when_the_cluster_stops() {
    let mut cluster = example(WEBSOCKET);
    let address = cluster.wait_ready();
    in_time(async {
        let mut clients = BTreeMap::new();
        while clients.len() < 2 {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let builder = ClientBuilder::new().uri("ws://localhost/").unwrap();
            let (mut client, _) = builder.connect_on(tcp).await.unwrap();
            let greeting = client.next().await.unwrap().unwrap();
            clients.insert(greeting.as_text().unwrap().to_owned(), client);
        }
        for client in clients.values_mut() {
            client.send(Message::text("is anybody there")).await.unwrap();
            assert_eq!(client.next().await.unwrap().unwrap().as_text(), Some("is anybody there"));
        }
        cluster.signal(Signal::SIGTERM);
        for client in clients.values_mut() {
            let goodbye = client.next().await.unwrap().unwrap();
            assert_eq!(goodbye.as_close(), Some((CloseCode::GOING_AWAY, "this worker leaves")));
            assert!(client.next().await.is_none(), "the connection is closed, not reset");
        }
    });
    cluster.expect_exit(0);
}

#[test]
fn a_tls_session_of_one_worker_is_resumed_by_the_other_and_the_certificate_is_the_same() {
    let identity = Identity::new();
    let mut cluster = example_with_tls(&identity);
    let address = cluster.wait_ready();
    let pin = Pin::default();
    let mut moves = BTreeMap::from([((1, 2), 0), ((2, 1), 0)]);
    cluster.wait_until("a session to move both ways", |_| {
        let (client, issuer) = newcomer(&pin, address);
        let taker = returned(&client, address).expect("every session is resumed, wherever it comes");
        moves.entry((issuer, taker)).and_modify(|count| *count += 1);
        moves.values().all(|count| *count > 0).then_some(())
    });
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_tls_session_is_resumed_by_the_replacement_of_a_killed_worker() {
    let identity = Identity::new();
    let mut cluster = example_with_tls(&identity);
    let address = cluster.wait_ready();
    let pin = Pin::default();
    let mut clients: Vec<Client> = (0..100).map(|_| newcomer(&pin, address).0).collect();
    let (id, victim) = who(&Client::new(&pin).visit(address).unwrap().answer);
    send(victim, Signal::SIGKILL);
    cluster.wait_for(&format!("worker={id} "));
    let found = std::iter::from_fn(|| clients.pop())
        .find(|client| returned(client, address).expect("every session is resumed, by whomever") == 3);
    assert!(found.is_some(), "the replacement serves one of a hundred");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// A client that has visited once, and the worker whose tickets it holds.
fn newcomer(pin: &Pin, address: SocketAddr) -> (Client, u64) {
    let client = Client::new(pin);
    let visit = client.visit(address).unwrap();
    assert!(!visit.is_resumed && visit.answer.contains("that is new"), "{visit:?}");
    (client, who(&visit.answer).0)
}

/// The worker that resumed the client's session, if one did.
fn returned(client: &Client, address: SocketAddr) -> Option<u64> {
    let visit = client.visit(address).unwrap();
    assert_eq!(visit.is_resumed, visit.answer.contains("that is resumed"), "both ends agree: {visit:?}");
    visit.is_resumed.then(|| who(&visit.answer).0)
}

/// The id and the process id in `hello … from worker 2 (pid 812)…`.
fn who(greeting: &str) -> (u64, Pid) {
    let parse = || {
        let (id, rest) = greeting.split_once(" from worker ")?.1.split_once(" (pid ")?;
        Some((id.parse().ok()?, Pid::from_raw(rest.split_once(')')?.0.parse().ok()?)))
    };
    parse().unwrap_or_else(|| panic!("{greeting:?}"))
}

/// One connection to each of the two workers; which one a connection reaches is the kernel's choice.
fn of_each_worker<C>(mut connect: impl FnMut() -> (u64, C)) -> BTreeMap<u64, C> {
    let mut connections = BTreeMap::new();
    let deadline = Instant::now() + DEADLINE;
    while connections.len() < 2 {
        assert!(Instant::now() < deadline, "only worker {:?} answers", connections.keys());
        connections.extend([connect()]);
    }
    connections
}

fn line(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line
}

fn in_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await }).expect("it ends in time");
}
