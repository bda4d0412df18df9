//! One worker does one thing to what it holds; then it dies; then the cluster reloads. It costs nobody else anything.
//!
//! Each row of the fixture's table is tried on each kind of port, in a cluster of its own. All of it takes some time:
//! `CLUSTER_HOSTILE=all CLUSTER_HOSTILE_TABLE=benches/results/hostile.md cargo test -p tests --test hostility`. Without the first variable a
//! selection runs; with other texts in its place, with `|` between, the acts and kinds whose
//! names contain one of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::unistd::Pid;
use socket2::{Domain, SockAddr, Socket, Type};
use support::http::Connection;
use support::scratch::Scratch;
use support::who::{self, Who};
use support::{Cluster, DEADLINE, Signal, send};

const HOSTILITY: &str = env!("CARGO_BIN_EXE_hostility");

/// New clients after each stage.
const CLIENTS: usize = 30;
/// How long each of them waits.
const PATIENCE: Duration = Duration::from_secs(8);
/// What a stage of the worker's life may take before it counts as a failure.
const STAGE: Duration = DEADLINE;
/// What the primary may spend in a second without work, in hundredths of it.
const IDLE_TICKS: u64 = 2;

#[test]
fn whatever_one_worker_does_to_what_it_holds_costs_one_worker() {
    let acts = acts();
    let wanted = std::env::var("CLUSTER_HOSTILE").ok();
    let cells = selection(&acts, wanted.as_deref());
    let rows = run_all(&acts, cells);
    let table = markdown(&acts, &rows);
    if let Ok(path) = std::env::var("CLUSTER_HOSTILE_TABLE") {
        fs::write(path, &table).expect("the table can be written");
    }
    let failed: Vec<_> = rows.iter().filter(|(_, row)| !row.faults(None).is_empty()).collect();
    let told: String = failed.iter().fold(String::new(), |mut told, ((act, kind), row)| {
        let Act { on, call, cost, .. } = &acts[*act];
        _ = writeln!(told, "{on}: {call}; {}: {}", KINDS[*kind].name, row.faults(cost.as_deref()).join(", "));
        told
    });
    let is_mended =
        |act: usize, row: &Row| gap(&acts[act]).is_some() || row.faults(acts[act].cost.as_deref()).is_empty();
    let is_right = rows.iter().all(|((act, _), row)| is_mended(*act, row));
    assert!(is_right, "{told}");
}

/// A row of the fixture's table.
struct Act {
    on: String,
    call: String,
    /// Why it may cost connections while the worker lives.
    cost: Option<String>,
}

fn acts() -> Vec<Act> {
    let list = Command::new(HOSTILITY).arg("list").output().expect("the fixture starts").stdout;
    let list = String::from_utf8(list).unwrap();
    let act = |line: &str| {
        let [_, on, call, cost] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        Act { on: on.into(), call: call.into(), cost: Some(cost.to_owned()).filter(|cost| !cost.is_empty()) }
    };
    list.lines().map(act).collect()
}

/// A way to serve.
struct Kind {
    name: &'static str,
    at: At,
    env: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Tcp,
    TwoPorts,
    Udp,
    UnixPath,
    UnixAbstract,
    Inherited,
}

const KINDS: [Kind; 10] = [
    Kind { name: "balanced", at: At::Tcp, env: &[] },
    Kind { name: "kernel", at: At::Tcp, env: &[("CLUSTER_DISPATCH", "kernel")] },
    Kind { name: "round-robin", at: At::Tcp, env: &[("CLUSTER_DISPATCH", "round-robin")] },
    Kind { name: "sticky address", at: At::Tcp, env: &[("CLUSTER_DISPATCH", "sticky")] },
    Kind { name: "sticky cookie", at: At::Tcp, env: &[("COOKIE", "session")] },
    Kind { name: "two ports", at: At::TwoPorts, env: &[] },
    Kind { name: "UDP beside", at: At::Udp, env: &[] },
    Kind { name: "Unix path", at: At::UnixPath, env: &[] },
    Kind { name: "Unix abstract", at: At::UnixAbstract, env: &[] },
    Kind { name: "inherited", at: At::Inherited, env: &[] },
];

/// An act and a kind, by their places.
type Cell = (usize, usize);

fn selection(acts: &[Act], wanted: Option<&str>) -> Vec<Cell> {
    let all = (0..acts.len()).flat_map(|act| (0..KINDS.len()).map(move |kind| (act, kind)));
    match wanted {
        Some("all") => all.collect(),
        Some(parts) => {
            let has = |(act, kind): &Cell| {
                let name = format!("{}: {}; {}", acts[*act].on, acts[*act].call, KINDS[*kind].name);
                parts.split('|').any(|part| name.contains(part))
            };
            all.filter(has).collect()
        }
        // A stride over the acts, which visits all kinds in turn. Datagrams can be lost anyway, so they are tried by hand.
        None => (0..acts.len())
            .step_by(STRIDE)
            .filter(|act| acts[*act].on != "UDP socket")
            .map(|act| (act, kind_for(&acts[act], act)))
            .collect(),
    }
}

/// Of so many acts one is tried without being asked for.
const STRIDE: usize = 7;

/// The kinds take turns, but for what only one of them has.
fn kind_for(act: &Act, number: usize) -> usize {
    if act.on == "UDP socket" { 6 } else { number * 3 % KINDS.len() }
}

/// What is not mended yet: it is tried and stands in the table, and is no failure of the test.
const GAPS: [(&str, &str); 3] = [
    ("SIGSTOP, of", "a worker that is stopped while it sleeps keeps its share until it goes on"),
    ("ptrace ATTACH", "a worker that is traced keeps its share until it goes on"),
    ("TCP_MD5SIG", "keys cannot be read back, so nothing shows that there are any"),
];

/// Why this act may cost anything at all.
fn gap(act: &Act) -> Option<&'static str> {
    GAPS.iter().find(|(name, _)| act.call.contains(name)).map(|(_, why)| *why)
}

/// What came of one cell.
#[derive(Default)]
struct Row {
    /// What the worker answered: `done` and to how many things, `failed`, `none`, or nothing.
    act: String,
    /// After the act, the death, and the reload: so many clients were answered.
    answered: [Option<usize>; 3],
    wrong: Vec<String>,
}

impl Row {
    /// Of a cluster that never served.
    fn broken() -> Self {
        Self { wrong: vec!["it did not even begin".into()], ..Self::default() }
    }

    fn faults(&self, cost: Option<&str>) -> Vec<String> {
        let stages = ["after the act", "after its death", "after the reload"];
        let stages = stages.iter().zip(self.answered).skip(usize::from(cost.is_some()));
        let short = stages.filter_map(|(stage, answered)| {
            answered.filter(|answered| *answered < CLIENTS).map(|answered| format!("{answered}/{CLIENTS} {stage}"))
        });
        short.chain(self.wrong.iter().cloned()).collect()
    }
}

fn run_all(acts: &[Act], cells: Vec<Cell>) -> BTreeMap<Cell, Row> {
    let at_once = std::env::var("CLUSTER_HOSTILE_AT_ONCE").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let (cells, rows) = (Mutex::new(cells.into_iter()), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some((act, kind)) = cells.lock().unwrap().next() else { return };
                    let row = std::panic::catch_unwind(|| Scene::set(&KINDS[kind]).run(act, &acts[act].call));
                    let row = row.unwrap_or_else(|_| Row::broken());
                    let faults = row.faults(acts[act].cost.as_deref());
                    if !faults.is_empty() {
                        let Act { on, call, .. } = &acts[act];
                        eprintln!("{on}: {call}; {} ({}): {}", KINDS[kind].name, row.act, faults.join(", "));
                    }
                    rows.lock().unwrap().insert((act, kind), row);
                }
            });
        }
    });
    rows.into_inner().unwrap()
}

/// Where a client goes.
#[derive(Clone, Debug)]
enum Target {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(SockAddr),
}

/// A cluster of three workers, of which one is going to do it.
struct Scene {
    cluster: Cluster,
    targets: Vec<Target>,
    descriptors: usize,
    /// How many more the primary may have in the end.
    spare_descriptors: usize,
    _files: Scratch,
}

impl Scene {
    fn set(kind: &Kind) -> Self {
        let files = Scratch::new();
        let path = files.path("socket");
        let mut launch = match kind.at {
            At::Inherited => {
                let socket = TcpListener::bind("127.0.0.1:0").unwrap();
                let command = format!("exec 3<&0 </dev/null; exec {HOSTILITY} serve");
                Cluster::of("sh").args(["-c", &command]).env("ADDR", "fd:3").with(|command| {
                    command.stdin(std::os::fd::OwnedFd::from(socket));
                })
            }
            At::UnixPath => Cluster::of(HOSTILITY).args(["serve"]).env("ADDR", &format!("unix:{}", path.display())),
            At::UnixAbstract => Cluster::of(HOSTILITY).args(["serve"]).env("ADDR", &abstract_name(&path)),
            At::TwoPorts => Cluster::of(HOSTILITY).args(["serve"]).env("SECOND_ADDR", "127.0.0.1:0"),
            At::Udp => Cluster::of(HOSTILITY).args(["serve"]).env("UDP_ADDR", "127.0.0.1:0"),
            At::Tcp => Cluster::of(HOSTILITY).args(["serve"]),
        };
        for (name, value) in kind.env {
            launch = launch.env(name, value);
        }
        let mut cluster = launch.env("CLUSTER_GRACE", "3s").env("CLUSTER_START_TIMEOUT", "10s").start();
        let line = cluster.wait_for(" workers ready on ");
        let targets = match kind.at {
            At::UnixPath => vec![Target::Unix(SockAddr::unix(&path).unwrap())],
            At::UnixAbstract => vec![Target::Unix(SockAddr::unix(format!("\0{}", path.display())).unwrap())],
            _ => targets(&line, &cluster.log_text()),
        };
        let descriptors = descriptors(cluster.primary());
        Self { cluster, targets, descriptors, spare_descriptors: 0, _files: files }
    }

    fn run(mut self, act: usize, call: &str) -> Row {
        let mut row = Row::default();
        if call.contains("Listen for 1000 ports") {
            // What was granted stays: a cluster has 64 ports at most, each with a socket for each slot.
            self.spare_descriptors = 64 * 3;
        }
        let victim = self.have_it_done(act, &mut row);
        if row.act == "none" || row.act.starts_with("failed") {
            // Nothing has happened.
            return row;
        }
        row.answered[0] = Some(self.answered());
        if self.cluster.workers().contains(&victim.pid) {
            send(victim.pid, Signal::SIGKILL);
        }
        self.wait(&mut row, "no replacement", |log| {
            log.contains(&format!("Exited(WorkerId({}),", victim.id)) && serving(log) == 3
        });
        row.answered[1] = Some(self.answered());
        self.cluster.signal(Signal::SIGHUP);
        self.wait(&mut row, "no reload", |log| log.contains("reloaded") && serving(log) == 3);
        row.answered[2] = Some(self.answered());
        self.expect_rest(&mut row);
        self.expect_end(&mut row);
        if !row.faults(None).is_empty() && std::env::var_os("CLUSTER_HOSTILE_LOGS").is_some() {
            eprintln!("{}", self.cluster.log_text());
        }
        row
    }

    fn have_it_done(&self, act: usize, row: &mut Row) -> Who {
        let stream = self.targets[0].connect(0, DEADLINE).expect("it listens");
        let mut kept = Connection::over(stream.try_clone().expect("a second descriptor"));
        let victim = who::parse(&kept.get("/who").expect("it serves").body);
        stream.wait_at_most(Duration::from_secs(2));
        row.act = match kept.get(&format!("/act/{act}")) {
            Ok(answer) => answer.body,
            Err(_) => "no answer".into(),
        };
        victim
    }

    /// How many of the new clients are.
    fn answered(&self) -> usize {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let target = &self.targets[client % self.targets.len()];
                    scope.spawn(move || target.is_answered(client))
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).filter(|answered| *answered).count()
        })
    }

    fn wait(&mut self, row: &mut Row, wrong: &str, is_so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + STAGE;
        while !is_so(&self.cluster.log_text()) {
            if Instant::now() > deadline {
                row.wrong.push(wrong.into());
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The primary comes to rest, with nothing that it did not have before.
    fn expect_rest(&mut self, row: &mut Row) {
        let primary = self.cluster.primary();
        let deadline = Instant::now() + STAGE;
        loop {
            let before = ticks(primary);
            // What is looked for is that nothing happens; so this is how long one looks.
            thread::sleep(Duration::from_secs(1));
            let spent = ticks(primary) - before;
            let more = descriptors(primary).saturating_sub(self.descriptors + self.spare_descriptors);
            let zombies = zombies(primary);
            if spent <= IDLE_TICKS && more == 0 && zombies == 0 {
                return;
            }
            if Instant::now() > deadline {
                row.wrong
                    .push(format!("in a second of rest: {spent} ticks, {more} descriptors more, {zombies} zombies"));
                return;
            }
        }
    }

    fn expect_end(&mut self, row: &mut Row) {
        self.cluster.signal(Signal::SIGTERM);
        let deadline = Instant::now() + STAGE;
        while !self.cluster.workers().is_empty() || !is_over(self.cluster.primary()) {
            if Instant::now() > deadline {
                row.wrong.push("TERM is not obeyed".into());
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let code = self.cluster.wait_exit().code();
        if code != Some(0) {
            row.wrong.push(format!("TERM ends with code {code:?}"));
        }
        // Not by an attempt to bind: connections that have ended hold a port for a minute, if they were accepted without SO_REUSEADDR.
        if self.targets.iter().any(|target| target.connect(0, PATIENCE).is_ok() && matches!(target, Target::Tcp(_))) {
            row.wrong.push("the port is still served".into());
        }
    }
}

/// Workers that have become ready and not ended.
fn serving(log: &str) -> usize {
    let ended = |id: &str| log.contains(&format!("Exited(WorkerId({id}),"));
    let ready = log.lines().filter_map(|line| line.strip_prefix("Ready(WorkerId(")?.strip_suffix("))"));
    ready.filter(|id| !ended(id)).count()
}

fn abstract_name(path: &std::path::Path) -> String {
    format!("unix:@{}", path.display())
}

/// From the line that says where it serves. The line does not tell UDP from TCP; the fixture has printed what is UDP.
fn targets(line: &str, log: &str) -> Vec<Target> {
    let places = line.split(" ready on ").nth(1).unwrap().split(';').next().unwrap();
    let target = |place: &str| {
        let address = place.trim().parse().unwrap_or_else(|_| panic!("no address: {line:?}"));
        if log.contains(&format!("datagrams go to {address}")) { Target::Udp(address) } else { Target::Tcp(address) }
    };
    let mut targets: Vec<_> = places.split(',').map(target).collect();
    targets.sort_by_key(|target| matches!(target, Target::Udp(_)));
    targets
}

/// A connection of either kind.
trait Client: io::Read + io::Write {
    fn wait_at_most(&self, time: Duration);
}

impl Client for Socket {
    fn wait_at_most(&self, time: Duration) {
        self.set_read_timeout(Some(time)).unwrap();
        self.set_write_timeout(Some(time)).unwrap();
    }
}

impl Target {
    /// Each client of the network has an address of its own.
    fn connect(&self, client: usize, patience: Duration) -> io::Result<Socket> {
        let address = match self {
            Self::Tcp(address) | Self::Udp(address) => SockAddr::from(*address),
            Self::Unix(address) => address.clone(),
        };
        let kind = if matches!(self, Self::Udp(_)) { Type::DGRAM } else { Type::STREAM };
        let socket = Socket::new(address.domain(), kind, None)?;
        if address.domain() == Domain::IPV4 {
            let own: SocketAddr = ([127, 0, 1, 1 + client as u8], 0).into();
            socket.bind(&own.into())?;
        }
        socket.wait_at_most(patience);
        if kind == Type::STREAM && address.domain() == Domain::IPV4 {
            socket.connect_timeout(&address, patience)?;
        } else {
            socket.connect(&address)?;
        }
        Ok(socket)
    }

    fn is_answered(&self, client: usize) -> bool {
        let Ok(socket) = self.connect(client, PATIENCE) else { return false };
        if matches!(self, Self::Udp(_)) {
            let socket = UdpSocket::from(socket);
            let mut answer = [0; 16];
            return socket.send(b"datagram").is_ok() && matches!(socket.recv(&mut answer), Ok(8));
        }
        let request =
            format!("GET /who HTTP/1.1\r\nhost: test\r\ncookie: session={client}\r\nconnection: close\r\n\r\n");
        let mut connection = Connection::over(socket);
        let answer = connection.send(&request).and_then(|()| connection.answer());
        answer.is_ok_and(|answer| answer.status == 200 && answer.body.split(' ').count() == 4)
    }
}

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// What a process has spent of the CPU, in hundredths of a second.
fn ticks(pid: Pid) -> u64 {
    let fields = stat(pid);
    fields.get(11..13).map_or(0, |times| times.iter().filter_map(|time| time.parse::<u64>().ok()).sum())
}

fn is_over(pid: Pid) -> bool {
    stat(pid).first().is_none_or(|state| state == "Z")
}

/// Children that have ended and that nobody has reaped.
fn zombies(parent: Pid) -> usize {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let fields = pids.map(|pid| stat(Pid::from_raw(pid)));
    fields.filter(|fields| fields.len() > 1 && fields[0] == "Z" && fields[1] == parent.to_string()).count()
}

/// From the state on; see proc_pid_stat(5).
fn stat(pid: Pid) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// One line for each act, one column for each kind: after the act, after the death, after the reload.
fn markdown(acts: &[Act], rows: &BTreeMap<Cell, Row>) -> String {
    let mut text = String::from("| on | call |");
    KINDS.iter().for_each(|kind| _ = write!(text, " {} |", kind.name));
    text += "\n| --- | --- |";
    KINDS.iter().for_each(|_| text += " --- |");
    for (number, act) in acts.iter().enumerate() {
        if !rows.keys().any(|(act, _)| *act == number) {
            continue;
        }
        let star = if gap(act).is_some() {
            " †"
        } else if act.cost.is_some() {
            " *"
        } else {
            ""
        };
        _ = write!(text, "\n| {} | {}{star} |", act.on, act.call);
        for kind in 0..KINDS.len() {
            _ = write!(text, " {} |", rows.get(&(number, kind)).map_or_else(String::new, cell));
        }
    }
    text += "\n\nEach cell: of 30 new clients so many were answered after the act, after the worker's death, after a reload. `–`: the worker \
             holds nothing of the kind. `refused`: the kernel does not do it.\n";
    for (name, why) in GAPS {
        _ = writeln!(text, "† {name}: {why}.");
    }
    for act in acts.iter().filter(|act| act.cost.is_some()) {
        _ = writeln!(text, "\\* {}: {}: {}.", act.on, act.call, act.cost.as_deref().unwrap_or_default());
    }
    text
}

fn cell(row: &Row) -> String {
    match row.act.as_str() {
        "none" => return "–".into(),
        failed if failed.starts_with("failed") => return "refused".into(),
        _ => {}
    }
    let numbers = row.answered.map(|answered| answered.map_or_else(|| "?".into(), |answered| answered.to_string()));
    let mut text = numbers.join(" ");
    row.wrong.iter().for_each(|wrong| _ = write!(text, "; {wrong}"));
    text
}
