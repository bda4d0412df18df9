//! The service that is changed, and what its primary says.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use nix::sys::signal::Signal;

use super::exchange::Target;
use super::load::Load;
use crate::lines::Lines;
use crate::process;
use crate::programs;
use crate::running::{end, free_address, send, within};

/// A running cluster; ended by being dropped.
pub(crate) struct Service {
    primary: Child,
    lines: Lines,
    scratch: PathBuf,
    pub(crate) target: Target,
}

/// How soon a primary says that it has begun what a signal asks for, if it can do it at all.
const TO_BEGIN: Duration = Duration::from_secs(5);
/// The longest that a change may take.
const TO_FINISH: Duration = Duration::from_secs(120);

impl Service {
    /// Starts it and waits until all workers are ready. `start_delay` is what each worker takes before it serves.
    pub(crate) fn start(workers: usize, start_delay: Duration) -> Result<Self, String> {
        let tcp = free_address();
        let scratch = env::temp_dir().join(format!("benches-{}", tcp.port()));
        fs::create_dir_all(&scratch).map_err(|error| format!("no room for temporary files: {error}"))?;
        let target = Target { tcp, unix: scratch.join("service.sock") };
        let mut command = programs::cluster("changing");
        command
            .env("ADDR", target.tcp.to_string())
            .env("SOCKET", &target.unix)
            .env("START_DELAY", start_delay.as_millis().to_string())
            .env("CLUSTER_WORKERS", workers.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut primary = command.spawn().map_err(|error| format!("the service does not start: {error}"))?;
        let lines = Lines::of(primary.stderr.take().expect("it was asked for"));
        let service = Self { primary, lines, scratch, target };
        service.hear("ready on", None, TO_FINISH)?;
        Ok(service)
    }

    pub(crate) fn primary(&self) -> u32 {
        self.primary.id()
    }

    /// Those that live, whatever they are about to do.
    pub(crate) fn workers(&self) -> BTreeSet<u32> {
        process::children(self.primary()).into_iter().filter(|pid| process::lives(*pid)).collect()
    }

    pub(crate) fn zombies(&self) -> usize {
        process::children(self.primary()).into_iter().filter(|pid| process::is_zombie(*pid)).count()
    }

    /// Replaces all workers.
    pub(crate) fn reload(&mut self) -> Result<(), String> {
        self.order(Signal::SIGHUP, "reloading: ", "reload abandoned")?;
        self.hear_reloaded()
    }

    /// Replaces the primary in its place, and then all workers.
    pub(crate) fn upgrade(&mut self) -> Result<(), String> {
        self.order(Signal::SIGUSR2, "upgrading the primary", "upgrade abandoned")?;
        self.hear("cluster: upgraded", Some("upgrade abandoned"), TO_FINISH)?;
        self.hear("reloading: ", Some("reload abandoned"), TO_FINISH)?;
        self.hear_reloaded()?;
        match self.primary.try_wait() {
            Ok(None) => Ok(()),
            _ => Err("the upgraded primary does not live under its pid".into()),
        }
    }

    /// One worker more or fewer, so that there will be `count`.
    pub(crate) fn scale(&self, signal: Signal, count: usize) -> Result<(), String> {
        self.order(signal, &format!("scaling to {count} worker"), "cannot scale")
    }

    /// Waits until there are so many workers and no more.
    pub(crate) fn wait_for_workers(&self, count: usize) -> Result<BTreeSet<u32>, String> {
        let arrived = within(TO_FINISH, || self.workers().len() == count);
        let workers = self.workers();
        if arrived { Ok(workers) } else { Err(format!("{} workers instead of {count}", workers.len())) }
    }

    /// Waits until there are so many workers, each of which has answered somebody.
    pub(crate) fn wait_for_answers(&self, count: usize, load: &Load) -> Result<(), String> {
        let answered = || {
            let workers = self.workers();
            workers.len() == count && workers.into_iter().all(|pid| load.has_heard_of(pid))
        };
        if within(TO_FINISH, answered) { Ok(()) } else { Err(format!("there are no {count} workers that answer")) }
    }

    /// Waits until there are so many workers and nobody has done anything for a while.
    pub(crate) fn settle(&self, count: usize) -> Result<(), String> {
        const PAUSE: Duration = Duration::from_secs(1);
        const QUIET: Duration = Duration::from_millis(2);
        let cpu_time = || process::tree_cpu_time(self.primary());
        let settled = within(TO_FINISH, || {
            let before = cpu_time();
            thread::sleep(PAUSE);
            self.workers().len() == count && cpu_time().saturating_sub(before) < QUIET
        });
        if settled { Ok(()) } else { Err("the service never rests".into()) }
    }

    fn order(&self, signal: Signal, begun: &str, refused: &str) -> Result<(), String> {
        send(self.primary(), signal);
        self.hear(begun, Some(refused), TO_BEGIN).map_err(|error| format!("after {signal}: {error}"))
    }

    fn hear_reloaded(&self) -> Result<(), String> {
        self.hear("reloaded: all workers", Some("reload abandoned"), TO_FINISH)
    }

    /// Waits for a line with `wanted`; one with `refused` is an error.
    fn hear(&self, wanted: &str, refused: Option<&str>, patience: Duration) -> Result<(), String> {
        self.lines.find(wanted, patience, |line| match line {
            line if line.contains(wanted) => Some(Ok(())),
            line if refused.is_some_and(|refused| line.contains(refused)) => Some(Err(line.to_owned())),
            _ => None,
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        end(&mut self.primary);
        _ = fs::remove_dir_all(&self.scratch);
    }
}
