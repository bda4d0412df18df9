//! Which role does this process have? Both ends of the contract between a primary and the worker that it spawns.
//!
//! The primary sets one environment variable, the *mark*, and lets the child inherit one end of each lane. The worker reads
//! the mark and removes it at once, before any thread exists, so that what the worker itself starts is not taken for a
//! worker.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::OnceLock;
use std::{fmt, io};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::unistd::{Pid, getppid};

use crate::{WorkerId, os};

/// The environment variable that makes a process a worker.
pub(crate) const MARK: &str = "CLUSTER_WORKER";
/// How the mark begins of a process that is no worker: the next program of a primary, or one that is tried for that. A program that
/// does not know of such things takes it for a worker's, and refuses it with a clear text.
const NO_WORKER: &str = "2 ";

/// Where the service manager listens; see `sd_notify(3)`.
pub(crate) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// What is between the service manager and the primary alone: it passes over what workers say, and its watchdog is not theirs.
const OF_THE_MANAGER: [&str; 3] = [NOTIFY_SOCKET, "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Signals that must not kill a worker. All but TERM are orders to the primary, which reach a worker too when they go to a whole
/// process group or to every process of a name (`pkill -HUP app`). The primary blocks them in the child, so that the worker is
/// safe from its first instruction until it has its handlers.
const OUTLIVED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// What this process is.
pub(crate) enum Role {
    Primary,
    Worker(Inheritance),
    /// The program that a running primary has become.
    Successor(Succession),
    /// A program that is asked whether it could.
    Trial(Trial),
}

/// What the next program of a primary gets.
pub(crate) struct Succession {
    /// What the primary leaves, until it has been taken over: then there is nothing any more to give back.
    pub(crate) state: Option<OwnedFd>,
    /// This is the program that was, and the one after it did not go on because of this.
    pub(crate) reason: Option<OwnedFd>,
}

/// What a program gets that is tried.
pub(crate) struct Trial {
    pub(crate) state: OwnedFd,
    /// Where the answer goes.
    pub(crate) verdict: OwnedFd,
}

/// Who a worker is, fixed when it was spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) worker: WorkerId,
    pub(crate) slot: usize,
    pub(crate) generation: u64,
}

/// What a worker gets from its primary.
pub(crate) struct Inheritance {
    pub(crate) identity: Identity,
    /// Readable once the primary is gone.
    pub(crate) primary: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) messages: OwnedFd,
}

/// The worker's ends of its lanes, held by the primary until the child has them.
pub(crate) struct Lanes {
    pub(crate) control: OwnedFd,
    pub(crate) messages: OwnedFd,
}

/// Whether this process is a worker of a cluster.
///
/// Answers anywhere and at any time, before [`run`](crate::run) too. A process that is not a worker is a primary, or will be
/// once it calls `run`; what a worker itself starts is no worker.
#[must_use]
pub fn is_worker() -> bool {
    let is_worker = |mark: std::ffi::OsString| !mark.as_encoded_bytes().starts_with(NO_WORKER.as_bytes());
    *IS_WORKER.get_or_init(|| std::env::var_os(MARK).is_some_and(is_worker))
}

/// Whether this process is not a worker: the counterpart of [`is_worker`].
#[must_use]
pub fn is_primary() -> bool {
    !is_worker()
}

static IS_WORKER: OnceLock<bool> = OnceLock::new();

/// The worker's end: finds out the role and takes what was inherited.
///
/// Call it once, first thing in `main`.
pub(crate) fn take_role() -> Result<Role, BootError> {
    if !is_worker() {
        return match std::env::var_os(MARK) {
            None => Ok(Role::Primary),
            Some(text) => {
                os::remove_env(MARK).map_err(BootError::Os)?;
                let text = text.to_string_lossy().into_owned();
                primary_role(&text).ok_or(BootError::Mark(text))
            }
        };
    }
    // Taken for a worker at the first look, but the mark is gone: `run` was called a second time.
    let text = std::env::var_os(MARK).ok_or(BootError::Twice)?;
    let mark = text.to_str().and_then(Mark::parse).ok_or_else(|| BootError::Mark(text.to_string_lossy().into()))?;
    os::remove_env(MARK).map_err(BootError::Os)?;
    os::outlive(&OUTLIVED).map_err(BootError::Os)?;
    SigSet::from_iter(OUTLIVED).thread_unblock().map_err(|error| BootError::Os(error.into()))?;
    mark.claim().map(Role::Worker)
}

/// The mark of the next program of this primary, as a line of the environment.
pub(crate) fn succession_mark(state: &OwnedFd, reason: Option<&OwnedFd>) -> std::ffi::OsString {
    let reason = reason.map_or(-1, AsRawFd::as_raw_fd);
    format!("{MARK}={NO_WORKER}primary={} state={} reason={reason}", Pid::this(), state.as_raw_fd()).into()
}

/// Makes `command` try whether its program could go on with what `state` holds.
pub(crate) fn mark_trial(command: &mut Command, state: &OwnedFd, verdict: &OwnedFd) {
    let (state, verdict) = (state.as_raw_fd(), verdict.as_raw_fd());
    command.env(MARK, format!("{NO_WORKER}primary={} state={state} verdict={verdict}", Pid::this()));
    OF_THE_MANAGER.into_iter().for_each(|name| _ = command.env_remove(name));
    os::close_others(command);
    os::prepare_child(command, vec![state, verdict], SigSet::empty());
    os::die_with_parent(command);
}

/// Reads such a mark; `None` if no primary has made it for this process.
fn primary_role(text: &str) -> Option<Role> {
    let mut words = text.strip_prefix(NO_WORKER)?.split(' ');
    let primary: i32 = words.next()?.strip_prefix("primary=")?.parse().ok()?;
    let state: RawFd = words.next()?.strip_prefix("state=")?.parse().ok()?;
    let (key, number) = words.next()?.split_once('=')?;
    let number: RawFd = number.parse().ok()?;
    let adopt = |number| if number > 2 { os::adopt_inherited(number).ok() } else { None };
    match key {
        "reason" if Pid::this().as_raw() == primary => {
            Some(Role::Successor(Succession { state: Some(adopt(state)?), reason: adopt(number) }))
        }
        "verdict" if getppid().as_raw() == primary && state != number => {
            Some(Role::Trial(Trial { state: adopt(state)?, verdict: adopt(number)? }))
        }
        _ => None,
    }
}

/// The primary's end: makes `command` spawn the worker `identity` with its ends of the lanes.
pub(crate) fn mark_worker(command: &mut Command, identity: Identity, lanes: &Lanes) {
    let mark = Mark {
        identity,
        primary: Pid::this(),
        control: lanes.control.as_raw_fd(),
        messages: lanes.messages.as_raw_fd(),
    };
    command.env(MARK, mark.to_string());
    OF_THE_MANAGER.into_iter().for_each(|name| _ = command.env_remove(name));
    os::prepare_child(command, vec![mark.control, mark.messages], SigSet::from_iter(OUTLIVED));
}

/// Gives a worker the program's name back: it was executed by descriptor, so `ps` and `pkill` would see a number.
pub(crate) fn name_process() {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_name().unwrap_or_default();
    if let Ok(name) = std::ffi::CString::new(name.as_encoded_bytes()) {
        // Cosmetic, and only a name that is empty or cut could come of a failure.
        _ = nix::sys::prctl::set_name(&name);
    }
}

/// Why a process that carries the mark cannot be a worker, with the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error(
        "{MARK}={0:?} was not set by a running primary; it is this library's own mark. Unset it (for the number of \
         workers, set CLUSTER_WORKERS) and start the program again"
    )]
    Mark(String),
    #[error("{MARK} names process {0} as the primary, which is not this process's parent. Unset it and start again")]
    Stranger(Pid),
    #[error("{MARK} names descriptor {0}, which is not a lane to the primary ({1}). Unset it and start again")]
    Lane(RawFd, io::Error),
    #[error("cluster::run was called a second time in this process; call it once, as the body of main")]
    Twice,
    #[error("cannot become a worker: {0}")]
    Os(io::Error),
}

/// The text of the mark: `1 worker=17 slot=2 generation=1 primary=812 control=9 messages=11`, the contract's number first.
#[derive(Debug, PartialEq)]
struct Mark {
    identity: Identity,
    primary: Pid,
    control: RawFd,
    messages: RawFd,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity: Identity { worker, slot, generation }, primary, control, messages } = self;
        write!(f, "1 worker={worker} slot={slot} generation={generation} ")?;
        write!(f, "primary={primary} control={control} messages={messages}")
    }
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("1 ")?.split(' ');
        let mut number =
            |key: &str| -> Option<u64> { words.next()?.strip_prefix(key)?.strip_prefix('=')?.parse().ok() };
        let identity = Identity {
            worker: WorkerId::new(number("worker")?),
            slot: number("slot")?.try_into().ok()?,
            generation: number("generation")?,
        };
        let primary = Pid::from_raw(number("primary")?.try_into().ok()?);
        let control = number("control")?.try_into().ok()?;
        let messages = number("messages")?.try_into().ok()?;
        // One number for two lanes would be owned, and closed, twice.
        (words.next().is_none() && control != messages).then_some(Self { identity, primary, control, messages })
    }

    /// Checks that the primary is real and alive, and takes the lanes.
    fn claim(&self) -> Result<Inheritance, BootError> {
        // In this order: a descriptor opened for the right pid may belong to a later process of that number, but not if
        // our parent still has it afterwards.
        let primary = match os::pidfd_open(self.primary) {
            Ok(primary) => primary,
            // No such process; or a number that none can have.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {
                return Err(BootError::Stranger(self.primary));
            }
            Err(error) => return Err(BootError::Os(error)),
        };
        if getppid() != self.primary {
            return Err(BootError::Stranger(self.primary));
        }
        let control = self.lane(self.control, SockType::SeqPacket)?;
        let messages = self.lane(self.messages, SockType::Stream)?;
        Ok(Inheritance { identity: self.identity, primary, control, messages })
    }

    fn lane(&self, number: RawFd, kind: SockType) -> Result<OwnedFd, BootError> {
        if number <= 2 {
            return Err(BootError::Lane(number, io::Error::other("that is standard input or output")));
        }
        let fd = os::adopt_inherited(number).map_err(|error| BootError::Lane(number, error))?;
        match self.check_lane(fd.as_fd(), kind) {
            Ok(()) => Ok(fd),
            Err(error) => Err(BootError::Lane(number, error)),
        }
    }

    /// A lane is one end of a socket pair that the primary has made.
    fn check_lane(&self, fd: BorrowedFd<'_>, kind: SockType) -> io::Result<()> {
        if getsockopt(&fd, sockopt::SockType)? != kind {
            return Err(io::Error::other("another kind of socket"));
        }
        if getsockopt(&fd, sockopt::PeerCredentials)?.pid() != self.primary.as_raw() {
            return Err(io::Error::other("made by another process"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_as_it_was_written() {
        let identity = Identity { worker: WorkerId::new(17), slot: 2, generation: 1 };
        let mark = Mark { identity, primary: Pid::from_raw(812), control: 9, messages: 11 };
        assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
    }

    #[test]
    fn the_mark_of_another_process_makes_nobody_a_primary() {
        let other = std::process::id() + 1;
        for text in ["2 ", "2 primary=1 state=7", "2 primary=x state=7 reason=-1", "1 primary=1 state=7 reason=-1"] {
            assert!(primary_role(text).is_none(), "{text}");
        }
        assert!(primary_role(&format!("2 primary={other} state=7 reason=-1")).is_none());
        assert!(primary_role(&format!("2 primary={other} state=7 verdict=8")).is_none());
    }

    #[test]
    fn a_mark_that_somebody_typed_is_refused() {
        let good = "1 worker=17 slot=2 generation=1 primary=812 control=9 messages=11";
        assert!(Mark::parse(good).is_some());
        for bad in ["", "1", "4", "2 worker=17", &good[2..], &good[..good.len() - 1].replace("=1", "=-1"), "1 worker=x"]
        {
            assert_eq!(Mark::parse(bad), None, "{bad}");
        }
        assert_eq!(Mark::parse(&format!("{good} more=1")), None);
    }
}
