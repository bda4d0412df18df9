//! The example `shared_state`: a key-value service in the primary, for all workers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::unistd::Pid;
use support::http::{Answer, Connection};
use support::{Cluster, Signal, send};

const SHARED_STATE: &str = env!("CARGO_BIN_EXE_example-shared-state");

fn start(workers: usize) -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::of(SHARED_STATE).workers(workers).env("ADDR", "127.0.0.1:0").start();
    let address = cluster.wait_ready();
    (cluster, address)
}

/// A client of one worker.
struct Client(Connection);

impl Client {
    /// One of whichever worker, and the worker's process.
    fn connect(address: SocketAddr) -> (Self, Pid) {
        loop {
            let mut connection = Connection::open(address).unwrap();
            let greeting = connection.get("/").unwrap();
            // That worker is about to go; the next connection gets another one.
            if !greeting.has_header("connection: close") {
                let pid = greeting.body.split_once("(pid ").and_then(|(_, rest)| rest.trim_end().strip_suffix(')'));
                return (Self(connection), Pid::from_raw(pid.unwrap().parse().unwrap()));
            }
        }
    }

    /// One of each of so many workers.
    fn of_each(address: SocketAddr, workers: usize) -> BTreeMap<Pid, Self> {
        let mut clients = BTreeMap::new();
        while clients.len() < workers {
            let (client, worker) = Self::connect(address);
            clients.insert(worker, client);
        }
        clients
    }

    #[track_caller]
    fn get(&mut self, key: &str) -> Answer {
        self.0.get(&format!("/kv/{key}")).unwrap()
    }

    #[track_caller]
    fn put(&mut self, key: &str, value: &str, conditions: &[&str]) -> Answer {
        self.0.request(&format!("PUT /kv/{key}"), conditions, value).unwrap()
    }

    #[track_caller]
    fn delete(&mut self, key: &str) -> u16 {
        self.0.request(&format!("DELETE /kv/{key}"), &[], "").unwrap().status
    }
}

#[test]
fn what_is_put_through_one_worker_is_seen_at_all() {
    let (_cluster, address) = start(4);
    let mut clients = Client::of_each(address, 4);
    for writer in clients.keys().copied().collect::<Vec<_>>() {
        assert_eq!(clients.get_mut(&writer).unwrap().put("writer", &writer.to_string(), &[]).status, 204);
        for reader in clients.values_mut() {
            assert_eq!(reader.get("writer").body, writer.to_string());
        }
    }
    let mut clients = clients.into_values();
    let (mut one, mut other) = (clients.next().unwrap(), clients.next().unwrap());
    assert_eq!((one.delete("writer"), other.delete("writer"), other.get("writer").status), (204, 404, 404));
}

#[test]
fn a_put_with_a_condition_happens_only_if_that_holds() {
    let (_cluster, address) = start(1);
    let mut client = Client::connect(address).0;
    assert_eq!(client.put("a", "1", &["if-match: \"1\""]).status, 412, "there is none");
    assert_eq!(client.put("a", "1", &["if-none-match: *"]).status, 204);
    assert_eq!(client.put("a", "2", &["if-none-match: *"]).status, 412);
    let first = format!("if-match: {}", client.get("a").header("etag").unwrap());
    assert_eq!(client.put("a", "2", &[&first]).status, 204);
    assert_eq!(client.put("a", "3", &[&first]).status, 412);
    let second = format!("if-match: {}", client.get("a").header("etag").unwrap());
    assert_eq!(client.delete("a"), 204);
    assert_eq!(client.put("a", "2", &[]).status, 204);
    assert_eq!(client.put("a", "3", &[&second]).status, 412, "the same value, and yet another one");
    assert_eq!(client.get("a").body, "2");
    for wrong in [&["if-match: *"][..], &["if-none-match: \"1\""], &["if-match: \"1\"", "if-none-match: *"]] {
        assert_eq!(client.put("a", "4", wrong).status, 400, "{wrong:?}");
    }
}

/// Every client reads, adds one, and puts that if nobody else has meanwhile; the primary becomes another program while they do.
#[test]
fn compare_and_swap_by_many_at_once_counts_exactly_also_across_an_upgrade() {
    let (mut cluster, address) = start(3);
    assert_eq!(Client::connect(address).0.put("count", "0", &[]).status, 204);
    let stop = AtomicBool::new(false);
    let added: u64 = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let clients: Vec<_> = (0..6).map(|_| scope.spawn(|| count_until(&stop, address))).collect();
        let is_at = |least: u64| {
            move |_: &mut Cluster| {
                let count: u64 = Client::connect(address).0.get("count").body.parse().unwrap();
                (count >= least).then_some(())
            }
        };
        cluster.wait_until("a hundred to be added", is_at(100));
        cluster.signal(Signal::SIGUSR2);
        cluster.wait_for("cluster: upgraded");
        cluster.wait_for("reloaded: all workers");
        let now: u64 = Client::connect(address).0.get("count").body.parse().unwrap();
        cluster.wait_until("a hundred more to be added", is_at(now + 100));
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let entry = Client::connect(address).0.get("count");
    assert_eq!(entry.body, added.to_string());
    assert_eq!(entry.header("etag").unwrap(), format!("\"{}\"", added + 1), "versions go on, too");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// So that a failure does not leave the clients running.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many times it has added one.
fn count_until(stop: &AtomicBool, address: SocketAddr) -> u64 {
    let mut added = 0;
    let mut client = Client::connect(address).0;
    while !stop.load(Ordering::Relaxed) {
        let entry = client.get("count");
        assert_eq!(entry.status, 200);
        let condition = format!("if-match: {}", entry.header("etag").unwrap());
        // The worker may be about to go.
        if entry.has_header("connection: close") {
            client = Client::connect(address).0;
        }
        let next = entry.body.parse::<u64>().unwrap() + 1;
        let outcome = client.put("count", &next.to_string(), &[&condition]);
        match outcome.status {
            204 => added += 1,
            412 => {}
            _ => panic!("{outcome:?}"),
        }
        if outcome.has_header("connection: close") {
            client = Client::connect(address).0;
        }
    }
    added
}

#[test]
fn what_was_put_outlives_every_worker() {
    let (mut cluster, address) = start(2);
    let workers = cluster.wait_for_workers(2);
    for (worker, client) in &mut Client::of_each(address, 2) {
        assert_eq!(client.put(&worker.to_string(), "here", &[]).status, 204);
    }
    workers.iter().for_each(|worker| send(*worker, Signal::SIGKILL));
    let successors = cluster
        .wait_until("successors", |cluster| {
            let now = cluster.workers();
            (now.len() == 2 && now.is_disjoint(&workers)).then_some(now)
        })
        .len();
    for client in Client::of_each(address, successors).values_mut() {
        for worker in &workers {
            assert_eq!(client.get(&worker.to_string()).body, "here");
        }
    }
}

#[test]
fn what_is_too_large_is_refused_and_nobody_fills_the_primary() {
    const VALUE: usize = 64 << 10;
    let (_cluster, address) = start(1);
    let mut client = Client::connect(address).0;
    assert_eq!(client.put(&"k".repeat(256), "", &[]).status, 204);
    assert_eq!(client.put(&"k".repeat(257), "", &[]).status, 413);
    assert_eq!(Client::connect(address).0.put("long", &"v".repeat(VALUE + 1), &[]).status, 413);
    let value = "v".repeat(VALUE);
    let mut kept = 0;
    let refusal = loop {
        let answer = client.put(&kept.to_string(), &value, &[]);
        if answer.status != 204 {
            break answer;
        }
        kept += 1;
        assert!(kept * VALUE <= 16 << 20, "there is no end");
    };
    assert_eq!((refusal.status, refusal.body.as_str()), (507, "the store is full: remove something"));
    assert!((kept + 1) * VALUE > (16 << 20) - (100 << 10), "only {kept} values were taken");
    // What is there may be replaced, and what is removed makes room.
    assert_eq!(client.put("0", &value, &[]).status, 204);
    assert_eq!((client.delete("0"), client.put("another", &value, &[]).status), (204, 204));
    assert_eq!(client.get("another").body.len(), VALUE);
}
