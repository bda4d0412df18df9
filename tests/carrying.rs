//! Descriptors in messages between real processes: connections and listeners that change hands, and what becomes of them when
//! somebody goes, or has no room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;

use nix::unistd::Pid;
use support::http::{self, Connection};
use support::{Cluster, Launch, Signal, send};

fn carrier<const N: usize>(args: [&str; N]) -> Launch {
    Cluster::of(env!("CARGO_BIN_EXE_carrier")).args(args)
}

#[track_caller]
fn stop(cluster: &mut Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

fn descriptors_of(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// How many descriptors each process of the cluster has open.
fn descriptors(cluster: &Cluster) -> BTreeMap<Pid, usize> {
    cluster.workers().into_iter().chain([cluster.primary()]).map(|pid| (pid, descriptors_of(pid))).collect()
}

/// Waits until no process has more than it had.
#[track_caller]
fn expect_none_left(cluster: &mut Cluster, before: &BTreeMap<Pid, usize>) {
    cluster.wait_until(&format!("no more descriptors than {before:?}"), |cluster| {
        descriptors(cluster).iter().all(|(pid, count)| count <= &before[pid]).then_some(())
    });
}

/// test-child-process-send-keep-open, test-child-process-fork-net-socket and others that send a socket.
#[test]
fn the_primary_answers_a_connection_that_a_worker_has_accepted() {
    let answers = answers_of_fifty("primary");
    assert!(answers.iter().all(|answer| answer.ends_with(", answered by the primary")), "{answers:?}");
}

#[test]
fn a_worker_answers_a_connection_that_another_has_accepted_and_sent_through_the_primary() {
    expect_swapped(&answers_of_fifty("through"));
}

#[test]
fn a_worker_answers_a_connection_that_another_has_sent_it() {
    expect_swapped(&answers_of_fifty("peer"));
}

#[track_caller]
fn answers_of_fifty(way: &str) -> BTreeSet<String> {
    let mut cluster = carrier(["hand-over", way]).start();
    let address = cluster.wait_ready();
    // Whatever is opened once and for all.
    let _warm_up = [(); 10].map(|()| http::body(address, "/"));
    let before = descriptors(&cluster);
    let answers = (0..50).map(|_| http::body(address, "/")).collect();
    expect_none_left(&mut cluster, &before);
    stop(&mut cluster);
    answers
}

#[track_caller]
fn expect_swapped(answers: &BTreeSet<String>) {
    for answer in answers {
        let swapped = [(0, 1), (1, 0)].map(|(one, other)| format!("accepted by slot {one}, answered by slot {other}"));
        assert!(swapped.contains(answer), "{answer}");
    }
}

/// test-child-process-fork-net-server, test-child-process-fork-getconnections.
#[test]
fn workers_accept_on_a_listener_that_the_primary_has_sent_and_closed() {
    expect_both_accept("sent");
}

#[test]
fn workers_accept_on_a_listener_that_came_as_an_answer() {
    expect_both_accept("asked");
}

#[track_caller]
fn expect_both_accept(way: &str) {
    let mut cluster = carrier(["listener", way]).start();
    let line = cluster.wait_for("both accept on ");
    let address: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    // One that is silent keeps whoever has accepted it from accepting another.
    let mut silent = Connection::open(address).unwrap();
    let other = http::body(address, "/");
    let one = silent.get("/").unwrap().body;
    assert_eq!(BTreeSet::from([one, other]), BTreeSet::from(["slot 0".to_owned(), "slot 1".to_owned()]));
    stop(&mut cluster);
}

#[test]
fn thousands_of_descriptors_each_way_on_all_lanes_at_once_arrive_once_in_order_and_none_is_left() {
    let mut cluster = carrier(["exchange"]).start();
    cluster.wait_for("both are ready");
    let mut round = |number| {
        cluster.signal(Signal::SIGUSR1);
        cluster.wait_for(&format!("round {number} is done"));
    };
    round(1);
    round(2);
    let before = descriptors(&cluster);
    cluster.signal(Signal::SIGUSR1);
    cluster.wait_for("round 3 is done");
    expect_none_left(&mut cluster, &before);
    stop(&mut cluster);
}

#[test]
fn connections_on_their_way_to_a_worker_that_is_killed_are_closed_and_the_primary_keeps_none() {
    let mut cluster = carrier(["deaf"]).start();
    let address = cluster.wait_ready();
    let before = descriptors_of(cluster.primary());
    let mut clients: Vec<_> = (0..100).map(|_| Connection::open(address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send_get("/").unwrap());
    cluster.wait_for("hands on 100");
    // In the order of their slots.
    let deaf = *cluster.workers().last().unwrap();
    send(deaf, Signal::SIGKILL);
    for client in &mut clients {
        // It ends, in whatever way.
        assert!(client.answer().is_err());
    }
    cluster.wait_logged("crashed (killed by SIGKILL); restarted at once");
    cluster.wait_for_workers(2);
    let primary = cluster.primary();
    cluster.wait_until("the descriptors of before", |_| (descriptors_of(primary) <= before).then_some(()));
    stop(&mut cluster);
}

#[test]
fn connections_that_the_primary_function_has_not_taken_wait_for_it_while_the_workers_are_replaced() {
    let (cluster, answers) = unread_up("reload");
    assert_eq!(answers, BTreeSet::from(["answered by the first program".to_owned()]));
    let mut cluster = cluster;
    stop(&mut cluster);
    assert!(cluster.log_text().contains("reloaded: Ok(2)"));
}

#[test]
fn connections_that_the_primary_function_has_not_taken_wait_for_the_next_program_of_the_primary() {
    let (mut cluster, answers) = unread_up("upgrade");
    assert!(answers.contains("answered by the next program"), "{answers:?}");
    stop(&mut cluster);
}

/// The answers to all clients whose connections wait.
fn unread_up(way: &str) -> (Cluster, BTreeSet<String>) {
    let mut cluster = carrier(["unread-up", way]).start();
    let address = cluster.wait_ready();
    cluster.wait_logged("takes nothing yet");
    let clients = forty_ask(address);
    (cluster, answers(clients))
}

#[test]
fn connections_that_a_worker_has_not_taken_are_its_own_during_a_reload() {
    unread_down(Signal::SIGHUP);
}

#[test]
fn connections_that_a_worker_has_not_taken_are_its_own_during_an_upgrade() {
    unread_down(Signal::SIGUSR2);
}

fn unread_down(signal: Signal) {
    let mut cluster = carrier(["unread-down"]).start();
    let address = cluster.wait_ready();
    let clients = forty_ask(address);
    cluster.wait_logged("has handed on 40");
    cluster.signal(signal);
    assert_eq!(answers(clients), BTreeSet::from(["answered by 2".to_owned()]));
    cluster.wait_for("reloaded: all workers");
    cluster.wait_for_workers(2);
    stop(&mut cluster);
}

fn forty_ask(address: SocketAddr) -> Vec<Connection> {
    let mut clients: Vec<_> = (0..40).map(|_| Connection::open(address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send_get("/").unwrap());
    clients
}

#[track_caller]
fn answers(clients: Vec<Connection>) -> BTreeSet<String> {
    clients.into_iter().map(|mut client| client.answer().expect("it is answered").body).collect()
}

#[test]
fn a_descriptor_that_there_is_no_room_for_says_so_where_it_is_taken_and_the_lane_goes_on() {
    let mut cluster = carrier(["exhausted"]).workers(1).start();
    for number in 0..3 {
        cluster.wait_for(&format!("worker 1: {number} without room: Err(EMFILE)"));
    }
    cluster.wait_for("worker 1: several with room for two: [Ok(()), Ok(()), Err(EMFILE), Err(EMFILE)]");
    cluster.wait_for("worker 1: 7 with room: Ok(7)");
    stop(&mut cluster);
}
