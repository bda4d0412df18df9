//! Makes worker processes and waits for their end.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, io};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2, read};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::logs::LogFile;
use super::workplace::Place;
use crate::aside::Aside;
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
            return Err(io::Error::other("it is no regular file"));
        }
        Ok(Self::of(file.into()))
    }

    /// To the open file itself, whatever its own path has become.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// What runs it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.path());
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
        command.stdin(Stdio::null());
        let (told, teller) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        os::tell_pid(&mut command, teller);
        os::close_others(&mut command);
        place.furnish(&mut command)?;
        boot::mark_worker(&mut command, identity, &lanes);
        let pid = start(command, &told).map_err(|error| place.explain(error))?;
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

/// How long a child may take to execute, and with it to enter its directory. The program may have to be read from a disk.
const TO_EXECUTE: Duration = Duration::from_secs(5);

/// Spawns it, and waits until it has executed, but no longer than five seconds: its directory and its program are somewhere in the file
/// system. One that takes longer is killed by what it has `told`.
fn start(mut command: Command, told: &OwnedFd) -> io::Result<Pid> {
    static SPAWNS: Aside = Aside::new();
    let path = PathBuf::from("a new process");
    let begun = SPAWNS
        .begin(&path, move || command.spawn().map(|child| Unclaimed(Some(Pid::from_raw(child.id().cast_signed())))))?;
    let mut unclaimed = begun.wait(TO_EXECUTE).inspect_err(|error| {
        let mut pid = [0; 4];
        if error.kind() == io::ErrorKind::TimedOut && read(told, &mut pid) == Ok(pid.len()) {
            // Whoever waits for it to execute reaps it afterwards, so the number is its own until then.
            _ = kill(Pid::from_raw(i32::from_ne_bytes(pid)), Signal::SIGKILL);
        }
    })?;
    unclaimed.0.take().ok_or_else(|| io::Error::other("it has been reaped"))
}

/// A child that is too late for the one who wanted it.
struct Unclaimed(Option<Pid>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            abandon(pid);
        }
    }
}

/// A worker that could not be set up has seen nothing of the user's program yet.
fn abandon(pid: Pid) {
    _ = kill(pid, Signal::SIGKILL);
    _ = waitpid(pid, None);
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs::{self, File};
    use std::os::unix::ffi::OsStrExt as _;
    use std::time::Instant;

    use super::*;
    use crate::os::Change;

    /// A file system that does not answer, which takes root.
    #[test]
    fn a_child_that_cannot_execute_is_killed_and_reaped() {
        let place = env::temp_dir().join(format!("cluster-spawn-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let server = File::options().read(true).write(true).open("/dev/fuse");
        let mounted = server.and_then(|server| {
            let mut mount = Command::new("mount");
            mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "hung"]).arg(&place);
            Ok((mount.stdin(server.try_clone()?).stderr(Stdio::null()).status()?.success(), server))
        });
        let Ok((true, server)) = mounted else {
            eprintln!("SKIPPED: this process may not mount");
            return fs::remove_dir(&place).unwrap();
        };
        let [(told, teller), (seen, shown)] = [(); 2].map(|()| pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap());
        let mut command = Command::new("true");
        os::tell_pid(&mut command, teller);
        os::tell_pid(&mut command, shown);
        let path = CString::new(place.as_os_str().as_bytes()).unwrap();
        os::change_child(&mut command, [Change::Directory(path)].into());
        let error = start(command, &told).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut pid = [0; 4];
        assert_eq!(read(&seen, &mut pid), Ok(4));
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::exists(format!("/proc/{}", i32::from_ne_bytes(pid))).unwrap() {
            assert!(Instant::now() < deadline, "it is neither killed nor reaped");
            std::thread::yield_now();
        }
        drop(server);
        assert!(Command::new("umount").arg("-l").arg(&place).status().unwrap().success());
        fs::remove_dir(&place).unwrap();
    }
}
