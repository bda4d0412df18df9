//! A peer that runs.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{self, Connection};
use crate::peer::Peer;
use crate::process::{self, Memory};

/// One that answers and has nothing left to do; ended by being dropped.
pub(crate) struct Running {
    child: Child,
    scratch: PathBuf,
    pub(crate) address: SocketAddr,
    /// From the spawn to the first answer.
    pub(crate) started_in: Duration,
}

impl Running {
    pub(crate) fn start(peer: &Peer, workers: usize) -> Self {
        let processes = if peer.has_processes() { workers } else { 0 };
        Self::spawn(processes, |address, scratch| peer.command(address, workers, scratch))
    }

    /// What `command` makes for an address and a directory for its files. It will have so many worker processes.
    pub(crate) fn spawn(workers: usize, command: impl FnOnce(SocketAddr, &Path) -> Command) -> Self {
        let address = free_address();
        let scratch = env::temp_dir().join(format!("benches-{}", address.port()));
        fs::create_dir_all(&scratch).expect("there is room for temporary files");
        let mut command = command(address, &scratch);
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).spawn().expect("the peer starts");
        let mut running = Self { child, scratch, address, started_in: Duration::ZERO };
        running.started_in = running.wait_for_answer(started);
        running.settle(workers);
        running
    }

    /// Several times on each of many connections: what compiles while it runs, or grows on demand, has done so afterwards.
    pub(crate) fn warm_up(&self) {
        let mut connections: Vec<_> =
            (0..64).map(|_| Connection::open(self.address).expect("the peer accepts")).collect();
        for _ in 0..50 {
            connections.iter_mut().for_each(|connection| _ = connection.ask("/").expect("the peer answers"));
        }
    }

    pub(crate) fn workers(&self) -> Vec<u32> {
        process::children(self.child.id())
    }

    /// CPU time of the whole tree so far; no process or thread of it may end between two looks.
    pub(crate) fn cpu_time(&self) -> Duration {
        process::tree_cpu_time(self.child.id())
    }

    /// The mean over the workers, of which there must be some.
    pub(crate) fn memory_per_worker(&self) -> Memory {
        let each: Vec<Memory> = self.workers().into_iter().map(process::memory).collect();
        let mean = |part: fn(&Memory) -> f64| each.iter().map(part).sum::<f64>() / each.len() as f64;
        Memory {
            resident_mib: mean(|one| one.resident_mib),
            private_mib: mean(|one| one.private_mib),
            proportional_mib: mean(|one| one.proportional_mib),
        }
    }

    /// Kills every worker at once and measures how long nobody answers: a killed worker's replacement has to be up. A client that
    /// gets no answer gives up at its deadline and tries again.
    pub(crate) fn crash_all(&self) -> Duration {
        let workers = self.workers();
        let started = Instant::now();
        for pid in workers {
            send(pid, Signal::SIGKILL);
        }
        self.wait_for_answer(started)
    }

    fn wait_for_answer(&self, since: Instant) -> Duration {
        while client::ask_once(self.address, "/").is_err() {
            assert!(since.elapsed() < Duration::from_secs(30), "nobody answers on {}", self.address);
            thread::sleep(Duration::from_micros(100));
        }
        since.elapsed()
    }

    /// Waits until all workers are there and none has anything to do, without their help: the first answer comes before the last
    /// worker is ready.
    pub(crate) fn settle(&self, workers: usize) {
        let settled = within(Duration::from_secs(30), || rests(self.child.id()) && self.workers().len() == workers);
        assert!(settled, "{} never rests", self.address);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.child);
        _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Ends a program and its workers, politely first; then not, so that nothing is left behind.
pub(crate) fn end(child: &mut Child) {
    const PATIENCE: Duration = Duration::from_secs(10);
    let workers = process::children(child.id());
    // Not SIGKILL: workers would go on for a moment, beside the next peer.
    if child.try_wait().is_ok_and(|status| status.is_none()) {
        send(child.id(), Signal::SIGTERM);
        // It may have been stopped.
        send(child.id(), Signal::SIGCONT);
    }
    if !within(PATIENCE, || child.try_wait().is_ok_and(|status| status.is_some())) {
        _ = child.kill();
        _ = child.wait();
    }
    for pid in workers {
        if !within(PATIENCE, || !process::lives(pid)) {
            send(pid, Signal::SIGKILL);
        }
    }
}

/// Whether a program and its workers do next to nothing for a while.
pub(crate) fn rests(pid: u32) -> bool {
    const PAUSE: Duration = Duration::from_millis(100);
    const QUIET: Duration = Duration::from_millis(1);
    let before = process::tree_cpu_time(pid);
    thread::sleep(PAUSE);
    process::tree_cpu_time(pid).saturating_sub(before) < QUIET
}

/// To a process that this program has started, directly or not.
pub(crate) fn send(pid: u32, signal: Signal) {
    _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Whether it came true in time.
pub(crate) fn within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    while !condition() {
        if since.elapsed() > patience {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// An address that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback has a free port")
}
