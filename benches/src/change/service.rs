//! The service that is changed, and what its primary says.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sys::signal::Signal;

use super::exchange::Target;
use super::load::Load;
use crate::process;
use crate::running::{end, free_address, send, within};

/// A running cluster; ended by being dropped.
pub(crate) struct Service {
    primary: Child,
    lines: Receiver<String>,
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
        let program = env::current_exe().expect("this program has a path").with_file_name("changing");
        let settings = env::vars().map(|(name, _)| name).filter(|name| name.starts_with("CLUSTER_"));
        let mut command = Command::new(program);
        settings.for_each(|name| _ = command.env_remove(name));
        command
            .env("ADDR", target.tcp.to_string())
            .env("SOCKET", &target.unix)
            .env("START_DELAY", start_delay.as_millis().to_string())
            .env("CLUSTER_WORKERS", workers.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut primary = command.spawn().map_err(|error| format!("the service does not start: {error}"))?;
        let stderr = BufReader::new(primary.stderr.take().expect("it was asked for"));
        let (sender, lines) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
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
        let cpu_time =
            || -> Duration { self.workers().into_iter().chain([self.primary()]).map(process::cpu_time).sum() };
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
        let deadline = Instant::now() + patience;
        let mut last = String::from("nothing");
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(wanted) => return Ok(()),
                Ok(line) if refused.is_some_and(|refused| line.contains(refused)) => return Err(line),
                Ok(line) => last = line,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no line `{wanted}` within {patience:?}; the last was: {last}"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the service has ended instead of `{wanted}`; its last line was: {last}"));
                }
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        end(&mut self.primary);
        _ = fs::remove_dir_all(&self.scratch);
    }
}
