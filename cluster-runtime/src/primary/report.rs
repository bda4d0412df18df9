//! Tells the user what happens: by `tracing`, and on stderr as long as no subscriber is installed.

use std::fmt;
use std::io::{self, Write as _};

use nix::unistd::Pid;
use tracing::Level;

use crate::boot::Identity;

/// Where reports go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) quiet: bool,
}

impl Report {
    /// About the cluster.
    pub(super) fn cluster(self, level: Level, text: fmt::Arguments<'_>) {
        match level {
            Level::ERROR => tracing::error!("{text}"),
            Level::WARN => tracing::warn!("{text}"),
            _ => tracing::info!("{text}"),
        }
        self.show(format_args!("{text}"));
    }

    /// About one worker, in the one form that all logs have; without a pid, if there never was a process.
    pub(super) fn worker(self, level: Level, who: &Identity, pid: Option<Pid>, text: fmt::Arguments<'_>) {
        let Identity { worker, slot, generation } = who;
        let worker = worker.get();
        let pid = pid.map(Pid::as_raw);
        match level {
            Level::ERROR => tracing::error!(slot, generation, worker, pid, "{text}"),
            Level::WARN => tracing::warn!(slot, generation, worker, pid, "{text}"),
            _ => tracing::info!(slot, generation, worker, pid, "{text}"),
        }
        if level <= Level::WARN {
            let pid = pid.map_or(String::new(), |pid| format!(" pid={pid}"));
            self.show(format_args!("slot={slot} generation={generation} worker={worker}{pid}: {text}"));
        }
    }

    fn show(self, line: fmt::Arguments<'_>) {
        if !self.quiet && !tracing::dispatcher::has_been_set() {
            say(line);
        }
    }
}

/// Writes a line to stderr, where there is one. `eprintln!` would panic once nobody reads it any more, a closed pipe say, and
/// the service must not depend on that.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    // In one piece: stderr is not buffered, and a line in pieces mingles with what the workers write there.
    _ = io::stderr().write_all(format!("cluster: {line}\n").as_bytes());
}
