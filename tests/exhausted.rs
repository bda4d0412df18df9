//! F1: clients take all descriptors that a worker may have, and at that moment the primary has something to tell it. Whoever comes
//! afterwards is served, also after a reload.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use support::http::Connection;
use support::scratch::Scratch;
use support::{Cluster, Launch, Signal, http};

const HOSTILITY: &str = env!("CARGO_BIN_EXE_hostility");

/// More than two workers can take.
const CLIENTS: usize = 300;
/// So many new ones come afterwards.
const NEWCOMERS: usize = 24;

/// How often each scenario is tried: `CLUSTER_EXHAUSTED=20` for all of it.
fn runs() -> usize {
    std::env::var("CLUSTER_EXHAUSTED").ok().map_or(2, |text| text.parse().expect("a number"))
}

#[test]
fn more_workers_while_clients_hold_all_descriptors_cost_nobody_who_comes_afterwards() {
    for _ in 0..runs() {
        let mut scene = Scene::set(&few_descriptors(), 2);
        scene.cluster.signal(Signal::SIGTTIN);
        scene.cluster.wait_logged("Ready(WorkerId(3))");
        scene.expect_no_harm(3);
    }
}

#[test]
fn the_first_messages_between_workers_while_clients_hold_all_descriptors_cost_nobody_who_comes_afterwards() {
    for _ in 0..runs() {
        let mut scene = Scene::set(&few_descriptors(), 2);
        for client in &mut scene.clients {
            // Those whom no worker has taken wait for their answer.
            client.send_get("/news").expect("the connection is open");
        }
        let told = scene.clients.iter_mut().filter_map(|client| client.answer().ok()).next();
        assert!(told.is_some(), "the ones that are served are answered");
        scene.expect_no_harm(2);
    }
}

#[test]
fn new_log_files_while_clients_hold_all_descriptors_cost_nobody_who_comes_afterwards() {
    for _ in 0..runs() {
        let logs = Scratch::new();
        let log = |slot: usize| logs.path(&format!("{slot}.log"));
        let file = logs.path("{slot}.log").to_string_lossy().into_owned();
        let launch = || Cluster::of(HOSTILITY).args(["serve"]).env("FILES", "64").env("LOG_FILE", &file);
        let mut scene = Scene::set(&launch, 2);
        fs::rename(log(0), logs.path("old")).expect("there is a log");
        scene.cluster.signal(Signal::SIGUSR1);
        scene.cluster.wait_until("a new log file", |_| log(0).exists().then_some(()));
        scene.expect_no_harm(2);
    }
}

#[test]
fn a_reload_while_clients_hold_all_descriptors_costs_nobody_who_comes_afterwards() {
    for _ in 0..runs() {
        let mut scene = Scene::set(&few_descriptors(), 2);
        scene.cluster.signal(Signal::SIGHUP);
        scene.cluster.wait_logged("reloaded");
        scene.expect_no_harm(2);
    }
}

/// All at the same time.
#[test]
fn everything_at_once_while_clients_hold_all_descriptors_costs_nobody_who_comes_afterwards() {
    for _ in 0..runs() {
        let mut scene = Scene::set(&few_descriptors(), 2);
        for client in scene.clients.iter_mut().step_by(7) {
            client.send_get("/news").expect("the connection is open");
        }
        for signal in [Signal::SIGTTIN, Signal::SIGUSR1, Signal::SIGHUP] {
            scene.cluster.signal(signal);
        }
        scene.cluster.wait_logged("reloaded");
        scene.expect_no_harm(3);
    }
}

fn few_descriptors() -> impl Fn() -> Launch {
    || {
        let script = "ulimit -n 128; exec \"$0\" serve";
        Cluster::of("sh").args(["-c", script, HOSTILITY])
    }
}

/// A cluster whose workers can take no further connection.
struct Scene {
    cluster: Cluster,
    address: SocketAddr,
    clients: Vec<Connection<TcpStream>>,
}

impl Scene {
    fn set(launch: &dyn Fn() -> Launch, workers: usize) -> Self {
        let mut cluster = launch().workers(workers).env("CLUSTER_GRACE", "5s").start();
        let address = cluster.wait_ready();
        let clients = (0..CLIENTS).map(|_| Connection::open(address).expect("the queue is long enough")).collect();
        let mut scene = Self { cluster, address, clients };
        scene.wait_until_workers_are_full();
        scene
    }

    /// Their tables grow no more.
    fn wait_until_workers_are_full(&mut self) {
        let mut before = Vec::new();
        self.cluster.wait_until("full tables of descriptors", |cluster| {
            let open = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
            let now: Vec<_> = cluster.workers().into_iter().map(open).collect();
            std::thread::sleep(Duration::from_millis(100));
            let is_full = now == before && now.iter().all(|open| *open > 40);
            before = now;
            is_full.then_some(())
        });
    }

    /// The clients go; new ones are served, also after a reload.
    #[track_caller]
    fn expect_no_harm(mut self, workers: usize) {
        self.clients.clear();
        self.expect_service();
        let reloads = self.cluster.log_text().matches("reloaded").count();
        self.cluster.signal(Signal::SIGHUP);
        self.cluster.wait_until("the reload", |cluster| {
            (cluster.log_text().matches("reloaded").count() > reloads && cluster.workers().len() == workers)
                .then_some(())
        });
        self.expect_service();
        self.cluster.signal(Signal::SIGTERM);
        self.cluster.expect_exit(0);
    }

    #[track_caller]
    fn expect_service(&self) {
        for newcomer in 0..NEWCOMERS {
            let answer = http::get(self.address, "/who").unwrap_or_else(|error| panic!("newcomer {newcomer}: {error}"));
            assert_eq!(answer.status, 200);
        }
    }
}
