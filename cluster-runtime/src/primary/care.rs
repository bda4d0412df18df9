//! Looks after the workers' health as the board shows it: who is stuck, and who has had its share.
//!
//! Only while the primary looks at the board anyway, which it does as long as somebody has something to do. So idle workers cost
//! nothing, and nobody who is idle is stuck or wears out.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::unistd::Pid;
use tracing::Level;

use super::Shell;
use crate::WorkerId;
use crate::board::Line;
use crate::config::Settings;
use crate::moment::Moment;
use crate::supervisor::{self, State, share_of_limit};

/// What is known of each worker's health.
#[derive(Debug, Default)]
pub(super) struct Care {
    charts: BTreeMap<WorkerId, Chart>,
    /// When to look at the memory again.
    memory_due: Option<Moment>,
}

/// What is known of one.
#[derive(Debug, Default)]
struct Chart {
    busy: Option<Busy>,
    is_worn_out: bool,
}

/// At one thing since it was first seen at it.
#[derive(Clone, Copy, Debug)]
struct Busy {
    /// Tells one thing from the next.
    woken: u64,
    /// By our own clock, which stands still when we do.
    since: Moment,
    is_warned_of: bool,
}

/// How often memory is looked at.
const MEMORY_LOOK: Duration = Duration::from_secs(1);

/// What is to be done about a worker that is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    Warn,
    Abort,
}

impl Chart {
    /// Takes what the board says at `now`.
    fn note(&mut self, woken: Option<u64>, now: Moment, watchdog: Duration) -> Verdict {
        let Some(woken) = woken else {
            self.busy = None;
            return Verdict::Nothing;
        };
        let busy = self.busy.get_or_insert(Busy { woken, since: now, is_warned_of: false });
        if busy.woken != woken {
            *busy = Busy { woken, since: now, is_warned_of: false };
        }
        match now.since(busy.since) {
            time if time >= watchdog => Verdict::Abort,
            time if time >= watchdog / 2 && !busy.is_warned_of => {
                busy.is_warned_of = true;
                Verdict::Warn
            }
            _ => Verdict::Nothing,
        }
    }

    /// The time does not count: the worker was held up from outside.
    const fn start_over(&mut self, now: Moment) {
        if let Some(busy) = &mut self.busy {
            busy.since = now;
        }
    }
}

impl Shell {
    /// Looks at all; returns what the supervisor is to know.
    pub(super) fn look_after_workers(&mut self) -> Vec<supervisor::Event> {
        let Settings { watchdog, max_requests, max_memory, .. } = &self.settings;
        if watchdog.is_none() && max_requests.is_none() && max_memory.is_none() {
            return Vec::new();
        }
        let now = self.now();
        let looks_at_memory = self.settings.max_memory.is_some() && self.care.memory_due.is_none_or(|due| due <= now);
        if looks_at_memory {
            self.care.memory_due = Some(now + MEMORY_LOOK);
        }
        let ready: Vec<_> = self
            .supervisor
            .status()
            .filter(|status| status.state == State::Ready)
            .map(|status| status.worker)
            .collect();
        self.care.charts.retain(|worker, _| self.fleet.contains_key(worker));
        ready.into_iter().filter_map(|worker| self.look_after(worker, now, looks_at_memory)).collect()
    }

    fn look_after(&mut self, worker: WorkerId, now: Moment, looks_at_memory: bool) -> Option<supervisor::Event> {
        let member = self.fleet.get(&worker)?;
        let (identity, pid) = (member.identity, member.pid);
        let line = self.ports.board().slot(identity.slot).line_of(worker)?;
        let chart = self.care.charts.entry(worker).or_default();
        if let Some(watchdog) = self.settings.watchdog {
            match chart.note(line.woken(), now, watchdog) {
                Verdict::Nothing => {}
                Verdict::Warn => {
                    let text = format_args!("has been stuck for {:?}: {}", watchdog / 2, hint(pid));
                    self.reporter.worker(Level::WARN, identity, Some(pid), text);
                }
                Verdict::Abort => {
                    if let Some(why) = held_up(pid) {
                        chart.start_over(now);
                        let text = format_args!("is stuck, but {why}: the watchdog waits");
                        self.reporter.worker(Level::WARN, identity, Some(pid), text);
                        return None;
                    }
                    let text = format_args!("is stuck for {watchdog:?} and is aborted: {}", hint(pid));
                    self.reporter.worker(Level::ERROR, identity, Some(pid), text);
                    return Some(supervisor::Event::Stuck(worker));
                }
            }
        }
        if chart.is_worn_out {
            return None;
        }
        let why = has_had_its_share(&self.settings, worker, line)
            .or_else(|| if looks_at_memory { is_too_large(&self.settings, pid) } else { None })?;
        chart.is_worn_out = true;
        self.reporter.worker(Level::INFO, identity, Some(pid), format_args!("{why}: it is to be replaced"));
        Some(supervisor::Event::WornOut(worker))
    }
}

fn has_had_its_share(settings: &Settings, worker: WorkerId, line: &Line) -> Option<String> {
    let limit = settings.max_requests?;
    let limit = limit - limit / 1000 * u64::from(1000 - share_of_limit(worker));
    let figures = line.figures();
    let (count, what) =
        if figures.requests > 0 { (figures.requests, "requests") } else { (figures.accepted, "connections") };
    (count >= limit).then(|| format!("has had {count} {what}"))
}

fn is_too_large(settings: &Settings, pid: Pid) -> Option<String> {
    let limit = settings.max_memory?;
    let bytes = resident(pid)?;
    (bytes >= limit).then(|| format!("has {} of memory", bytesize::ByteSize::b(bytes)))
}

/// The memory of a process that is not reaped, in bytes.
fn resident(pid: Pid) -> Option<u64> {
    let status = status(pid);
    let kilobytes = line(&status, "VmRSS:")?;
    Some(kilobytes.strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// What the kernel says of a process; nothing of one that is gone.
fn status(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// A line of that.
fn line<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether somebody outside holds the process up, who must not find it killed.
fn held_up(pid: Pid) -> Option<&'static str> {
    let status = status(pid);
    match (line(&status, "State:"), line(&status, "TracerPid:")) {
        (_, Some(tracer)) if tracer != "0" => Some("a debugger is attached"),
        (Some(state), _) if state.starts_with(['T', 't']) => Some("it is stopped by a signal"),
        _ => None,
    }
}

/// What the kernel tells of where a process is.
fn hint(pid: Pid) -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = read("stat");
    // The name before it may contain anything.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).unwrap_or('?');
    if state == 'R' {
        return format!("it computes; `gdb -p {pid} -batch -ex 'thread apply all bt'` shows where");
    }
    let place = match (read("wchan").trim(), read("syscall").split(' ').next().unwrap_or_default()) {
        ("" | "0", "" | "running") => String::new(),
        ("" | "0", call) => format!(" in system call {call}"),
        (place, "" | "running") => format!(" in {place}"),
        (place, call) => format!(" in {place} (system call {call})"),
    };
    // The topmost frames of the kernel's stack, where this process may see them.
    let stack: Vec<_> =
        read("stack").lines().take(3).filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect();
    let stack = if stack.is_empty() { String::new() } else { format!(", {}", stack.join(" < ")) };
    format!("it sleeps{place}{stack}, which blocks its runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 * (1_000 + seconds))
    }

    #[test]
    fn one_that_is_at_one_thing_is_warned_of_once_at_half_time_and_aborted_at_the_end() {
        let mut chart = Chart::default();
        assert_eq!(chart.note(Some(7), at(0), WATCHDOG), Verdict::Nothing);
        assert_eq!(chart.note(Some(7), at(29), WATCHDOG), Verdict::Nothing);
        assert_eq!(chart.note(Some(7), at(30), WATCHDOG), Verdict::Warn);
        assert_eq!(chart.note(Some(7), at(59), WATCHDOG), Verdict::Nothing);
        assert_eq!(chart.note(Some(7), at(60), WATCHDOG), Verdict::Abort);
    }

    #[test]
    fn one_that_rests_or_turns_to_the_next_thing_is_not_stuck() {
        let mut chart = Chart::default();
        for second in 0..1_000 {
            assert_eq!(chart.note(Some(second), at(second), WATCHDOG), Verdict::Nothing);
        }
        assert_eq!(chart.note(Some(999), at(1_028), WATCHDOG), Verdict::Nothing);
        assert_eq!(chart.note(None, at(1_050), WATCHDOG), Verdict::Nothing);
        assert_eq!(chart.note(Some(999), at(1_051), WATCHDOG), Verdict::Nothing, "it begins anew");
    }

    #[test]
    fn the_time_that_a_debugger_took_does_not_count() {
        let mut chart = Chart::default();
        chart.note(Some(7), at(0), WATCHDOG);
        chart.note(Some(7), at(40), WATCHDOG);
        assert_eq!(chart.note(Some(7), at(60), WATCHDOG), Verdict::Abort);
        chart.start_over(at(60));
        assert_eq!(chart.note(Some(7), at(119), WATCHDOG), Verdict::Nothing);
        assert_eq!(chart.note(Some(7), at(120), WATCHDOG), Verdict::Abort);
    }

    #[test]
    fn the_memory_of_a_process_is_seen() {
        assert!(resident(Pid::this()).unwrap() > 100_000);
        assert_eq!(resident(Pid::from_raw(i32::MAX)), None);
    }
}
