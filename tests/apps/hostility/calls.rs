//! The calls that take more than a line.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, listen, sendmsg, setsockopt, socket,
    socketpair, sockopt,
};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use socket2::{SockFilter, SockRef};

use super::held::{Held, Kind, Thing};
use super::options::{Opt, TCP_MD5SIG_EXT};

/// The same number for something else: as by dup2(2), in two steps.
pub(crate) fn put_over(number: RawFd, other: &OwnedFd) -> io::Result<()> {
    nix::unistd::close(number)?;
    let placed = fcntl(other, FcntlArg::F_DUPFD_CLOEXEC(number))?;
    if placed == number { Ok(()) } else { Err(io::Error::other("the number was taken meanwhile")) }
}

pub(crate) fn dev(name: &str) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(name != "full").open(format!("/dev/{name}"))?.into())
}

/// A socket of the same kind that has nothing to do with any of ours.
pub(crate) fn stranger(thing: &Thing) -> io::Result<OwnedFd> {
    match thing.kind {
        Kind::Listening => Ok(std::net::TcpListener::bind("127.0.0.1:0")?.into()),
        Kind::Datagrams => Ok(UdpSocket::bind("127.0.0.1:0")?.into()),
        _ => Ok(UnixStream::pair()?.0.into()),
    }
}

/// Changes flags of the open file, which all who hold it share.
pub(crate) fn change_flags(thing: &Thing, change: impl FnOnce(OFlag) -> OFlag) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&thing.same, FcntlArg::F_GETFL)?);
    fcntl(&thing.same, FcntlArg::F_SETFL(change(flags)))?;
    Ok(())
}

/// Has the kernel send a signal to a sibling with everything that comes.
pub(crate) fn signal_sibling(held: &Held, thing: &Thing) -> io::Result<()> {
    let sibling = held.siblings.first().ok_or(Errno::ESRCH)?;
    set_owner(thing, sibling.as_raw())?;
    change_flags(thing, |flags| flags | OFlag::O_ASYNC)
}

/// No library has F_SETOWN; a child that inherits the open file can say it.
fn set_owner(thing: &Thing, pid: i32) -> io::Result<()> {
    let script = "import fcntl,sys; fcntl.fcntl(0, fcntl.F_SETOWN, int(sys.argv[1]))";
    let status =
        Command::new("python3").args(["-c", script, &pid.to_string()]).stdin(thing.same.try_clone()?).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("F_SETOWN failed")) }
}

/// Programs for SO_ATTACH_FILTER.
pub(crate) fn take_nothing() -> Vec<SockFilter> {
    vec![SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0)]
}

/// Cuts each packet to so many bytes.
pub(crate) fn cut_to(bytes: u32) -> Vec<SockFilter> {
    vec![SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, bytes)]
}

/// Everything but SYNs: who is connected stays so.
pub(crate) fn take_no_newcomers() -> Vec<SockFilter> {
    let load_flags = SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 13);
    let is_syn = SockFilter::new((libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16, 0, 1, 2);
    let drop = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    let keep = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX);
    vec![load_flags, is_syn, drop, keep]
}

pub(crate) fn filter(thing: &Thing, program: &[SockFilter]) -> io::Result<()> {
    SockRef::from(&thing.same).attach_filter(program)
}

/// Sends all newcomers of the group to this socket.
pub(crate) fn steer_to(thing: &Thing, index: u32) -> io::Result<()> {
    let code = (libc::BPF_RET | libc::BPF_K) as u16;
    let program = [libc::sock_filter { code, jt: 0, jf: 0, k: index }];
    let program = libc::sock_fprog { len: 1, filter: program.as_ptr().cast_mut() };
    Ok(setsockopt(&thing.same, sockopt::AttachReusePortCbpf, &program)?)
}

pub(crate) fn set(thing: &Thing, option: Opt, value: &[u8]) -> io::Result<()> {
    option.set(&thing.same, value)
}

/// A key for all clients: the kernel drops what is not signed with it.
pub(crate) fn sign_all(thing: &Thing) -> io::Result<()> {
    let mut key = [0; 216];
    key[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    // A prefix of no bits.
    (key[128], key[129]) = (1, 0);
    key[130..132].copy_from_slice(&4_u16.to_ne_bytes());
    key[136..140].copy_from_slice(b"none");
    TCP_MD5SIG_EXT.set(&thing.same, &key)
}

pub(crate) fn listen_again(thing: &Thing, backlog: i32) -> io::Result<()> {
    Ok(listen(&thing.same, Backlog::new(backlog)?)?)
}

/// connect(2) with AF_UNSPEC: what listens does so no longer.
pub(crate) fn disconnect(thing: &Thing) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(&thing.same)?)
}

pub(crate) fn connect(thing: &Thing) -> io::Result<()> {
    let address: SocketAddr = ([127, 0, 0, 1], 9).into();
    Ok(rustix::net::connect(&thing.same, &address)?)
}

pub(crate) fn bind_elsewhere(thing: &Thing) -> io::Result<()> {
    let address: SocketAddr = ([127, 0, 0, 1], 0).into();
    Ok(rustix::net::bind(&thing.same, &address)?)
}

/// Takes connections, as many as come within a while, and serves none.
pub(crate) fn accept_and_keep(thing: &Thing) -> io::Result<()> {
    let listener = thing.same.try_clone()?;
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        loop {
            match rustix::net::accept(&listener) {
                Ok(connection) => kept.push(connection),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
    });
    Ok(())
}

pub(crate) fn send(thing: &Thing, bytes: &[u8], rights: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(rights)];
    let rights = if matches!(rights[0], ControlMessage::ScmRights([])) { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(thing.number, &[IoSlice::new(bytes)], rights, flags, None)?)
}

/// Until nothing more fits.
pub(crate) fn fill(thing: &Thing, bytes: &[u8], rights: &[RawFd]) -> io::Result<()> {
    send(thing, bytes, rights)?;
    while send(thing, bytes, rights).is_ok() {}
    Ok(())
}

/// Writes to the shared memory, as a stray pointer would.
pub(crate) fn write_to_board(place: u64, bytes: &[u8]) -> io::Result<()> {
    let board = board()?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.write_all_at(bytes, board.start + place)
}

pub(crate) fn fill_board(byte: u8) -> io::Result<()> {
    let board = board()?;
    write_to_board(0, &vec![byte; (board.end - board.start) as usize])
}

/// The file behind the memory, which the map still leads to.
pub(crate) fn board_file() -> io::Result<File> {
    let std::ops::Range { start, end } = board()?;
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/map_files/{start:x}-{end:x}"))
}

fn board() -> io::Result<std::ops::Range<u64>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.contains("/memfd:cluster"));
    let range = line.and_then(|line| line.split(' ').next()?.split_once('-'));
    let (start, end) = range.ok_or_else(|| io::Error::other("there is no board"))?;
    let number = |text| u64::from_str_radix(text, 16).map_err(io::Error::other);
    Ok(number(start)?..number(end)?)
}

/// Things that are no connections, of all kinds.
pub(crate) fn odd_things(held: &Held) -> io::Result<Vec<OwnedFd>> {
    let mut odd = vec![dev("null")?, dev("zero")?, File::open("/")?.into()];
    odd.push(nix::unistd::pipe()?.0);
    odd.push(nix::unistd::pipe()?.1);
    odd.push(nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty())?.0);
    odd.push(nix::sys::eventfd::EventFd::new()?.into());
    let timer: OwnedFd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty())?.into();
    odd.push(timer);
    odd.push(std::net::TcpListener::bind("127.0.0.1:0")?.into());
    odd.push(UdpSocket::bind("127.0.0.1:0")?.into());
    let (one, other) = UnixStream::pair()?;
    odd.extend([one.into(), other.into()]);
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty())?;
    odd.extend([one, other]);
    odd.push(socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?);
    for thing in held.of(Kind::Sending).chain(held.of(Kind::Listening)).take(1) {
        odd.push(thing.same.try_clone()?);
    }
    Ok(odd)
}

pub(crate) fn raw(things: &[OwnedFd]) -> Vec<RawFd> {
    things.iter().map(AsRawFd::as_raw_fd).collect()
}
