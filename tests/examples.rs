//! The examples, as a user gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::Instant;
use std::{fs, thread};

use support::http::{self, Connection};
use support::scratch::Scratch;
use support::{Cluster, DEADLINE, Signal};

const CACHE: &str = env!("CARGO_BIN_EXE_example-cache");
const COUNTER: &str = env!("CARGO_BIN_EXE_example-counter");
const HANDOVER: &str = env!("CARGO_BIN_EXE_example-handover");
const HELLO: &str = env!("CARGO_BIN_EXE_example-hello");
const REPORT: &str = env!("CARGO_BIN_EXE_example-report");
const SHARED_STATE: &str = env!("CARGO_BIN_EXE_example-shared-state");

fn example(program: &str, workers: usize) -> Cluster {
    Cluster::of(program).workers(workers).env("ADDR", "127.0.0.1:0").start()
}

/// The one line that a user sees, with all that is needed to try it.
#[test]
fn each_says_in_one_line_where_it_listens_and_how_to_try_it() {
    for program in [COUNTER, HELLO, REPORT, SHARED_STATE] {
        let mut cluster = example(program, 2);
        let address = cluster.wait_ready();
        let line = format!("cluster: 2 workers ready on {address}; try: curl http://{address}/");
        let greeting = http::body(address, "/");
        assert!(greeting.starts_with("hello from worker "), "{greeting:?}");
        assert!(parse_greeting(&greeting).is_some(), "{greeting:?}");
        assert_eq!(http::get(address, "/nowhere").unwrap().status, 404);
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
        let log = cluster.log_text();
        assert_eq!(log.lines().next(), Some(line.as_str()), "{log}");
        assert_eq!(log.matches(" ready").count(), 1, "{log}");
    }
}

#[test]
fn each_starts_one_worker_per_core_where_nothing_else_is_said() {
    let cores = thread::available_parallelism().unwrap().get();
    let workers = if cores == 1 { "1 worker".to_owned() } else { format!("{cores} workers") };
    for program in [COUNTER, HELLO, REPORT, SHARED_STATE] {
        let mut cluster = Cluster::of(program).env("ADDR", "127.0.0.1:0").start();
        cluster.wait_for(&format!("cluster: {workers} ready on 127.0.0.1:"));
    }
}

#[test]
fn each_listens_where_it_is_told_and_a_second_one_there_fails_clearly() {
    for program in [COUNTER, HELLO, REPORT, SHARED_STATE] {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let start = |workers| Cluster::of(program).workers(workers).env("ADDR", &free.to_string()).start();
        let mut first = start(2);
        assert_eq!(first.wait_ready(), free);
        // One worker, as the words of two would mingle.
        let mut second = start(1);
        second.wait_for(&format!("Error: cannot listen on {free}: Address already in use"));
        second.expect_exit(3);
        assert!(http::body(free, "/").starts_with("hello from worker "));
        first.signal(Signal::SIGTERM);
        first.expect_exit(0);
    }
}

#[test]
fn hello_is_healthy_while_it_serves() {
    let mut cluster = example(HELLO, 2);
    let address = cluster.wait_ready();
    assert_eq!(http::get(address, "/healthz").unwrap().status, 200);
}

/// Whoever stops the app waits until it has ended, and what it is told is known to it.
#[test]
fn the_files_for_a_deployment_use_settings_that_exist_and_times_that_fit_into_each_other() {
    let read = |name: &str| fs::read_to_string(format!("{}/../{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let documented = read("README.md");
    for (name, patience) in [("app.service", "TimeoutStopSec="), ("kubernetes.yaml", "terminationGracePeriodSeconds:")]
    {
        let text = read(&format!("examples/deploy/{name}"));
        let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let seconds = |key: &str| -> u64 {
            let line = lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("no {key} in {name}"));
            let rest = line.split_once(key).unwrap().1.trim_start_matches(|c: char| !c.is_ascii_digit());
            rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let stop = seconds("CLUSTER_DRAIN_DELAY") + seconds("CLUSTER_GRACE");
        assert!(seconds(patience) > stop, "{name}: {} s for a stop of {stop} s", seconds(patience));
        let words = text.split(|c: char| c != '_' && !c.is_ascii_uppercase());
        for setting in words.filter(|word| word.starts_with("CLUSTER_")) {
            assert!(documented.contains(&format!("| `{setting}` ")), "{name} names {setting}");
        }
    }
}

/// Node's counting example: thousands of requests, and the primary's total is exact.
#[test]
fn the_counter_counts_every_request_of_every_worker() {
    const CLIENTS: usize = 32;
    const EACH: usize = 125;
    let mut cluster = example(COUNTER, 4);
    let pids = cluster.wait_for_workers(4);
    let address = cluster.wait_ready();
    let start = Barrier::new(CLIENTS);
    let answers: Vec<String> = thread::scope(|scope| {
        // One half keeps its connections, the other makes one for each request.
        let client = |number: usize| {
            let start = &start;
            move || {
                start.wait();
                if number.is_multiple_of(2) { ask_on_one_connection(address, EACH) } else { ask_on_many(address, EACH) }
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let mut by_worker = BTreeMap::<(u64, i32), usize>::new();
    for answer in &answers {
        let who = parse_greeting(answer).unwrap_or_else(|| panic!("{answer:?}"));
        *by_worker.entry(who).or_default() += 1;
    }
    assert_eq!(answers.len(), CLIENTS * EACH);
    let ids: BTreeSet<u64> = by_worker.keys().map(|(id, _)| *id).collect();
    assert_eq!(ids, BTreeSet::from([1, 2, 3, 4]), "every worker took part: {by_worker:?}");
    assert!(by_worker.keys().all(|(_, pid)| pids.iter().any(|known| known.as_raw() == *pid)), "{by_worker:?}");
    // A worker answers when its hit is on its way; the total is asked for through another one and may come first.
    let total = || http::body(address, "/total").parse::<usize>().unwrap();
    cluster.wait_until("the total", |_| {
        let total = total();
        assert!(total <= answers.len(), "{total} is more than there were");
        (total == answers.len()).then_some(())
    });
    cluster.wait_for(&format!("{} requests", answers.len()));
    // Quiet: nothing changes, so nothing is printed. The next line must be that of the next request.
    let quiet = Instant::now();
    cluster.wait_until("two quiet seconds", |_| (quiet.elapsed().as_millis() > 2200).then_some(()));
    _ = http::body(address, "/");
    cluster.wait_for(&format!("{} requests", answers.len() + 1));
    cluster.signal(Signal::SIGTERM);
    cluster.wait_for(&format!("{} requests in all", answers.len() + 1));
    cluster.expect_exit(0);
    let log = cluster.log_text();
    let totals: Vec<&str> = log.lines().filter(|line| line.ends_with(" requests")).collect();
    assert!(totals.is_sorted_by_key(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap()), "{log}");
    let different: BTreeSet<&&str> = totals.iter().collect();
    assert_eq!(different.len(), totals.len(), "a total is printed once: {log}");
}

fn ask_on_one_connection(address: SocketAddr, count: usize) -> Vec<String> {
    let mut connection = Connection::open(address).unwrap();
    let mut ask = || {
        let answer = connection.get("/").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    (0..count).map(|_| ask()).collect()
}

fn ask_on_many(address: SocketAddr, count: usize) -> Vec<String> {
    (0..count).map(|_| http::body(address, "/")).collect()
}

/// The id and the process id in `hello from worker 2 (pid 812)`.
fn parse_greeting(greeting: &str) -> Option<(u64, i32)> {
    let (id, pid) = greeting.strip_prefix("hello from worker ")?.strip_suffix(")\n")?.split_once(" (pid ")?;
    Some((id.parse().ok()?, pid.parse().ok()?))
}

/// A worker that computes keeps none of the others from answering.
#[test]
fn while_one_worker_makes_a_report_another_answers() {
    let mut cluster = example(REPORT, 2);
    let address = cluster.wait_ready();
    // Connections that are known to be at one worker each.
    let mut connections = BTreeMap::new();
    while connections.len() < 2 {
        let mut connection = Connection::open(address).unwrap();
        let (id, _) = parse_greeting(&connection.get("/").unwrap().body).unwrap();
        connections.insert(id, connection);
    }
    let mut heavy = connections.remove(&1).unwrap();
    let mut light = connections.remove(&2).unwrap();
    for _ in 0..5 {
        heavy.send_get("/generate-report").unwrap();
        let report = thread::scope(|scope| {
            let report = scope.spawn(|| heavy.answer().unwrap().body);
            let mut meanwhile = 0;
            while !report.is_finished() {
                assert!(light.get("/").unwrap().body.starts_with("hello from worker 2 "));
                meanwhile += 1;
            }
            assert!(meanwhile > 5, "only {meanwhile} light answers while a report was made");
            report.join().unwrap()
        });
        assert!(report.starts_with("report by worker 1: the first "), "{report:?}");
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// Which worker has answered, what, and where it has found that.
fn parse_found(found: &str) -> (String, String, String) {
    let words: Vec<&str> = found.trim_end().trim_end_matches(')').splitn(6, ' ').collect();
    let [value, "(worker", worker, "found", "it", place] = words[..] else { panic!("{found:?}") };
    (worker.into(), value.into(), place.into())
}

#[test]
fn what_one_worker_is_told_to_change_all_others_forget() {
    let data = Scratch::new();
    let launch = Cluster::of(CACHE).workers(2).env("ADDR", "127.0.0.1:0");
    let mut cluster = launch.env("DATA", data.path("values").to_str().unwrap()).start();
    let address = cluster.wait_ready();
    let change = |value: &str| {
        let mut connection = Connection::open(address).unwrap();
        let head = format!("PUT /greeting HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", value.len());
        connection.send(&(head + value)).unwrap();
        let answer = connection.answer().unwrap();
        assert!(answer.body.ends_with(" told 1 others\n"), "{answer:?}");
    };
    assert_eq!(http::get(address, "/greeting").unwrap().status, 404);
    assert_eq!(http::get(address, "/..%2Fgreeting").unwrap().status, 400);
    change("hello");
    let mut connections = BTreeMap::new();
    while connections.len() < 2 {
        let mut connection = Connection::open(address).unwrap();
        let (worker, ..) = parse_found(&connection.get("/greeting").unwrap().body);
        connections.insert(worker, connection);
    }
    let mut ask = move || {
        let answers = connections.values_mut().map(|connection| connection.get("/greeting").unwrap().body);
        answers.map(|found| parse_found(&found)).map(|(_, value, place)| (value, place)).collect::<BTreeSet<_>>()
    };
    let cached = |value: &str| BTreeSet::from([(value.to_owned(), "in its cache".to_owned())]);
    // Each may be told of the first change after it has read it.
    cluster.wait_until("both to have it in their caches", |_| (ask() == cached("hello")).then_some(()));
    change("goodbye");
    cluster.wait_until("both to have read it anew", |_| (ask() == cached("goodbye")).then_some(()));
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn handover_brings_all_clients_of_a_room_to_one_worker_whichever_accepts_them() {
    // It has as many workers as it says.
    let mut cluster = Cluster::of(HANDOVER).env("ADDR", "127.0.0.1:0").start();
    let address = cluster.wait_ready();
    let mut clients: Vec<_> = (0..20).map(|_| Chat::join(address, "green")).collect();
    let hosts: BTreeSet<_> = clients.iter_mut().map(Chat::line).collect();
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    assert!(hosts.first().unwrap().starts_with("hosted by worker "));
    clients[0].0.get_mut().write_all(b"hello\n").unwrap();
    for client in &mut clients {
        assert_eq!(client.line(), "hello");
    }
    cluster.signal(Signal::SIGTERM);
    for client in &mut clients {
        assert_eq!(client.line(), "goodbye");
    }
    cluster.expect_exit(0);
}

/// A client in a room.
struct Chat(BufReader<TcpStream>);

impl Chat {
    fn join(address: SocketAddr, room: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("{room}\n").as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}
