//! How a worker ended: what the kernel says, and what it means.

use std::fmt;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The end of one worker: the kernel's account of it and the supervisor's reading.
///
/// Displays as a sentence fragment such as `crashed (killed by SIGSEGV)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What the kernel reports.
    pub status: ExitStatus,
    /// What it means for the cluster.
    pub reason: ExitReason,
}

/// What the kernel reports of a process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited by itself with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// Whether the process exited by itself with code 0.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

/// Why a worker ended, as the supervisor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExitReason {
    /// It was asked to go (a stop of the cluster, [`disconnect`](crate::CurrentWorker::disconnect), TERM) and did so in time.
    Asked,
    /// It was asked to go and killed because it did not within the grace period, or because the operator did not want to wait so long.
    GraceExpired,
    /// It exited with code 0 although nobody had asked it to.
    Finished,
    /// It had been ready, or was told to go, and ended with an error code or by a signal that nobody had asked for.
    Crashed,
    /// It ended, or could not be spawned, before it was ever ready.
    FailedToStart,
    /// It was not ready within the start timeout and was killed.
    StartTimedOut,
    /// It broke the protocol on one of its lanes and was killed.
    Misbehaved,
    /// Its runtime was stuck for longer than the watchdog allows, and it was aborted.
    Stuck,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.status)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "ended as asked",
            Self::GraceExpired => "did not end within the grace period",
            Self::Finished => "finished",
            Self::Crashed => "crashed",
            Self::FailedToStart => "failed before it was ready",
            Self::StartTimedOut => "was not ready within the start timeout",
            Self::Misbehaved => "broke the protocol",
            Self::Stuck => "was stuck and was aborted",
        })
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}
