//! Every unsafe block of the crate, each behind a safe function with its reason.
//!
//! Nothing here knows what a worker is; callers say what they mean and this file says how Linux is asked for it.
#![expect(unsafe_code, reason = "this file is where the crate keeps its unsafe blocks")]

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
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction};
use nix::sys::socket::sockopt::{self, AttachReusePortCbpf};
use nix::sys::socket::{ControlMessage, MsgFlags, SockType, getsockopt, sendmsg, setsockopt};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid, chdir, ftruncate, setgroups, setresgid, setresuid, write};
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
    Groups(Vec<Gid>),
    Group(Gid),
    User(Uid),
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
            Self::Groups(groups) => setgroups(groups),
            Self::Group(group) => setresgid(*group, *group, *group),
            Self::User(user) => setresuid(*user, *user, *user),
            Self::NoNewPrivileges => set_no_new_privs(),
        }
    }
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

/// Makes calls on an open file never wait, whoever shares it.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
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
    /// The descriptors that came along, owned from the first moment.
    pub(crate) fds: Vec<OwnedFd>,
    /// The packet was larger than the buffer, or this process has no room for more descriptors.
    pub(crate) truncated: bool,
}

/// Receives one packet with its descriptors from a SEQPACKET socket; never blocks.
pub(crate) fn receive_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut space = ControlSpace([0; CONTROL_SPACE]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let (len, header) = receive(socket, &mut part, &mut space)?;
    let truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok(Packet { len, fds: take_rights(&header), truncated })
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
fn take_rights(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the header was filled by recvmsg and its control buffer is alive; the CMSG functions stay inside the length
    // that the kernel wrote, and each number found is a descriptor made for us just now, owned exactly once, here.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = control.as_ref() {
            if message.cmsg_level == libc::SOL_SOCKET && message.cmsg_type == libc::SCM_RIGHTS {
                let count = (message.cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let numbers = libc::CMSG_DATA(control).cast::<RawFd>();
                fds.extend((0..count).map(|i| OwnedFd::from_raw_fd(numbers.add(i).read_unaligned())));
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    fds
}

fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn state_is_read_as_it_was_written_and_nobody_can_change_it() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        let fd = create_state(&bytes).unwrap();
        let mut file = File::from(fd.try_clone().unwrap());
        assert!(file.write_all(b"more").is_err());
        assert!(file.set_len(1).is_err());
        assert!(fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE)).is_err());
        assert_eq!(read_state(&fd).unwrap(), bytes);
        assert_eq!(read_state(&create_state(&[]).unwrap()).unwrap(), b"");
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let unsealed = memfd_create(c"plain", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(read_state(&unsealed).is_err());
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(read_state(&end.into()).is_err());
        let huge = File::from(memfd_create(c"huge", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        huge.set_len(MOST_STATE as u64 + 1).unwrap();
        fcntl(&huge, FcntlArg::F_ADD_SEALS(STATE_SEALS)).unwrap();
        assert_eq!(read_state(&huge.into()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_kept_on_exec_is_closed_on_exec_again_once_it_is_adopted() {
        let is_closed = |fd: BorrowedFd<'_>| {
            FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
        };
        let fd = create_state(b"").unwrap();
        assert!(is_closed(fd.as_fd()));
        keep_on_exec(fd.as_fd()).unwrap();
        assert!(!is_closed(fd.as_fd()));
        let fd = adopt_inherited(std::os::fd::IntoRawFd::into_raw_fd(fd)).unwrap();
        assert!(is_closed(fd.as_fd()));
    }
}
