//! What the process tests share: start a fixture program as a real cluster, wait with a deadline, leave nothing behind.
//!
//! - [`Cluster`]: a running fixture and everything that it printed.
//! - [`hung`]: a directory in which every look waits for ever.
//! - [`http`]: the smallest client that still lets a test decide which byte is sent when.
//! - [`scratch`]: a directory that goes with its test.
//! - [`load`]: many clients at once, and what went wrong for them.
//! - [`release`]: a program on disk that is replaced by its next release.
//! - [`tls`]: a client that remembers its sessions.
//! - [`who`]: which worker answers.

pub mod http;
pub mod hung;
pub mod load;
pub mod release;
pub mod scratch;
pub mod tls;
pub mod who;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// The longest that a test waits for anything. Not a measure of speed: it only turns a hang into a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A fixture program about to be started; see [`Cluster::of`].
#[derive(Debug)]
#[must_use]
pub struct Launch {
    command: Command,
    tag: String,
}

/// A running cluster. Dropped, it is killed with all its workers.
#[derive(Debug)]
pub struct Cluster {
    primary: Child,
    exited: Option<ExitStatus>,
    lines: Receiver<String>,
    log: Vec<String>,
    /// Lines of the log that `wait_for` has not consumed yet start here.
    seen: usize,
    tag: String,
}

impl Cluster {
    /// Prepares to start `program`, which a test names as `env!("CARGO_BIN_EXE_web")`.
    pub fn of(program: &str) -> Launch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Workers inherit the variable, so every process of this cluster, and of no other, is found by it.
        let tag = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(program);
        command.env("TEST_CLUSTER", &tag).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in SETTINGS {
            command.env_remove(name);
        }
        Launch { command, tag }
    }

    /// The primary's process id.
    #[must_use]
    pub fn primary(&self) -> Pid {
        pid_of(&self.primary)
    }

    /// The process ids of the workers that are alive.
    #[must_use]
    pub fn workers(&self) -> BTreeSet<Pid> {
        let primary = self.primary();
        self.processes().into_iter().filter(|pid| *pid != primary).collect()
    }

    /// Waits until exactly `count` workers are alive.
    #[track_caller]
    pub fn wait_for_workers(&mut self, count: usize) -> BTreeSet<Pid> {
        let what = format!("{count} workers");
        self.wait_until(&what, |cluster| Some(cluster.workers()).filter(|workers| workers.len() == count))
    }

    /// Waits for a line that contains `text`, after the last line that was waited for, and returns it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = (self.seen..self.log.len()).find(|index| self.log[*index].contains(text)) {
                self.seen = found + 1;
                return self.log[found].clone();
            }
            if !self.read_line(deadline) {
                panic!("no line with {text:?}; the log was:\n{}", self.log.join("\n"));
            }
        }
    }

    /// Waits until a line anywhere in the log contains `text`, and returns it. For what comes on both stdout and stderr, whose
    /// lines reach the log in no fixed order.
    #[track_caller]
    pub fn wait_logged(&mut self, text: &str) -> String {
        self.wait_until(&format!("a line with {text:?}"), |cluster| {
            cluster.log_text().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// Waits for the line that says that all workers are ready, and returns the address in it.
    #[track_caller]
    pub fn wait_ready(&mut self) -> SocketAddr {
        let line = self.wait_for(" ready on ");
        let address = line.split(" ready on ").nth(1).and_then(|rest| rest.split([',', ';']).next());
        address.and_then(|address| address.trim().parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// Waits until `look` finds something.
    #[track_caller]
    pub fn wait_until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}; the log was:\n{}", self.log_text());
            thread::sleep(POLL);
        }
    }

    /// Everything printed so far, on stdout and stderr.
    pub fn log_text(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.log.push(line);
        }
        self.log.join("\n")
    }

    /// Sends a signal to the primary.
    pub fn signal(&self, signal: Signal) {
        send(self.primary(), signal);
    }

    /// Waits for the primary to exit.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let status = self.wait_until("the primary's exit", |cluster| cluster.primary.try_wait().unwrap());
        self.exited = Some(status);
        status
    }

    /// Waits for the primary to exit, and checks its code and that nothing of the cluster is left.
    #[track_caller]
    pub fn expect_exit(&mut self, code: i32) {
        let status = self.wait_exit();
        let log = self.log_text();
        assert_eq!(status.code(), Some(code), "{status:?}; the log was:\n{log}");
        self.expect_nothing_left();
    }

    /// Waits until no process of the cluster is left, and checks that there is none that stays.
    #[track_caller]
    pub fn expect_nothing_left(&mut self) {
        self.wait_until("all processes to be gone", |cluster| cluster.processes().is_empty().then_some(()));
        // What they printed last may still be on its way into the log.
        let deadline = Instant::now() + DEADLINE;
        while self.read_line(deadline) {}
    }

    /// Every living process of this cluster: those that carry its tag in the environment and are no zombies.
    fn processes(&self) -> BTreeSet<Pid> {
        let tag = format!("TEST_CLUSTER={}", self.tag);
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let carries_tag = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == tag.as_bytes())
        };
        pids.filter(carries_tag).map(Pid::from_raw).collect()
    }

    fn read_line(&mut self, deadline: Instant) -> bool {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.log.push(line);
                true
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Workers first would be replaced; so the primary first, and then who is left.
        if self.exited.is_none() {
            _ = self.primary.kill();
            _ = self.primary.wait();
        }
        for pid in self.processes() {
            _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl Launch {
    /// Adds arguments.
    pub fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the number of workers.
    pub fn workers(self, count: usize) -> Self {
        self.env("CLUSTER_WORKERS", &count.to_string())
    }

    /// Changes the command in a way that this has no word for.
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn start(mut self) -> Cluster {
        let mut primary = self.command.spawn().expect("the fixture starts");
        let (sender, lines) = channel();
        // A test may have put something else in their place.
        primary.stdout.take().into_iter().for_each(|output| follow(output, sender.clone()));
        primary.stderr.take().into_iter().for_each(|output| follow(output, sender.clone()));
        Cluster { primary, exited: None, lines, log: Vec::new(), seen: 0, tag: self.tag }
    }
}

/// Sends a signal to a process that this test has started.
pub fn send(pid: Pid, signal: Signal) {
    kill(pid, signal).unwrap_or_else(|error| panic!("cannot signal {pid}: {error}"));
}

/// Says loudly that a test cannot run here; in CI it must.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "this test must run in CI, but {why}");
    eprintln!("SKIPPED: {why}");
}

/// An example of this package that is no `[[bin]]`, whose path Cargo does not name: it lies beside the tests.
///
/// # Panics
/// If it has not been built.
#[track_caller]
#[must_use]
pub fn example_beside(name: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "`cargo build --package tests --examples` makes it; so does a `cargo test` of everything"
    );
    program.into_os_string().into_string().unwrap()
}

/// What a developer's shell may have set, and a fixture must not see.
const SETTINGS: [&str; 20] = [
    "ADDR",
    "CLUSTER_WORKERS",
    "WEB_CONCURRENCY",
    "CLUSTER_THREADS",
    "CLUSTER_DISPATCH",
    "CLUSTER_RESTART",
    "CLUSTER_START_TIMEOUT",
    "CLUSTER_GRACE",
    "CLUSTER_DRAIN_DELAY",
    "CLUSTER_DRAIN_SPREAD",
    "CLUSTER_SURGE",
    "CLUSTER_WATCHDOG",
    "CLUSTER_MAX_REQUESTS",
    "CLUSTER_MAX_AGE",
    "CLUSTER_MAX_MEMORY",
    "CLUSTER_MAX_MESSAGE",
    "CLUSTER_QUIET",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// How often a condition that nothing announces is looked at.
const POLL: Duration = Duration::from_millis(5);

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn follow(output: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}
