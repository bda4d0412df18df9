//! The condition of a socket that several processes share: what each of them can change about it, compared with what it was.
//!
//! A worker can set any option of the shard that it holds, and connections inherit most of them. So a shard is examined whenever it
//! changes hands. What differs is set back; a socket of which something cannot be set back, or not be read, is of no use any more.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, getpeername, getsockopt, sockopt};
use socket2::SockRef;

use super::Transport;
use crate::os;

/// The options of a socket as they should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition(Vec<Setting>);

#[derive(Clone, Debug)]
struct Setting {
    option: &'static Opt,
    value: Value,
}

/// The bytes of an option's value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    bytes: [u8; LONGEST],
    len: usize,
}

/// What [`Condition::mend`] has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Sound,
    /// These differed and are as they were.
    Mended(Vec<&'static str>),
    /// These differed, and the socket is to be replaced.
    Broken(Vec<&'static str>),
}

/// An option that another process can have changed.
#[derive(Debug)]
struct Opt {
    level: i32,
    number: i32,
    name: &'static str,
    /// Whether setting the value that was read makes it what it was.
    is_restorable: bool,
}

/// The longest value that is compared.
const LONGEST: usize = 48;

impl Condition {
    /// What `socket` is like now.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> Self {
        let setting = |option: &'static Opt| Some(Setting { option, value: option.read(socket)? });
        Self(OPTIONS.iter().filter_map(setting).collect())
    }

    /// Compares `socket` with this, and sets back what differs. Without a transport it is one end of a socket pair.
    pub(crate) fn mend(&self, socket: BorrowedFd<'_>, transport: Option<Transport>) -> Finding {
        let (mut mended, mut broken) = (Vec::new(), lost_function(socket, transport));
        match os::set_nonblocking(socket) {
            Ok(false) => {}
            Ok(true) => mended.push("file flags"),
            Err(_) => broken.push("file flags"),
        }
        if has_filter(socket) {
            match SockRef::from(&socket).detach_filter() {
                Ok(()) => mended.push("SO_ATTACH_FILTER"),
                Err(_) => broken.push("SO_ATTACH_FILTER"),
            }
        }
        for Setting { option, value } in &self.0 {
            if option.read(socket).as_ref() == Some(value) {
                continue;
            }
            let is_set = option.is_restorable && option.write(socket, value).is_ok();
            let is_back = is_set && option.read(socket).as_ref() == Some(value);
            if is_back { mended.push(option.name) } else { broken.push(option.name) }
        }
        match (mended.is_empty(), broken.is_empty()) {
            (true, true) => Finding::Sound,
            (false, true) => Finding::Mended(mended),
            (_, false) => Finding::Broken([broken, mended].concat()),
        }
    }

    /// Gives a connection that was accepted from a socket of another condition what it would have inherited from one of this.
    pub(crate) fn give_to(&self, connection: BorrowedFd<'_>, altered: &[&str]) {
        if has_filter(connection) {
            _ = SockRef::from(&connection).detach_filter();
        }
        let is_to_set = |setting: &&Setting| setting.option.is_restorable && altered.contains(&setting.option.name);
        for Setting { option, value } in self.0.iter().filter(is_to_set) {
            // What cannot be set is the client's bad luck: its connection was made while the socket was spoilt.
            _ = option.write(connection, value);
        }
    }
}

/// Whether `socket` is as good as useless now: a few calls only, to be made while its worker lives.
pub(crate) fn is_suspect(socket: BorrowedFd<'_>, transport: Option<Transport>) -> bool {
    least_bytes(socket) > 1 || has_filter(socket) || !lost_function(socket, transport).is_empty()
}

/// Whether a socket pair is shut down at this end or at the other.
pub(crate) fn is_shut_down(end: BorrowedFd<'_>) -> bool {
    let ends = PollFlags::from_bits_retain(libc::POLLRDHUP) | PollFlags::POLLHUP;
    let mut polled = [PollFd::new(end, ends)];
    // Only how many were found: nix does not know POLLRDHUP, and shows nothing where it is among the flags.
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|found| found > 0)
}

/// In which way it no longer does what it is for.
fn lost_function(socket: BorrowedFd<'_>, transport: Option<Transport>) -> Vec<&'static str> {
    let is_connected = || getpeername::<SockaddrStorage>(socket.as_raw_fd()).is_ok();
    match transport {
        Some(Transport::Stream) if getsockopt(&socket, sockopt::AcceptConn).is_ok_and(|listens| !listens) => {
            vec!["it no longer listens"]
        }
        Some(Transport::Datagram) | None if is_shut_down(socket) => vec!["it is shut down"],
        Some(Transport::Datagram) if is_connected() => vec!["it is connected"],
        Some(Transport::Stream | Transport::Datagram) | None => Vec::new(),
    }
}

/// How many bytes make a connection readable that inherits from this socket.
fn least_bytes(socket: BorrowedFd<'_>) -> i32 {
    let mut value = [0; 4];
    match os::socket_option(socket, SOL_SOCKET, libc::SO_RCVLOWAT, &mut value) {
        Some(4) => i32::from_ne_bytes(value),
        Some(_) | None => 1,
    }
}

/// Whether a filter of either kind is attached. The length of a classic one can be read; an extended one refuses to be.
fn has_filter(socket: BorrowedFd<'_>) -> bool {
    os::filter_length(socket).map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, |length| length > 0)
}

impl Opt {
    fn read(&self, socket: BorrowedFd<'_>) -> Option<Value> {
        let mut bytes = [0; LONGEST];
        let len = os::socket_option(socket, self.level, self.number, &mut bytes)?;
        Some(Value { bytes, len: len.min(LONGEST) })
    }

    fn write(&self, socket: BorrowedFd<'_>, value: &Value) -> io::Result<()> {
        os::set_socket_option(socket, self.level, self.number, &value.bytes[..value.len])
    }
}

/// One that is what it was once it is set to that.
const fn set(level: i32, number: i32, name: &'static str) -> Opt {
    Opt { level, number, name, is_restorable: true }
}

/// One that can be read and not be set back: to set it has a second effect, or it can be set once only.
const fn fixed(level: i32, number: i32, name: &'static str) -> Opt {
    Opt { level, number, name, is_restorable: false }
}

/// Every option that a process without privilege, or with it, can set on a socket of ours, and that can be read. By number where libc
/// has no name on all targets (linux/socket.h, in.h, in6.h, tcp.h; the numbers of asm-generic).
static OPTIONS: [Opt; 102] = [
    set(SOL_SOCKET, libc::SO_DEBUG, "SO_DEBUG"),
    set(SOL_SOCKET, libc::SO_REUSEADDR, "SO_REUSEADDR"),
    set(SOL_SOCKET, libc::SO_DONTROUTE, "SO_DONTROUTE"),
    set(SOL_SOCKET, libc::SO_BROADCAST, "SO_BROADCAST"),
    // To set a size of buffer also ends the kernel's own tuning of it.
    fixed(SOL_SOCKET, libc::SO_SNDBUF, "SO_SNDBUF"),
    fixed(SOL_SOCKET, libc::SO_RCVBUF, "SO_RCVBUF"),
    fixed(SOL_SOCKET, 72, "SO_BUF_LOCK"),
    set(SOL_SOCKET, libc::SO_KEEPALIVE, "SO_KEEPALIVE"),
    set(SOL_SOCKET, libc::SO_OOBINLINE, "SO_OOBINLINE"),
    set(SOL_SOCKET, 11, "SO_NO_CHECK"),
    set(SOL_SOCKET, libc::SO_PRIORITY, "SO_PRIORITY"),
    set(SOL_SOCKET, libc::SO_LINGER, "SO_LINGER"),
    set(SOL_SOCKET, libc::SO_REUSEPORT, "SO_REUSEPORT"),
    set(SOL_SOCKET, libc::SO_PASSCRED, "SO_PASSCRED"),
    set(SOL_SOCKET, libc::SO_RCVLOWAT, "SO_RCVLOWAT"),
    set(SOL_SOCKET, libc::SO_RCVTIMEO, "SO_RCVTIMEO"),
    set(SOL_SOCKET, libc::SO_SNDTIMEO, "SO_SNDTIMEO"),
    set(SOL_SOCKET, libc::SO_BINDTODEVICE, "SO_BINDTODEVICE"),
    set(SOL_SOCKET, libc::SO_TIMESTAMP, "SO_TIMESTAMP"),
    set(SOL_SOCKET, libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS"),
    set(SOL_SOCKET, 34, "SO_PASSSEC"),
    set(SOL_SOCKET, libc::SO_MARK, "SO_MARK"),
    set(SOL_SOCKET, libc::SO_TIMESTAMPING, "SO_TIMESTAMPING"),
    set(SOL_SOCKET, 40, "SO_RXQ_OVFL"),
    set(SOL_SOCKET, 41, "SO_WIFI_STATUS"),
    set(SOL_SOCKET, libc::SO_PEEK_OFF, "SO_PEEK_OFF"),
    set(SOL_SOCKET, 43, "SO_NOFCS"),
    fixed(SOL_SOCKET, 44, "SO_LOCK_FILTER"),
    set(SOL_SOCKET, 45, "SO_SELECT_ERR_QUEUE"),
    set(SOL_SOCKET, libc::SO_BUSY_POLL, "SO_BUSY_POLL"),
    set(SOL_SOCKET, 47, "SO_MAX_PACING_RATE"),
    set(SOL_SOCKET, 60, "SO_ZEROCOPY"),
    set(SOL_SOCKET, 61, "SO_TXTIME"),
    set(SOL_SOCKET, 69, "SO_PREFER_BUSY_POLL"),
    set(SOL_SOCKET, 70, "SO_BUSY_POLL_BUDGET"),
    fixed(SOL_SOCKET, 73, "SO_RESERVE_MEM"),
    set(SOL_SOCKET, 74, "SO_TXREHASH"),
    set(SOL_SOCKET, 75, "SO_RCVMARK"),
    set(SOL_SOCKET, 76, "SO_PASSPIDFD"),
    set(SOL_SOCKET, 82, "SO_RCVPRIORITY"),
    set(SOL_SOCKET, 83, "SO_PASSRIGHTS"),
    set(IPPROTO_IP, libc::IP_TOS, "IP_TOS"),
    // What is read is the default, and what would be set is a value of its own.
    fixed(IPPROTO_IP, libc::IP_TTL, "IP_TTL"),
    fixed(IPPROTO_IP, libc::IP_OPTIONS, "IP_OPTIONS"),
    set(IPPROTO_IP, libc::IP_RECVOPTS, "IP_RECVOPTS"),
    set(IPPROTO_IP, 7, "IP_RETOPTS"),
    set(IPPROTO_IP, libc::IP_PKTINFO, "IP_PKTINFO"),
    set(IPPROTO_IP, libc::IP_MTU_DISCOVER, "IP_MTU_DISCOVER"),
    set(IPPROTO_IP, libc::IP_RECVERR, "IP_RECVERR"),
    set(IPPROTO_IP, libc::IP_RECVTTL, "IP_RECVTTL"),
    set(IPPROTO_IP, libc::IP_RECVTOS, "IP_RECVTOS"),
    set(IPPROTO_IP, 15, "IP_FREEBIND"),
    set(IPPROTO_IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
    set(IPPROTO_IP, 20, "IP_RECVORIGDSTADDR"),
    set(IPPROTO_IP, 21, "IP_MINTTL"),
    set(IPPROTO_IP, 22, "IP_NODEFRAG"),
    set(IPPROTO_IP, 23, "IP_CHECKSUM"),
    set(IPPROTO_IP, 24, "IP_BIND_ADDRESS_NO_PORT"),
    set(IPPROTO_IP, 25, "IP_RECVFRAGSIZE"),
    set(IPPROTO_IP, 26, "IP_RECVERR_RFC4884"),
    set(IPPROTO_IP, libc::IP_MULTICAST_TTL, "IP_MULTICAST_TTL"),
    set(IPPROTO_IP, libc::IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP"),
    set(IPPROTO_IP, 49, "IP_MULTICAST_ALL"),
    set(IPPROTO_IP, 50, "IP_UNICAST_IF"),
    set(IPPROTO_IP, 51, "IP_LOCAL_PORT_RANGE"),
    fixed(IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS"),
    set(IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP"),
    set(IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER"),
    fixed(IPPROTO_IPV6, 24, "IPV6_MTU"),
    set(IPPROTO_IPV6, libc::IPV6_RECVERR, "IPV6_RECVERR"),
    set(IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO"),
    fixed(IPPROTO_IPV6, 54, "IPV6_HOPOPTS"),
    fixed(IPPROTO_IPV6, 57, "IPV6_RTHDR"),
    fixed(IPPROTO_IPV6, 59, "IPV6_DSTOPTS"),
    set(IPPROTO_IPV6, 62, "IPV6_DONTFRAG"),
    set(IPPROTO_IPV6, libc::IPV6_RECVTCLASS, "IPV6_RECVTCLASS"),
    set(IPPROTO_IPV6, libc::IPV6_TCLASS, "IPV6_TCLASS"),
    set(IPPROTO_IPV6, 70, "IPV6_AUTOFLOWLABEL"),
    set(IPPROTO_IPV6, 73, "IPV6_MINHOPCOUNT"),
    set(IPPROTO_IPV6, 75, "IPV6_TRANSPARENT"),
    set(IPPROTO_IPV6, 78, "IPV6_FREEBIND"),
    set(IPPROTO_TCP, libc::TCP_NODELAY, "TCP_NODELAY"),
    fixed(IPPROTO_TCP, libc::TCP_MAXSEG, "TCP_MAXSEG"),
    set(IPPROTO_TCP, libc::TCP_CORK, "TCP_CORK"),
    set(IPPROTO_TCP, libc::TCP_KEEPIDLE, "TCP_KEEPIDLE"),
    set(IPPROTO_TCP, libc::TCP_KEEPINTVL, "TCP_KEEPINTVL"),
    set(IPPROTO_TCP, libc::TCP_KEEPCNT, "TCP_KEEPCNT"),
    set(IPPROTO_TCP, libc::TCP_SYNCNT, "TCP_SYNCNT"),
    fixed(IPPROTO_TCP, libc::TCP_LINGER2, "TCP_LINGER2"),
    set(IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"),
    fixed(IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP"),
    set(IPPROTO_TCP, libc::TCP_CONGESTION, "TCP_CONGESTION"),
    set(IPPROTO_TCP, 16, "TCP_THIN_LINEAR_TIMEOUTS"),
    set(IPPROTO_TCP, libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
    set(IPPROTO_TCP, libc::TCP_FASTOPEN, "TCP_FASTOPEN"),
    set(IPPROTO_TCP, 25, "TCP_NOTSENT_LOWAT"),
    set(IPPROTO_TCP, 27, "TCP_SAVE_SYN"),
    set(IPPROTO_TCP, 30, "TCP_FASTOPEN_CONNECT"),
    fixed(IPPROTO_TCP, 31, "TCP_ULP"),
    set(IPPROTO_TCP, 34, "TCP_FASTOPEN_NO_COOKIE"),
    set(IPPROTO_TCP, 37, "TCP_TX_DELAY"),
    set(IPPROTO_TCP, 44, "TCP_RTO_MAX_MS"),
];

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::listen::drop_syn;

    fn listener() -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    #[test]
    fn a_socket_that_nothing_has_changed_is_sound_also_after_it_has_been_used() {
        let listener = listener();
        let condition = Condition::of(listener.as_fd());
        assert!(condition.0.len() > 50, "the kernel has them: {}", condition.0.len());
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _accepted = listener.accept().unwrap();
        assert_eq!(condition.mend(listener.as_fd(), Some(Transport::Stream)), Finding::Sound);
        assert!(!is_suspect(listener.as_fd(), Some(Transport::Stream)));
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        assert_eq!(Condition::of(udp.as_fd()).mend(udp.as_fd(), Some(Transport::Datagram)), Finding::Sound);
        assert!(!is_suspect(udp.as_fd(), Some(Transport::Datagram)));
    }

    #[test]
    fn every_option_that_can_be_set_and_is_altered_is_found_and_set_back_or_makes_the_socket_useless() {
        let condition = Condition::of(listener().as_fd());
        let mut tried = 0;
        for Setting { option, value } in &condition.0 {
            let listener = listener();
            let altered = (1..200).find_map(|by| {
                let mut other = value.clone();
                other.bytes[0] = other.bytes[0].wrapping_add(by);
                let is_altered = option.write(listener.as_fd(), &other).is_ok()
                    && option.read(listener.as_fd()).as_ref() != Some(value);
                is_altered.then_some(())
            });
            let Some(()) = altered else { continue };
            tried += 1;
            match condition.mend(listener.as_fd(), Some(Transport::Stream)) {
                Finding::Sound => panic!("{} was overlooked", option.name),
                Finding::Mended(names) => {
                    assert!(names.contains(&option.name), "{}: {names:?}", option.name);
                    assert_eq!(
                        condition.mend(listener.as_fd(), Some(Transport::Stream)),
                        Finding::Sound,
                        "{}",
                        option.name
                    );
                }
                Finding::Broken(names) => assert!(names.contains(&option.name), "{}: {names:?}", option.name),
            }
        }
        assert!(tried > 30, "{tried} could be altered");
    }

    #[test]
    fn flags_and_filters_are_put_right_and_a_filter_that_is_locked_is_not() {
        let listener = listener();
        let condition = Condition::of(listener.as_fd());
        listener.set_nonblocking(false).unwrap();
        drop_syn(listener.as_fd());
        assert!(is_suspect(listener.as_fd(), Some(Transport::Stream)));
        let found = condition.mend(listener.as_fd(), Some(Transport::Stream));
        assert_eq!(found, Finding::Mended(vec!["file flags", "SO_ATTACH_FILTER"]));
        assert_eq!(condition.mend(listener.as_fd(), Some(Transport::Stream)), Finding::Sound);
        drop_syn(listener.as_fd());
        os::set_socket_option(listener.as_fd(), SOL_SOCKET, 44, &1_i32.to_ne_bytes()).unwrap();
        assert!(matches!(condition.mend(listener.as_fd(), Some(Transport::Stream)), Finding::Broken(_)));
    }

    #[test]
    fn a_socket_that_no_longer_waits_for_clients_is_broken() {
        let listener = listener();
        let condition = Condition::of(listener.as_fd());
        SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(
            condition.mend(listener.as_fd(), Some(Transport::Stream)),
            Finding::Broken(vec!["it no longer listens"])
        );
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        let condition = Condition::of(udp.as_fd());
        udp.connect("127.0.0.1:9").unwrap();
        assert!(matches!(condition.mend(udp.as_fd(), Some(Transport::Datagram)), Finding::Broken(_)));
    }

    #[test]
    fn connections_that_inherited_what_was_altered_get_what_they_should_have() {
        let listener = listener();
        let condition = Condition::of(listener.as_fd());
        os::set_socket_option(listener.as_fd(), SOL_SOCKET, libc::SO_RCVLOWAT, &i32::MAX.to_ne_bytes()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // The kernel makes room for so many bytes, too.
        let Finding::Broken(altered) = condition.mend(listener.as_fd(), Some(Transport::Stream)) else {
            panic!("not found")
        };
        let (accepted, _) = listener.accept().unwrap();
        assert!(least_bytes(accepted.as_fd()) > 1, "it has inherited it");
        condition.give_to(accepted.as_fd(), &altered);
        assert_eq!(least_bytes(accepted.as_fd()), 1);
    }
}
