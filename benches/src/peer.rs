//! A program to measure, and a running one.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{self, Memory};

/// A program that answers `GET /`.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: &'static str,
}

/// One that runs; ended by being dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From the spawn to the first answer.
    pub(crate) started_in: Duration,
}

impl Peer {
    pub(crate) fn new(name: &'static str, program: &'static str) -> Self {
        Self { name, program }
    }

    /// Starts it and waits for its first answer.
    pub(crate) fn start(&self, cores: usize) -> Running {
        let address = free_address();
        let program = env::current_exe().expect("this program has a path").with_file_name(self.program);
        let started = Instant::now();
        let child = Command::new(program)
            .env("ADDR", address.to_string())
            .env("CLUSTER_WORKERS", cores.to_string())
            .env("TOKIO_WORKER_THREADS", cores.to_string())
            .env("CLUSTER_QUIET", "true")
            .stdin(Stdio::null())
            .spawn()
            .expect("the peer starts");
        let started_in = wait_for_answer(address, started);
        Running { child, address, started_in }
    }
}

impl Running {
    /// CPU time of the whole tree so far; no process of it may end between two looks.
    pub(crate) fn cpu_time(&self) -> Duration {
        let workers = process::children(self.child.id()).into_iter();
        workers.chain([self.child.id()]).map(process::cpu_time).sum()
    }

    /// The mean over the workers, if there are any.
    pub(crate) fn memory_per_worker(&self) -> Option<Memory> {
        let workers = process::children(self.child.id());
        let count = workers.len() as f64;
        let sum = workers.iter().map(|pid| process::memory(*pid)).reduce(|sum, one| Memory {
            private_kib: sum.private_kib + one.private_kib,
            proportional_kib: sum.proportional_kib + one.proportional_kib,
        })?;
        Some(Memory { private_kib: sum.private_kib / count, proportional_kib: sum.proportional_kib / count })
    }

    /// Kills every worker at once and measures how long nobody answers: a killed worker's replacement has to be up.
    pub(crate) fn crash_all(&self) -> Duration {
        let workers = process::children(self.child.id());
        let started = Instant::now();
        for pid in workers {
            send(pid, Signal::SIGKILL);
        }
        wait_for_answer(self.address, started)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not SIGKILL: workers would go on for a moment, beside the next peer.
        send(self.child.id(), Signal::SIGTERM);
        _ = self.child.wait();
    }
}

/// To a process that this program has started, directly or not.
fn send(pid: u32, signal: Signal) {
    _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

fn wait_for_answer(address: SocketAddr, since: Instant) -> Duration {
    while ask(address).is_err() {
        assert!(since.elapsed() < Duration::from_secs(30), "nobody answers on {address}");
        thread::yield_now();
    }
    since.elapsed()
}

fn ask(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback has a free port")
}
