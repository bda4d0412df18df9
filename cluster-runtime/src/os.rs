//! Every unsafe block of the crate, each behind a safe function with its reason.
//!
//! Nothing here knows what a worker is; callers say what they mean and this file says how Linux is asked for it.
#![expect(unsafe_code, reason = "this file is where the crate keeps its unsafe blocks")]

#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BufMut;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, SealFlag, fcntl, open};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction};
use nix::sys::socket::sockopt::{self, AttachReusePortCbpf};
use nix::sys::socket::{ControlMessage, MsgFlags, SockType, getsockopt, recv, sendmsg, setsockopt};
use nix::sys::stat::Mode;
use nix::unistd::{
    Gid, Pid, Uid, chdir, ftruncate, setfsgid, setfsuid, setgroups, setpgid, setresgid, setresuid, setsid, write,
};
use socket2::SockAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::ExitStatus;
use crate::board::Sheet;

/// Room for the 253 descriptors that Linux lets one message carry: a peer cannot send more than we have room for.
const CONTROL_SPACE: usize = 1040;

#[repr(align(8))]
struct ControlSpace([u8; CONTROL_SPACE]);

/// Removes `name` from this process's environment.
///
/// Refuses when another thread runs, because that thread may be reading the environment at this moment.
pub(crate) fn remove_env(name: &str) -> io::Result<()> {
    if thread_count()? > 1 {
        return Err(io::Error::other("another thread was started before cluster took over; start it after"));
    }
    // SAFETY: this is the only thread of the process, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
    Ok(())
}

/// Takes ownership of a descriptor that this process inherited under a number agreed with its parent.
///
/// From here on it is closed on exec, so that no grandchild keeps it. Call it once for a number.
pub(crate) fn adopt_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the borrow lives for the two fcntl calls only, and a number that is not open makes them fail cleanly.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD)?;
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open (fcntl succeeded), was made by the parent for us alone, and boot adopts each
    // number once, before anything else runs.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets a descriptor stay open, under its number, when this process executes another program. So does each program that is started
/// meanwhile.
pub(crate) fn keep_number_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: the borrow lives for one fcntl call only, and a number that is not open makes it fail cleanly.
    keep_on_exec(unsafe { BorrowedFd::borrow_raw(number) })
}

fn keep_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// A second descriptor, closed on exec, for what is open as `number`, which stays open.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the borrow lives for one fcntl call only, and a number that is not open makes it fail cleanly.
    let duplicate = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Takes ownership of the descriptor `number` if it is a socket that listens or receives datagrams and that this process
/// inherited, which shows by its not being closed on exec: what Rust opens is. Call it once for a number.
pub(crate) fn adopt_socket(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the borrow lives for the next few calls only, and a number that is not open, or no socket, makes them fail cleanly.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD).ok()?).contains(FdFlag::FD_CLOEXEC) {
        return None;
    }
    let is_port = match getsockopt(&borrowed, sockopt::SockType).ok()? {
        SockType::Stream => getsockopt(&borrowed, sockopt::AcceptConn).ok()?,
        SockType::Datagram => true,
        _ => false,
    };
    if is_port { adopt_inherited(number).ok() } else { None }
}

/// Lets clients send data with their first packet (TCP Fast Open), at most so many that are not yet established.
pub(crate) fn set_fast_open(socket: BorrowedFd<'_>, pending: u32) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_FASTOPEN, pending)
}

/// Lets connections wait in the kernel until the client has sent something, or the time, in whole seconds, is over.
pub(crate) fn set_defer_accept(socket: BorrowedFd<'_>, time: Duration) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_DEFER_ACCEPT, time.as_secs().max(1).try_into().unwrap_or(u32::MAX))
}

fn set_tcp_option(socket: BorrowedFd<'_>, option: libc::c_int, value: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads one integer, from a live place of that size.
    let done = unsafe {
        let place = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, place, size_of_val(&value) as libc::socklen_t)
    };
    Errno::result(done)?;
    Ok(())
}

/// Has the child of `command` close every descriptor above stderr when it executes, whoever has left it open. To be followed by
/// [`prepare_child`], which keeps those that are the child's.
pub(crate) fn close_others(command: &mut Command) {
    // SAFETY: the closure makes system calls only, and what it needs of memory is on its stack.
    unsafe { command.pre_exec(|| Ok(close_others_on_exec()?)) };
}

/// Has every descriptor above stderr closed when this process executes another program. Async-signal-safe.
pub(crate) fn close_others_on_exec() -> Result<(), Errno> {
    let (first, last): (libc::c_uint, libc::c_uint) = (FIRST_OTHER.cast_unsigned(), libc::c_uint::MAX);
    // SAFETY: the call takes three integers.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    match Errno::result(done) {
        Ok(_) => Ok(()),
        // Linux before 5.11 does not know it, and a filter of system calls may not let it through.
        Err(_) => close_listed_on_exec(),
    }
}

/// The same, by the list that `/proc` has of them.
fn close_listed_on_exec() -> Result<(), Errno> {
    let list = open(c"/proc/self/fd", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut space = EntrySpace([0; ENTRY_SPACE]);
    loop {
        // SAFETY: the kernel writes at most so many bytes to a live place, which is aligned as entries are.
        let len = unsafe { libc::syscall(libc::SYS_getdents64, list.as_raw_fd(), space.0.as_mut_ptr(), ENTRY_SPACE) };
        let mut entries = match Errno::result(len)? {
            0 => return Ok(()),
            len => space.0.get(..len as usize).unwrap_or_default(),
        };
        // Of each entry: two words, its length in two bytes, a byte, and the name with a zero behind it.
        while entries.len() > 19 {
            let length = usize::from(u16::from_ne_bytes([entries[16], entries[17]])).clamp(1, entries.len());
            let (entry, rest) = entries.split_at(length);
            if let Some(number) = number_of(entry.get(19..).unwrap_or_default())
                && number >= FIRST_OTHER
            {
                // SAFETY: the borrow lives for one fcntl call only, and a number that is not open makes it fail cleanly.
                _ = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
            }
            entries = rest;
        }
    }
}

/// A decimal number with a zero byte behind it.
fn number_of(name: &[u8]) -> Option<RawFd> {
    let digits = name.split(|byte| *byte == 0).next()?;
    let add = |number: RawFd, digit: &u8| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(RawFd::from(digit - b'0')),
        _ => None,
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// Those below it are stdin, stdout and stderr.
const FIRST_OTHER: RawFd = 3;
const ENTRY_SPACE: usize = 2048;

#[repr(align(8))]
struct EntrySpace([u8; ENTRY_SPACE]);

/// Has the child of `command` write its process id to `pipe`, as four bytes, before it does anything else; so call it first.
///
/// Until a child has executed, whoever spawns it waits, and only this tells whom to kill if that takes too long.
pub(crate) fn tell_pid(command: &mut Command, pipe: OwnedFd) {
    let tell = move || {
        write(&pipe, &std::process::id().to_ne_bytes())?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(tell) };
}

/// How many bytes were written to a socket that its peer has not taken: for TCP those that it has not acknowledged.
#[cfg(feature = "axum")]
pub(crate) fn unsent(socket: RawFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one integer, to a live place of that size; a number that is no socket makes it fail cleanly.
    Errno::result(unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(bytes.unsigned_abs())
}

/// Has the kernel drop what the peer has not taken, and reset the connection, when the socket is closed.
#[cfg(feature = "axum")]
pub(crate) fn reset_on_close(socket: RawFd) -> io::Result<()> {
    // SAFETY: the borrow lives for one call only, and a number that is no socket makes it fail cleanly.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

/// Lets the child of `command` inherit `fds` and start with `blocked` signals held back.
///
/// The flags are changed in the child between fork and exec: changed in the parent they would leak into whatever another
/// thread spawns at the same moment.
pub(crate) fn prepare_child(command: &mut Command, fds: Vec<RawFd>, blocked: SigSet) {
    let prepare = move || {
        for fd in &fds {
            // SAFETY: the parent keeps the descriptors open until spawn has returned.
            fcntl(unsafe { BorrowedFd::borrow_raw(*fd) }, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?;
        Ok(())
    };
    // SAFETY: the closure makes system calls only: no allocation, no lock, nothing that is not async-signal-safe.
    unsafe { command.pre_exec(prepare) };
}

/// One thing that a child changes about itself before it executes.
#[derive(Debug)]
pub(crate) enum Change {
    /// The text that the kernel is given.
    OomScore(String),
    /// Soft and hard.
    Limit(Resource, u64, u64),
    Nice(i32),
    Cores(CpuSet),
    Directory(CString),
    /// A session of its own, so that there is no controlling terminal, and a process group of its own.
    Session,
    /// A process group of its own, so that a terminal's Ctrl-C reaches the primary only, and no controlling terminal.
    ProcessGroup,
    /// No capability that an executed file could still bring. Where it is `needless` because nothing is gained by executing a file, it
    /// does not matter that the kernel refuses it.
    BoundingSet {
        needless: bool,
    },
    Groups(Vec<Gid>),
    Group(Gid),
    User(Uid),
    /// None that is held, and none that is passed on, whatever the securebits made of the change of the user.
    Capabilities,
    NoNewPrivileges,
}

impl Change {
    /// Makes the change to the calling process, by system calls only.
    fn make(&self) -> Result<(), Errno> {
        match self {
            Self::OomScore(score) => {
                let file = open(c"/proc/self/oom_score_adj", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
                write(file, score.as_bytes()).map(drop)
            }
            Self::Limit(resource, soft, hard) => setrlimit(*resource, *soft, *hard),
            Self::Nice(nice) => {
                // SAFETY: the call takes three integers.
                Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, *nice) }).map(drop)
            }
            Self::Cores(cores) => sched_setaffinity(Pid::from_raw(0), cores),
            Self::Directory(path) => chdir(path.as_c_str()),
            Self::Session => setsid().map(drop),
            Self::ProcessGroup => {
                setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                leave_terminal()
            }
            Self::BoundingSet { needless } => match empty_bounding_set() {
                Err(Errno::EPERM) if *needless => Ok(()),
                done => done,
            },
            Self::Groups(groups) => setgroups(groups),
            Self::Group(group) => setresgid(*group, *group, *group),
            Self::User(user) => setresuid(*user, *user, *user),
            Self::Capabilities => drop_capabilities(),
            Self::NoNewPrivileges => set_no_new_privs(),
        }
    }
}

/// Drops every capability that the calling thread could get by executing a file. Async-signal-safe.
fn empty_bounding_set() -> Result<(), Errno> {
    let control = |option: libc::c_int, capability: libc::c_ulong| {
        let unused: libc::c_ulong = 0;
        // SAFETY: the call takes integers.
        Errno::result(unsafe { libc::prctl(option, capability, unused, unused, unused) })
    };
    for capability in 0..=MOST_CAPABILITIES {
        match control(libc::PR_CAPBSET_READ, capability) {
            Ok(0) => {}
            Ok(_) => _ = control(libc::PR_CAPBSET_DROP, capability)?,
            // There are no more.
            Err(_) => break,
        }
    }
    Ok(())
}

/// They are bits of two words.
const MOST_CAPABILITIES: libc::c_ulong = 63;

/// Takes all capabilities from the calling thread, those too that it would pass on. Async-signal-safe.
fn drop_capabilities() -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    /// Held, to be had, passed on.
    type Sets = [u32; 3];
    let mut header = Header { version: 0x2008_0522, pid: 0 };
    let none: [Sets; 2] = [[0; 3]; 2];
    // SAFETY: both are live and laid out as version 3 of the call has them; it may write the version.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) }).map(drop)
}

/// A user as the file system sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) user: Uid,
    pub(crate) group: Gid,
    pub(crate) groups: Vec<Gid>,
}

/// Does `work` on a thread that has the rights of `actor` for files and paths, and no others.
///
/// # Errors
/// What `work` says; and if this process may not choose whom it acts as.
pub(crate) fn act_as<T: Send>(actor: &Actor, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let act = || {
        become_actor(actor)?;
        work()
    };
    // A thread that ends after it: what it has given up does not come back.
    std::thread::scope(|scope| {
        let acting = std::thread::Builder::new().name("cluster-as-user".into()).spawn_scoped(scope, act)?;
        acting.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")))
    })
}

/// For the calling thread alone. Not by setuid(2) and the like: whoever had the same user id might send signals to this thread, and with it
/// to the process. And the C library's setgroups changes all threads.
fn become_actor(Actor { user, group, groups }: &Actor) -> io::Result<()> {
    let groups: Vec<libc::gid_t> = groups.iter().map(|group| group.as_raw()).collect();
    // SAFETY: the kernel reads so many numbers from a live place.
    Errno::result(unsafe { libc::syscall(SYS_SETGROUPS, groups.len(), groups.as_ptr()) })?;
    setfsgid(*group);
    setfsuid(*user);
    drop_capabilities()?;
    // These two say nothing of a failure, but what was before; asked once more, they say what is.
    if setfsgid(*group) != *group || setfsuid(*user) != *user {
        return Err(Errno::EPERM.into());
    }
    Ok(())
}

/// The one that takes numbers of 32 bits.
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SYS_SETGROUPS: libc::c_long = libc::SYS_setgroups32;
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SYS_SETGROUPS: libc::c_long = libc::SYS_setgroups;

/// Whether the calling thread may make, rename and remove files in `directory`; `None` if the kernel does not say (before 5.8).
pub(crate) fn may_write(directory: BorrowedFd<'_>) -> Option<bool> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    let path = c"".as_ptr();
    // SAFETY: the path is a live string, and the kernel only reads it.
    let done = unsafe { libc::syscall(libc::SYS_faccessat2, directory.as_raw_fd(), path, libc::W_OK, flags) };
    match Errno::result(done) {
        Ok(_) => Some(true),
        Err(Errno::EACCES | Errno::EROFS) => Some(false),
        Err(_) => None,
    }
}

/// Gives up the controlling terminal, for this process alone: it stays in its session. By system calls only.
fn leave_terminal() -> Result<(), Errno> {
    // A process that has no terminal, or no /dev, has nothing to give up.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Ok(terminal) = open(c"/dev/tty", flags, Mode::empty()) else { return Ok(()) };
    // SAFETY: the request takes no argument, and the descriptor is open.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) }).map(drop)
}

/// Has the child of `command` make `changes`, one after the other, before it executes. Which of them the kernel refused
/// [`refused_change`] tells, of the error with which the spawn fails then.
pub(crate) fn change_child(command: &mut Command, changes: Arc<[Change]>) {
    let make = move || {
        for (index, change) in changes.iter().enumerate() {
            change
                .make()
                .map_err(|errno| io::Error::from_raw_os_error(errno as i32 | ((index as i32 + 1) << ERRNO_BITS)))?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, and what it reads was computed before the fork. Errors are plain numbers.
    unsafe { command.pre_exec(make) };
}

/// Of the error of a spawn: which change was refused, by its place in the list, and why.
pub(crate) fn refused_change(error: &io::Error) -> Option<(usize, io::Error)> {
    let number = error.raw_os_error()?;
    let index = usize::try_from(number >> ERRNO_BITS).ok()?.checked_sub(1)?;
    Some((index, io::Error::from_raw_os_error(number & ((1 << ERRNO_BITS) - 1))))
}

/// A child has one number to say why it cannot be executed. The kernel's errors end at 4095, so the upper bits are free.
const ERRNO_BITS: u32 = 16;

/// Has the child of `command` killed when this thread ends; so spawn it from the main thread.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call only.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
}

/// Opens a descriptor that becomes readable when the process ends.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us (closed on exec by its nature).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers a descriptor with the tokio runtime that this is called in.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open file from its creation to its drop, which the registration owns from here on.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// Reaps the child `pid`, which has ended.
///
/// Not by nix, which has no word for a real-time signal.
pub(crate) fn reap(pid: Pid) -> io::Result<ExitStatus> {
    let mut status = 0;
    // SAFETY: the call writes one integer, to a live place.
    let reaped = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::WNOHANG) };
    match Errno::result(reaped)? {
        0 => Err(io::Error::other("it has not ended")),
        _ if libc::WIFSIGNALED(status) => Ok(ExitStatus::Signal(libc::WTERMSIG(status))),
        _ => Ok(ExitStatus::Code(libc::WEXITSTATUS(status))),
    }
}

/// Makes this process survive `signals`; that TERM came is remembered for [`was_terminated`].
///
/// A handler and not `SIG_IGN`: exec resets a handler, so programs that this process starts get the default back.
pub(crate) fn outlive(signals: &[Signal]) -> io::Result<()> {
    extern "C" fn remember(signal: libc::c_int) {
        if signal == libc::SIGTERM {
            TERMINATED.store(true, Ordering::Relaxed);
        }
    }
    let action = SigAction::new(SigHandler::Handler(remember), SaFlags::SA_RESTART, SigSet::empty());
    for signal in signals {
        // SAFETY: the handler stores to an atomic and does nothing else, thus is async-signal-safe.
        unsafe { sigaction(*signal, &action) }?;
    }
    Ok(())
}

/// Whether TERM has come since [`outlive`] and before another handler took its place.
pub(crate) fn was_terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

static TERMINATED: AtomicBool = AtomicBool::new(false);

/// Leaves the signals that mean something to a primary to its main thread: one that another thread takes cannot wait for the program
/// that this process is about to become.
pub(crate) fn leave_signals_to_main() {
    _ = SigSet::from_iter(OF_THE_PRIMARY).thread_block();
}

/// Takes that back: what this thread starts inherits its mask.
pub(crate) fn take_signals_again() {
    _ = SigSet::from_iter(OF_THE_PRIMARY).thread_unblock();
}

const OF_THE_PRIMARY: [Signal; 10] = [
    Signal::SIGCHLD,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGPWR,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Whether whoever started this process made it ignore `signal`, as `nohup` does.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    // SAFETY: sigaction is plain data for which all zeroes is a valid value; the call only reads the disposition into it.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal as libc::c_int, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Makes ended children wait to be reaped, also if whoever started this process ignores its own.
pub(crate) fn keep_ended_children() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    Ok(())
}

/// Ends this process at once, without unwinding and without exit handlers.
pub(crate) fn kill_self() -> ! {
    _ = nix::sys::signal::kill(Pid::this(), Signal::SIGKILL);
    // SIGKILL of oneself does not return; a process that is PID 1 of its namespace is immune to it, though.
    // SAFETY: _exit takes an integer and never returns.
    unsafe { libc::_exit(137) }
}

/// Accepts one connection, never waiting: it is non-blocking and closed on exec from its first moment.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes an address of some family into the storage, and its length beside it; the descriptor that it
    // returns was made for us just now.
    unsafe {
        SockAddr::try_init(|storage, len| {
            let fd = Errno::result(libc::accept4(listener.as_raw_fd(), storage.cast(), len, flags))?;
            Ok(OwnedFd::from_raw_fd(fd))
        })
    }
}

/// Makes calls on an open file never wait, and its events raise no signals. All processes that share the file share these flags, and
/// each of them can change them. Returns whether one had to be put right.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let right = (flags | OFlag::O_NONBLOCK) & !OFlag::O_ASYNC;
    if flags != right {
        fcntl(fd, FcntlArg::F_SETFL(right))?;
    }
    Ok(flags != right)
}

/// Takes the count out of an eventfd, never waiting, whatever another process has done to the flags that it shares.
pub(crate) fn take_count(bell: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count = 0_u64;
    let part = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: size_of_val(&count) };
    // SAFETY: the kernel writes eight bytes at most, to a live place of that size. Offset -1 is where the file stands, as for read(2).
    let read = unsafe { libc::preadv2(bell.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    match Errno::result(read) {
        Ok(_) => Ok(count),
        // Kernels before 5.8 do not have this for an eventfd.
        Err(Errno::EOPNOTSUPP | Errno::ESPIPE | Errno::ENOSYS) => {
            set_nonblocking(bell)?;
            let mut bytes = [0; 8];
            nix::unistd::read(bell, &mut bytes)?;
            Ok(u64::from_ne_bytes(bytes))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads a socket option; `None` where this socket does not have it.
pub(crate) fn socket_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> Option<usize> {
    let mut len = libc::socklen_t::try_from(value.len()).ok()?;
    // SAFETY: the kernel writes as many bytes as `len` says at most, to a live place of that size.
    let read = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) };
    Errno::result(read).ok()?;
    usize::try_from(len).ok()
}

/// How many instructions the classic filter of a socket has; 0 if none is attached.
///
/// # Errors
/// EACCES for a filter of another kind, which cannot be read.
pub(crate) fn filter_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    // SO_GET_FILTER has the number of SO_ATTACH_FILTER.
    let (level, name, mut len) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, 0);
    // SAFETY: with a length of 0 the kernel writes nothing but the length itself, to a live place.
    let read = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, std::ptr::null_mut(), &raw mut len) };
    Errno::result(read)?;
    usize::try_from(len).map_err(io::Error::other)
}

/// Sets a socket option to what [`socket_option`] has read.
pub(crate) fn set_socket_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes from a live place of that size.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    Errno::result(set)?;
    Ok(())
}

/// Makes the shared memory of a cluster: of one size for ever, so that no process can make another one fault.
pub(crate) fn create_sheet() -> io::Result<OwnedFd> {
    let fd = memfd_create(c"cluster-board", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&fd, size_of::<Sheet>().try_into().map_err(io::Error::other)?)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

/// Maps the shared memory that [`create_sheet`] has made, for the rest of this process's life.
pub(crate) fn map_sheet(fd: BorrowedFd<'_>) -> io::Result<&'static Sheet> {
    let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    let size = File::from(fd.try_clone_to_owned()?).metadata()?.len();
    if size != size_of::<Sheet>() as u64 || !seals.contains(SealFlag::F_SEAL_SHRINK) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not the board of a cluster of this build"));
    }
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses the place, and the length is the sheet's.
    let place = unsafe {
        libc::mmap(std::ptr::null_mut(), size_of::<Sheet>(), protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
    };
    if place == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is never undone, is aligned to a page, and cannot shrink under us as its file is sealed. A sheet is made
    // of atomics only, so all bits are valid and other processes may write to it at any time.
    Ok(unsafe { &*place.cast::<Sheet>() })
}

/// The most bytes of state that one program hands down to the next: for each of a thousand workers, a window of messages.
pub(crate) const MOST_STATE: usize = 1 << 30;

/// What a metric has found out to be its cell; `None` as long as it has not.
#[inline]
pub(crate) fn cell(place: &AtomicPtr<AtomicU64>) -> Option<&'static AtomicU64> {
    // SAFETY: it is null, or was made from a reference into the mapping of a sheet, which is never undone, or into a static.
    unsafe { place.load(Ordering::Acquire).as_ref() }
}

/// Fills `bytes` with what nobody can guess; waits only while the machine has just started and has nothing of the kind.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the kernel writes at most as many bytes as the slice has, which is live and ours alone.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match Errno::result(count) {
            Ok(count) => filled += usize::try_from(count).map_err(io::Error::other)?,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Keeps state for the program that this process is about to become: in memory, and nobody can change it any more.
pub(crate) fn create_state(bytes: &[u8]) -> io::Result<OwnedFd> {
    if bytes.len() > MOST_STATE {
        return Err(state_of_size(bytes.len() as u64));
    }
    let mut file = File::from(memfd_create(c"cluster-state", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(STATE_SEALS))?;
    Ok(file.into())
}

/// What [`create_state`] was given.
pub(crate) fn read_state(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(fd.try_clone()?);
    // What is no memory file has no seals, which is an error here.
    let seals = SealFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GET_SEALS)?);
    if !seals.contains(STATE_SEALS) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "this is not the state of a cluster: it can be changed",
        ));
    }
    let size = file.metadata()?.len();
    let fitting = usize::try_from(size).ok().filter(|size| *size <= MOST_STATE);
    let mut bytes = vec![0; fitting.ok_or_else(|| state_of_size(size))?];
    // From its start, wherever whoever wrote it has left off.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

const STATE_SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE).union(SealFlag::F_SEAL_SEAL);

fn state_of_size(size: u64) -> io::Error {
    let text = format!("the state of the cluster takes {size} bytes and the limit is {MOST_STATE}");
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

/// Lets `program` choose among the sockets of the reuseport group that `socket` is in; it replaces the one before.
///
/// # Errors
/// EINVAL for a socket that is in no group, ENOMEM for a program beyond `net.core.optmem_max` (some 2500 instructions on kernels before
/// 6.8).
pub(crate) fn attach_steering(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    // The kernel copies the program; that it takes a pointer to mutable is an accident of its declaration. nix asks for no
    // unsafe block, though the pointer is ours to get right: it and `len` come from one live slice.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    setsockopt(&socket, AttachReusePortCbpf, &program).map_err(Into::into)
}

/// Gives the choice among the sockets of the group back to the kernel.
///
/// # Errors
/// ENOENT if no program is attached, EINVAL for a socket that is in no group.
pub(crate) fn detach_steering(socket: BorrowedFd<'_>) -> io::Result<()> {
    // libc does not have it for Linux. The number is of asm-generic, as all architectures use it that cluster runs on.
    const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;
    let unused: libc::c_int = 0;
    // SAFETY: the kernel reads one integer, from a live place of that size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_DETACH_REUSEPORT_BPF,
            (&raw const unused).cast(),
            size_of_val(&unused) as libc::socklen_t,
        )
    };
    Errno::result(done)?;
    Ok(())
}

/// Sends one packet with descriptors over a SEQPACKET socket; never blocks.
pub(crate) fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Writes to a stream socket, with descriptors along with the first byte; never blocks. Returns how many bytes it took.
pub(crate) fn send_stream(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(socket.as_raw_fd(), parts, control, flags, None)?)
}

/// What [`receive_stream`] found.
pub(crate) struct Received {
    /// Bytes that were read; 0 is the end of the stream.
    pub(crate) len: usize,
    /// There was room for no more, so more may be there.
    pub(crate) is_full: bool,
    /// The descriptors that came along with the last of them, owned from the first moment.
    pub(crate) fds: Vec<OwnedFd>,
    /// This process had no room for all of them.
    pub(crate) is_cut: bool,
}

impl Received {
    /// Whether this was as much as there was. (A read ends with the first descriptors that it finds, so behind those there may be more.)
    pub(crate) const fn is_all(&self) -> bool {
        self.len > 0 && !self.is_full && self.fds.is_empty() && !self.is_cut
    }
}

/// Reads from a stream socket into the room that there is behind what the buffer holds; never blocks.
pub(crate) fn receive_stream(socket: BorrowedFd<'_>, buffer: &mut impl BufMut) -> io::Result<Received> {
    let place = buffer.chunk_mut();
    let (start, room) = (place.as_mut_ptr(), place.len());
    let mut space = ControlSpace([0; CONTROL_SPACE]);
    let mut part = libc::iovec { iov_base: start.cast(), iov_len: room };
    let (len, header) = receive(socket, &mut part, &mut space)?;
    // SAFETY: the kernel has written so many bytes to the start of the place, which is no shorter.
    unsafe { buffer.advance_mut(len) };
    Ok(Received {
        len,
        is_full: len == room,
        fds: take_rights(&header),
        is_cut: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// What [`receive_packet`] found.
pub(crate) struct Packet {
    /// Bytes of the buffer that were filled; 0 is the end of the lane.
    pub(crate) len: usize,
    /// The descriptors that came along and for which this process had room, owned from the first moment.
    pub(crate) fds: Vec<OwnedFd>,
    /// The packet was larger than the buffer.
    pub(crate) is_oversized: bool,
}

/// Receives one packet with its descriptors from a SEQPACKET socket; never blocks.
pub(crate) fn receive_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut space = ControlSpace([0; CONTROL_SPACE]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let (len, header) = receive(socket, &mut part, &mut space)?;
    let is_oversized = header.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Packet { len, fds: take_rights(&header), is_oversized })
}

/// The first bytes of the packet that comes next, which stays where it is with all of its descriptors; never blocks.
pub(crate) fn peek_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
}

/// Calls recvmsg, which fills `part` and `space`. Whatever comes of it, the descriptors in the header are to be taken.
fn receive(
    socket: BorrowedFd<'_>,
    part: &mut libc::iovec,
    space: &mut ControlSpace,
) -> io::Result<(usize, libc::msghdr)> {
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = space.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_SPACE;
    // SAFETY: the header points to live buffers of the lengths that it states.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    Ok((usize::try_from(Errno::result(received)?).map_err(io::Error::other)?, header))
}

/// Owns every descriptor that a received message installed, also when the kernel had to cut the list short (which it does
/// when this process runs out of descriptors): nix gives up on such a message, and those already installed would leak.
///
/// The kernel adds a descriptor of the sender itself where another process has set `SO_PASSPIDFD` on the socket. That one is closed.
fn take_rights(header: &libc::msghdr) -> Vec<OwnedFd> {
    // linux/socket.h; libc does not have it for all targets.
    const SCM_PIDFD: libc::c_int = 4;
    let mut fds = Vec::new();
    // SAFETY: the header was filled by recvmsg and its control buffer is alive; the CMSG functions stay inside the length
    // that the kernel wrote, and each number found is a descriptor made for us just now, owned exactly once, here.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = control.as_ref() {
            let count = (message.cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
            let numbers = libc::CMSG_DATA(control).cast::<RawFd>();
            let owned = (0..count).map(|i| numbers.add(i).read_unaligned()).filter(|number| *number >= 0);
            let owned = owned.map(|number| OwnedFd::from_raw_fd(number));
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => fds.extend(owned),
                (libc::SOL_SOCKET, SCM_PIDFD) => owned.for_each(drop),
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    fds
}

/// How many descriptors this process may have.
pub(crate) fn most_descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _hard)| soft)
}

fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}
