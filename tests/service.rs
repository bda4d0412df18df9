//! What the service manager hears: a socket of the test's stands in for systemd's.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use support::http::{self, Connection};
use support::release::Release;
use support::scratch::Scratch;
use support::{Cluster, DEADLINE, Launch, Signal, send};

const WEB: &str = env!("CARGO_BIN_EXE_web");
const STARTER: &str = env!("CARGO_BIN_EXE_starter");
const PLACEMENT: &str = env!("CARGO_BIN_EXE_placement");
const RENEWAL: &str = env!("CARGO_BIN_EXE_renewal");

/// The fake manager.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _scratch: Option<Scratch>,
}

impl Manager {
    fn with_path() -> Self {
        let scratch = Scratch::new();
        let path = scratch.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, name: path.to_str().unwrap().to_owned(), _scratch: Some(scratch) }
    }

    fn with_abstract_name() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("cluster-notify-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let socket = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        Self { socket, name: format!("@{name}"), _scratch: None }
    }

    /// A cluster of two workers that this manager has started.
    fn start(&self, program: &str) -> Launch {
        Cluster::of(program).workers(2).env("NOTIFY_SOCKET", &self.name)
    }

    /// The next word within `time`.
    fn word_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(len) => Some(String::from_utf8(buffer[..len].to_vec()).unwrap().trim_end().to_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Takes words until `wanted`, and returns those before it.
    #[track_caller]
    fn wait_for(&self, wanted: &str) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        let mut before = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match self.word_within(left) {
                Some(word) if word == wanted => return before,
                Some(word) => before.push(word),
                None => panic!("waited in vain for {wanted:?}; heard {before:?}"),
            }
        }
    }

    /// The next word that is neither a ping nor a status.
    #[track_caller]
    fn word(&self) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let word = self.word_within(DEADLINE).expect("a word comes");
            if word != PING && !word.starts_with("STATUS=") {
                return word;
            }
            assert!(Instant::now() < deadline, "nothing but pings and statuses");
        }
    }

    /// A reload is told with the moment of it, which lies after `begin`.
    #[track_caller]
    fn expect_reloading(&self, begin: Duration) {
        let word = self.word();
        let time = word.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|time| time.parse().ok());
        let time = Duration::from_micros(time.unwrap_or_else(|| panic!("{word:?} instead of a reload")));
        // Its own clock cuts what is less than a microsecond.
        assert!(begin <= time + Duration::from_micros(1) && time <= monotonic(), "{begin:?} {time:?}");
    }

    /// Forgets what has come so far.
    fn forget(&self) {
        while self.word_within(Duration::from_millis(1)).is_some() {}
    }
}

/// The clock that the manager compares with.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn readiness_is_told_once_when_every_worker_serves() {
    for manager in [Manager::with_path(), Manager::with_abstract_name()] {
        let address = free_address();
        let mut cluster = manager.start(WEB).env("ADDR", &address.to_string()).start();
        let before = manager.wait_for("READY=1");
        // At once, and without another try.
        assert_eq!(http::get(address, "/who").unwrap().status, 200);
        assert!(before.contains(&"STATUS=0 of 2 workers ready".to_owned()), "{before:?}");
        assert!(!before.contains(&"STATUS=2 workers ready".to_owned()), "{before:?}");
        assert_eq!(manager.word_within(DEADLINE).as_deref(), Some("STATUS=2 workers ready"));
        cluster.wait_ready();
        cluster.signal(Signal::SIGTERM);
        let after = manager.wait_for("STOPPING=1");
        assert!(after.is_empty(), "nothing has changed, so nothing is told: {after:?}");
        cluster.expect_exit(0);
    }
}

#[test]
fn readiness_is_told_although_a_worker_has_finished_without_being_ready() {
    let manager = Manager::with_path();
    let launch = manager.start(STARTER).args(["finish"]).env("FAIL_SLOT", "1").env("CLUSTER_RESTART", "never");
    let mut cluster = launch.start();
    manager.wait_for("READY=1");
    cluster.wait_for("finished (exit code 0); not restarted");
    cluster.wait_for_workers(1);
    cluster.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    cluster.expect_exit(0);
}

#[test]
fn a_start_that_fails_is_never_told_as_readiness() {
    let manager = Manager::with_path();
    let mut cluster = manager.start(STARTER).args(["exit-42"]).start();
    let before = manager.wait_for("STOPPING=1");
    assert!(!before.contains(&"READY=1".to_owned()), "{before:?}");
    cluster.expect_exit(3);
}

#[test]
fn the_status_shows_a_worker_that_is_missing_until_its_replacement_is_ready() {
    let manager = Manager::with_path();
    let mut cluster = manager.start(WEB).start();
    manager.wait_for("STATUS=2 workers ready");
    let victim = *cluster.wait_for_workers(2).first().unwrap();
    send(victim, Signal::SIGKILL);
    assert_eq!(manager.word_within(DEADLINE).as_deref(), Some("STATUS=1 of 2 workers ready"));
    assert_eq!(manager.word_within(DEADLINE).as_deref(), Some("STATUS=2 workers ready"));
}

#[test]
fn the_stop_is_told_when_it_begins() {
    let manager = Manager::with_path();
    let mut cluster = manager.start(WEB).start();
    let address = cluster.wait_ready();
    manager.wait_for("STATUS=2 workers ready");
    let mut endless = Connection::open(address).unwrap();
    endless.send_get("/endless").unwrap();
    endless.head().unwrap();
    cluster.signal(Signal::SIGTERM);
    assert_eq!(manager.word_within(DEADLINE).as_deref(), Some("STOPPING=1"));
    assert_eq!(manager.word_within(DEADLINE).as_deref(), Some("STATUS=stopping"));
    // Nothing has ended yet: who reads an endless answer holds its worker.
    assert!(endless.chunk().unwrap().is_some());
    drop(endless);
    cluster.expect_exit(0);
    assert_eq!(manager.word_within(Duration::from_millis(1)), None, "that was all");
}

#[test]
fn the_status_of_a_cluster_that_is_scaled_is_of_as_many_workers_as_are_wanted_now() {
    let manager = Manager::with_path();
    let mut cluster = manager.start(WEB).start();
    manager.wait_for("STATUS=2 workers ready");
    cluster.signal(Signal::SIGTTIN);
    assert_eq!(manager.word_within(DEADLINE).as_deref(), Some("STATUS=2 of 3 workers ready"));
    assert_eq!(manager.word_within(DEADLINE).as_deref(), Some("STATUS=3 workers ready"));
    cluster.signal(Signal::SIGTTOU);
    assert_eq!(manager.word_within(DEADLINE).as_deref(), Some("STATUS=2 workers ready"));
    cluster.wait_for_workers(2);
}

#[test]
fn a_reload_is_told_from_its_begin_to_its_end_also_when_it_is_abandoned() {
    let (manager, release) = (Manager::with_path(), Release::of(RENEWAL));
    let launch = manager.start(release.program().to_str().unwrap());
    let mut cluster = launch.env("MODE", release.mode().to_str().unwrap()).start();
    cluster.wait_ready();
    manager.wait_for("STATUS=2 workers ready");
    for (mode, end, successors) in [
        ("exit", "reload abandoned: ", 0),
        ("good second", "reloaded: all workers are of generation 3", 2),
        ("good third", "reloaded: all workers are of generation 4", 2),
    ] {
        release.set_mode(mode);
        let before = cluster.wait_for_workers(2);
        let begin = monotonic();
        cluster.signal(Signal::SIGHUP);
        manager.expect_reloading(begin);
        assert_eq!(manager.word(), "READY=1", "{mode}");
        // Not before it is over: the second successor comes when the first one is ready.
        assert_eq!(cluster.workers().difference(&before).count(), successors, "{mode}");
        cluster.wait_for(end);
    }
    cluster.signal(Signal::SIGTERM);
    assert_eq!(manager.word(), "STOPPING=1");
    cluster.expect_exit(0);
}

#[test]
fn a_stop_during_a_reload_is_told_and_nothing_after_it_says_that_the_service_is_ready() {
    let (manager, release) = (Manager::with_path(), Release::of(RENEWAL));
    let launch = manager.start(release.program().to_str().unwrap());
    let launch = launch.env("MODE", release.mode().to_str().unwrap()).env("CLUSTER_GRACE", "1s");
    let mut cluster = launch.start();
    cluster.wait_ready();
    manager.wait_for("STATUS=2 workers ready");
    release.set_mode("slow");
    cluster.signal(Signal::SIGHUP);
    manager.expect_reloading(Duration::ZERO);
    cluster.signal(Signal::SIGTERM);
    assert_eq!(manager.word(), "STOPPING=1");
    cluster.wait_exit();
    cluster.expect_nothing_left();
    let mut after = Vec::new();
    while let Some(word) = manager.word_within(Duration::from_millis(1)) {
        after.push(word);
    }
    assert!(after.iter().all(|word| word.starts_with("STATUS=")), "{after:?}");
}

#[test]
fn an_upgrade_keeps_the_manager_informed_and_its_watchdog_fed() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let (manager, release) = (Manager::with_path(), Release::of(RENEWAL));
    let launch = manager.start("sh").args(["-c", "WATCHDOG_PID=$$ exec \"$0\"", release.program().to_str().unwrap()]);
    let launch = launch.env("MODE", release.mode().to_str().unwrap());
    let mut cluster = launch.env("WATCHDOG_USEC", &INTERVAL.as_micros().to_string()).start();
    cluster.wait_ready();
    manager.wait_for("STATUS=2 workers ready");
    let main_pid = format!("MAINPID={}", cluster.primary());
    for generation in [2, 3] {
        let begin = monotonic();
        cluster.signal(Signal::SIGUSR2);
        assert_eq!(manager.word(), main_pid);
        manager.expect_reloading(begin);
        assert_eq!(manager.word(), "READY=1");
        cluster.wait_for(&format!("reloaded: all workers are of generation {generation}"));
        manager.forget();
        let quiet = Instant::now();
        for number in 0..3 {
            assert_eq!(manager.wait_for(PING), Vec::<String>::new());
            assert!(quiet.elapsed() >= INTERVAL / 2 * number, "the {number}th ping is too early");
        }
        assert!(quiet.elapsed() < INTERVAL * 5 / 2, "too late: {:?}", quiet.elapsed());
    }
    release.set_mode("trial-crashes");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("upgrade abandoned: ");
    cluster.signal(Signal::SIGTERM);
    assert_eq!(manager.word(), "STOPPING=1", "an upgrade that is refused is none");
    cluster.expect_exit(0);
}

const PING: &str = "WATCHDOG=1";

#[test]
fn the_managers_watchdog_hears_twice_in_its_interval_also_during_a_stop() {
    const INTERVAL: Duration = Duration::from_secs(3);
    let manager = Manager::with_path();
    // As the manager does: it names the process that it has started.
    let launch = manager.start("sh").args(["-c", "WATCHDOG_PID=$$ exec \"$0\"", WEB]);
    let begin = Instant::now();
    let mut cluster = launch.env("WATCHDOG_USEC", &INTERVAL.as_micros().to_string()).start();
    let address = cluster.wait_ready();
    for number in 0..4 {
        manager.wait_for(PING);
        assert!(begin.elapsed() >= INTERVAL / 2 * number, "the {number}th ping is too early");
    }
    // One that spoke only once in each interval would not be there yet.
    assert!(begin.elapsed() < INTERVAL * 3, "too late: {:?}", begin.elapsed());
    let mut endless = Connection::open(address).unwrap();
    endless.send_get("/endless").unwrap();
    endless.head().unwrap();
    cluster.signal(Signal::SIGTERM);
    manager.wait_for("STATUS=stopping");
    manager.wait_for(PING);
    drop(endless);
    cluster.expect_exit(0);
}

#[test]
fn the_managers_watchdog_hears_nothing_of_a_primary_that_is_stopped() {
    const INTERVAL: Duration = Duration::from_millis(400);
    let manager = Manager::with_abstract_name();
    let mut cluster = manager.start(WEB).env("WATCHDOG_USEC", &INTERVAL.as_micros().to_string()).start();
    let address = cluster.wait_ready();
    manager.wait_for(PING);
    cluster.signal(Signal::SIGSTOP);
    cluster.wait_until("the primary to stand still", |cluster| is_stopped(cluster.primary()).then_some(()));
    manager.forget();
    assert_eq!(manager.word_within(INTERVAL * 5), None);
    // The workers serve meanwhile, and cannot speak for it.
    assert_eq!(http::get(address, "/who").unwrap().status, 200);
    cluster.signal(Signal::SIGCONT);
    manager.wait_for(PING);
    manager.wait_for(PING);
}

/// The primary is stuck in what its user has given it, on the thread that supervises; another one of its threads is well.
#[test]
fn the_managers_watchdog_hears_nothing_of_a_supervising_thread_that_is_stuck() {
    const INTERVAL: Duration = Duration::from_millis(400);
    let manager = Manager::with_path();
    let scratch = Scratch::new();
    let (socket, release) = (scratch.path("app.sock"), scratch.path("release"));
    let launch = manager.start(PLACEMENT).args(["stuck"]).env("ADDR", &format!("unix:{}", socket.display()));
    let launch = launch.env("RELEASE", release.to_str().unwrap());
    let mut cluster = launch.env("WATCHDOG_USEC", &INTERVAL.as_micros().to_string()).start();
    let line = cluster.wait_logged("figures on ");
    let figures: SocketAddr = line.strip_prefix("figures on ").unwrap().parse().unwrap();
    manager.wait_for("STATUS=2 workers ready");
    manager.wait_for(PING);
    // The primary accepts from a Unix socket, and asks the policy.
    let mut client = Connection::over(UnixStream::connect(&socket).unwrap());
    client.send_get("/who").unwrap();
    cluster.wait_logged("spinning");
    manager.forget();
    assert_eq!(manager.word_within(INTERVAL * 5), None);
    let mut lines = String::new();
    TcpStream::connect(figures).unwrap().read_to_string(&mut lines).unwrap();
    assert_eq!(lines.lines().count(), 2, "the thread of the primary function answers");
    fs::write(&release, "").unwrap();
    manager.wait_for(PING);
    assert_eq!(client.answer().unwrap().status, 200);
    cluster.signal(Signal::SIGTERM);
    drop(client);
    cluster.expect_exit(0);
}

fn is_stopped(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().rsplit_once(") ").unwrap().1.starts_with('T')
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_hears_nothing() {
    let manager = Manager::with_path();
    let mut cluster = manager.start(WEB).env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1").start();
    cluster.wait_ready();
    let before = manager.wait_for("STATUS=2 workers ready");
    assert!(!before.contains(&PING.to_owned()), "{before:?}");
    assert_eq!(manager.word_within(Duration::from_millis(500)), None);
}

#[test]
fn workers_know_nothing_of_the_manager_and_the_primary_keeps_its_address() {
    let manager = Manager::with_path();
    let mut cluster = manager.start(WEB).env("WATCHDOG_USEC", "1000000").start();
    cluster.wait_ready();
    let of_the_manager = |pid: Pid| -> Vec<String> {
        let environment = String::from_utf8(fs::read(format!("/proc/{pid}/environ")).unwrap()).unwrap();
        let names = environment.split('\0').filter_map(|variable| variable.split_once('=')).map(|(name, _)| name);
        names.filter(|name| name.starts_with("NOTIFY") || name.starts_with("WATCHDOG")).map(str::to_owned).collect()
    };
    for worker in cluster.wait_for_workers(2) {
        assert_eq!(of_the_manager(worker), Vec::<String>::new());
    }
    assert_eq!(of_the_manager(cluster.primary()).len(), 2);
}

#[test]
fn a_manager_that_is_not_there_or_does_not_listen_changes_nothing() {
    let deaf = Manager::with_path();
    for name in ["/nowhere/notify", "@cluster-nobody", "vsock:2:1", "", deaf.name.as_str()] {
        // So many pings fill the queue of one that never looks.
        let launch = Cluster::of(WEB).workers(2).env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "2000");
        let mut cluster = launch.start();
        let address = cluster.wait_ready();
        send(*cluster.wait_for_workers(2).first().unwrap(), Signal::SIGKILL);
        cluster.wait_logged("Ready(WorkerId(3))");
        assert_eq!(http::get(address, "/who").unwrap().status, 200, "{name}");
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}
