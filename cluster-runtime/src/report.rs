//! Tells the operator what happens: by `tracing`, and on stderr as long as no subscriber is installed.
//!
//! On a thread of its own. Whoever reads stderr may have stopped reading, and a subscriber is the user's code: it may block or
//! panic, and supervision must go on.

use std::fmt;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;
use tracing::Level;

use crate::boot::Identity;
use crate::os;

/// Where reports go. Never waits.
#[derive(Debug)]
pub(crate) struct Reporter {
    entries: SyncSender<Entry>,
    /// Reports that found no room since the last one that did.
    lost: usize,
}

#[derive(Debug)]
enum Entry {
    Cluster(Level, String),
    Worker(Level, Identity, Option<Pid>, String),
    /// Answered when everything before it is told.
    Flush(SyncSender<()>),
}

/// Reports that may wait to be told.
const BACKLOG: usize = 1024;

impl Reporter {
    /// Starts the thread; `quiet` keeps it from writing to stderr.
    pub(crate) fn start(quiet: bool) -> io::Result<Self> {
        let (entries, reported) = sync_channel(BACKLOG);
        thread::Builder::new().name("cluster-report".into()).spawn(move || tell_all(&reported, quiet))?;
        Ok(Self { entries, lost: 0 })
    }

    /// About the cluster.
    pub(crate) fn cluster(&mut self, level: Level, text: impl fmt::Display) {
        self.send(Entry::Cluster(level, text.to_string()));
    }

    /// About one worker, in the one form that all logs have; without a pid, if there never was a process.
    pub(crate) fn worker(&mut self, level: Level, who: Identity, pid: Option<Pid>, text: impl fmt::Display) {
        self.send(Entry::Worker(level, who, pid, text.to_string()));
    }

    /// Waits until everything is told, but not for longer than `time`.
    pub(crate) fn flush(&mut self, time: Duration) {
        let (done, told) = sync_channel(1);
        self.send(Entry::Flush(done));
        _ = told.recv_timeout(time);
    }

    fn send(&mut self, entry: Entry) {
        if self.lost > 0 {
            let text = format!("{} reports were lost, as nobody took them", self.lost);
            if self.entries.try_send(Entry::Cluster(Level::WARN, text)).is_ok() {
                self.lost = 0;
            }
        }
        self.lost += usize::from(self.entries.try_send(entry).is_err());
    }
}

/// Writes a line to stderr, where there is one. `eprintln!` would panic once nobody reads it any more, a closed pipe say, and
/// would write in pieces, between which the lines of other processes appear.
pub(crate) fn say(line: impl fmt::Display) {
    _ = io::stderr().write_all(format!("cluster: {line}\n").as_bytes());
}

fn tell_all(entries: &Receiver<Entry>, quiet: bool) {
    os::leave_signals_to_main();
    for entry in entries {
        // A subscriber that panics has told the panic hook; the next report may fare better.
        _ = catch_unwind(AssertUnwindSafe(|| tell(entry, quiet)));
    }
}

fn tell(entry: Entry, quiet: bool) {
    let show = !quiet && !tracing::dispatcher::has_been_set();
    match entry {
        Entry::Cluster(level, text) => {
            match level {
                Level::ERROR => tracing::error!("{text}"),
                Level::WARN => tracing::warn!("{text}"),
                _ => tracing::info!("{text}"),
            }
            if show {
                say(text);
            }
        }
        Entry::Worker(level, Identity { worker, slot, generation }, pid, text) => {
            let (worker, pid) = (worker.get(), pid.map(Pid::as_raw));
            match level {
                Level::ERROR => tracing::error!(slot, generation, worker, pid, "{text}"),
                Level::WARN => tracing::warn!(slot, generation, worker, pid, "{text}"),
                _ => tracing::info!(slot, generation, worker, pid, "{text}"),
            }
            // That all goes well is no news to somebody who has not asked for a log.
            if show && level <= Level::WARN {
                let pid = pid.map_or(String::new(), |pid| format!(" pid={pid}"));
                say(format_args!("slot={slot} generation={generation} worker={worker}{pid}: {text}"));
            }
        }
        // Whoever has asked may have lost its patience.
        Entry::Flush(done) => _ = done.send(()),
    }
}
