//! Makes worker processes and waits for their end.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, io};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::workplace::{LogFile, Place};
use crate::boot::{self, Identity, Lanes};
use crate::control::{self, Control};
use crate::{ExitStatus, os};

/// The program that a generation's workers are: pinned by an open descriptor, so that a replacement after a crash is the same
/// build even if the file on disk was replaced meanwhile.
#[derive(Debug)]
pub(super) struct Image {
    file: OwnedFd,
    arguments: Vec<OsString>,
}

/// A process of ours that is not reaped yet. Its pid is safe to use: the kernel gives it to nobody else before we reap.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    ended: AsyncFd<OwnedFd>,
}

/// A new worker, with the primary's ends of its lanes.
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) control: Control,
    pub(super) messages: OwnedFd,
    pub(super) log: Option<LogFile>,
    /// Our ends of its pipes, if this process prints what comes from them.
    pub(super) output: Option<[OwnedFd; 2]>,
}

impl Image {
    /// The program that this process runs, with its arguments.
    pub(super) fn of_this_process() -> io::Result<Self> {
        // As a path only: the file may be executable and not readable.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc/self/exe");
        let file = file.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open /proc/self/exe, is /proc mounted? {error}"))
        })?;
        Ok(Self::of(file.into()))
    }

    /// A file that is open already, with the arguments of this process.
    pub(super) fn of(file: OwnedFd) -> Self {
        Self { file, arguments: env::args_os().collect() }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The program at `path`, with the arguments of this process.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        Ok(Self::of(file.into()))
    }

    /// What runs it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        if let [program, arguments @ ..] = self.arguments.as_slice() {
            command.arg0(program).args(arguments);
        }
        command
    }

    /// Spawns one worker in its place. Call it on the main thread, inside the runtime.
    pub(super) fn spawn(&self, identity: Identity, mut place: Place<'_>) -> io::Result<Spawned> {
        let (control, theirs) = control::pair()?;
        let (messages, their_messages) = UnixStream::pair()?;
        let lanes = Lanes { control: theirs, messages: their_messages.into() };
        let mut command = self.command();
        // A group of its own, so that a terminal's Ctrl-C reaches the primary only; and no terminal to read from, which a
        // process in the background is stopped for.
        command.process_group(0).stdin(Stdio::null());
        place.furnish(&mut command)?;
        boot::mark_worker(&mut command, identity, &lanes);
        let spawned = command.spawn().map_err(|error| place.explain(error))?;
        let pid = Pid::from_raw(spawned.id().cast_signed());
        let child = Child::of(pid).inspect_err(|_| abandon(pid))?;
        let control = Control::new(control).inspect_err(|_| abandon(pid))?;
        let (log, output) = place.take(pid)?;
        Ok(Spawned { child, control, messages: messages.into(), log, output })
    }
}

impl Child {
    /// A child of this process that nobody else reaps.
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid, ended: os::register(os::pidfd_open(pid)?, Interest::READABLE)? })
    }

    pub(super) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the process to end, without reaping it. Cancel safe.
    pub(super) async fn ended(&self) {
        // An error would mean that the runtime shuts down, and this process with it.
        _ = self.ended.readable().await;
    }

    /// Reaps the process, which has ended.
    pub(super) fn reap(&self) -> ExitStatus {
        os::reap(self.pid).unwrap_or_else(|error| {
            tracing::error!(pid = %self.pid, %error, "cannot tell how a worker ended: something else has reaped it");
            ExitStatus::Code(255)
        })
    }
}

/// A worker that could not be set up has seen nothing of the user's program yet.
fn abandon(pid: Pid) {
    _ = kill(pid, Signal::SIGKILL);
    _ = waitpid(pid, None);
}
