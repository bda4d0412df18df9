//! The example `sessions`: a client's session, kept in Redis, at whichever worker it comes to.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::killpg;
use support::http::Connection;
use support::scratch::Scratch;
use support::{Cluster, DEADLINE, Launch, Signal, example_beside, send};

/// A Redis of this test alone, on a Unix socket and with nothing on disk. Dropped, it is killed.
struct Redis {
    server: Child,
    directory: Scratch,
}

impl Redis {
    /// `None`, and loudly, where it is not installed.
    fn start() -> Option<Self> {
        let directory = Scratch::new();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--loglevel", "warning", "--dir"]);
        command.arg(directory.path("")).arg("--unixsocket").arg(directory.path("socket")).stdout(Stdio::null());
        match command.spawn() {
            Ok(server) => {
                wait_until("Redis", || UnixStream::connect(directory.path("socket")).is_ok());
                Some(Self { server, directory })
            }
            Err(error) => {
                support::skip(&format!("redis-server cannot be started ({error}): apt-get install redis-server"));
                None
            }
        }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.directory.path("socket").display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn launch(redis_url: &str) -> Launch {
    Cluster::of(&example_beside("example-sessions")).env("ADDR", "127.0.0.1:0").env("REDIS_URL", redis_url)
}

/// A client with a cookie, as a browser is one.
#[derive(Default)]
struct Client {
    cookie: Option<String>,
    visits: u64,
}

impl Client {
    /// Visits by a new connection, checks that the visit is counted, and returns the worker.
    #[track_caller]
    fn visit(&mut self, address: SocketAddr) -> u64 {
        let cookie = self.cookie.iter().map(|cookie| format!("cookie: {cookie}")).collect::<Vec<_>>();
        let headers = cookie.iter().map(String::as_str).collect::<Vec<_>>();
        let answer = Connection::open(address).unwrap().request("GET /", &headers, "").unwrap();
        if let Some(cookie) = answer.header("set-cookie") {
            self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        }
        let (visits, rest) = answer.body.strip_prefix("visit ").unwrap().split_once(" at worker ").unwrap();
        self.visits += 1;
        assert_eq!(visits, self.visits.to_string(), "{answer:?}");
        rest.split([',', '\n']).next().unwrap().parse().unwrap()
    }

    /// Visits until each of these workers has served it.
    #[track_caller]
    fn visit_each(&mut self, address: SocketAddr, workers: &[u64]) {
        for worker in workers {
            wait_until(&format!("worker {worker}"), || self.visit(address) == *worker);
        }
    }
}

#[test]
fn a_session_that_one_worker_began_is_continued_by_every_other_one() {
    let Some(redis) = Redis::start() else { return };
    let mut cluster = launch(&redis.url()).workers(3).start();
    let address = cluster.wait_ready();
    let (mut one, mut other) = (Client::default(), Client::default());
    one.visit(address);
    for _ in 0..2 {
        one.visit_each(address, &[1, 2, 3]);
        other.visit_each(address, &[3, 2, 1]);
    }
    assert_ne!(one.cookie, other.cookie, "each has a session of its own");
    let cookie = format!("cookie: {}", one.cookie.clone().unwrap());
    let forgotten = Connection::open(address).unwrap().request("GET /forget", &[&cookie], "").unwrap();
    assert_eq!(forgotten.body, "forgotten\n");
    // The cookie of old means nothing to any worker.
    one.visits = 0;
    one.visit(address);
    assert_ne!(format!("cookie: {}", one.cookie.clone().unwrap()), cookie);
    other.visit(address);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_session_outlives_the_workers_that_have_served_it() {
    let Some(redis) = Redis::start() else { return };
    let mut cluster = launch(&redis.url()).workers(2).start();
    let address = cluster.wait_ready();
    let mut client = Client::default();
    client.visit_each(address, &[1, 2]);
    // A crash.
    let before = cluster.wait_for_workers(2);
    before.iter().for_each(|worker| send(*worker, Signal::SIGKILL));
    client.visit_each(address, &[3, 4]);
    // A reload.
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: all workers are of generation 2");
    client.visit_each(address, &[5, 6]);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn without_redis_the_example_does_not_start_and_says_what_to_do() {
    let nowhere = Scratch::new();
    let url = format!("unix://{}", nowhere.path("none").display());
    let mut cluster = launch(&url).workers(1).start();
    let line = cluster.wait_for("no Redis at unix://");
    assert!(line.contains(": start one with examples/sessions.sh, or name another by REDIS_URL"), "{line}");
    cluster.expect_exit(3);
}

/// Ctrl-C reaches all that a terminal shows: bash, the example, and not Redis.
#[test]
fn the_script_brings_a_redis_of_its_own_which_ends_after_the_example() {
    if Redis::start().is_none() {
        return;
    }
    let script = format!("{}/../examples/sessions.sh", env!("CARGO_MANIFEST_DIR"));
    let place = Scratch::new();
    let temporary = place.path("");
    let mut cluster = Cluster::of(&script)
        .args([&example_beside("example-sessions")])
        .workers(2)
        .env("ADDR", "127.0.0.1:0")
        .env("TMPDIR", temporary.to_str().unwrap())
        .with(|command| _ = command.process_group(0))
        .start();
    let address = cluster.wait_ready();
    Client::default().visit_each(address, &[1, 2]);
    killpg(cluster.primary(), Signal::SIGINT).unwrap();
    cluster.wait_exit();
    cluster.expect_nothing_left();
    assert_eq!(fs::read_dir::<&Path>(&temporary).unwrap().count(), 0, "nothing is left on disk");
    assert!(!cluster.log_text().contains("out of reach"), "{}", cluster.log_text());
}
