//! Socket options, each with any bytes as its value: what nix has a type for, and what it has none for.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use nix::libc;
use nix::setsockopt_impl;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SetOsString;

/// An option by its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt {
    pub(crate) name: &'static str,
    set: fn(&OwnedFd, &OsString) -> nix::Result<()>,
}

impl Opt {
    /// The kernel reads these bytes.
    pub(crate) fn set(self, socket: &OwnedFd, value: &[u8]) -> io::Result<()> {
        Ok((self.set)(socket, &OsString::from_vec(value.to_vec()))?)
    }
}

macro_rules! options {
    ($($name:ident = $level:path, $number:expr;)+) => {
        $(
            pub(crate) const $name: Opt = {
                const NUMBER: libc::c_int = $number;
                #[derive(Clone, Copy)]
                struct This;
                setsockopt_impl!(This, $level, NUMBER, OsString, SetOsString<'_>);
                Opt { name: stringify!($name), set: |socket, value| setsockopt(socket, This, value) }
            };
        )+
    };
}

options! {
    SO_RCVLOWAT = libc::SOL_SOCKET, libc::SO_RCVLOWAT;
    SO_RCVBUF = libc::SOL_SOCKET, libc::SO_RCVBUF;
    SO_SNDBUF = libc::SOL_SOCKET, libc::SO_SNDBUF;
    SO_RCVTIMEO = libc::SOL_SOCKET, libc::SO_RCVTIMEO;
    SO_SNDTIMEO = libc::SOL_SOCKET, libc::SO_SNDTIMEO;
    SO_LINGER = libc::SOL_SOCKET, libc::SO_LINGER;
    SO_KEEPALIVE = libc::SOL_SOCKET, libc::SO_KEEPALIVE;
    SO_OOBINLINE = libc::SOL_SOCKET, libc::SO_OOBINLINE;
    SO_REUSEADDR = libc::SOL_SOCKET, libc::SO_REUSEADDR;
    SO_REUSEPORT = libc::SOL_SOCKET, libc::SO_REUSEPORT;
    SO_DONTROUTE = libc::SOL_SOCKET, libc::SO_DONTROUTE;
    SO_BROADCAST = libc::SOL_SOCKET, libc::SO_BROADCAST;
    SO_PRIORITY = libc::SOL_SOCKET, libc::SO_PRIORITY;
    SO_MARK = libc::SOL_SOCKET, libc::SO_MARK;
    SO_TIMESTAMP = libc::SOL_SOCKET, libc::SO_TIMESTAMP;
    SO_TIMESTAMPING = libc::SOL_SOCKET, libc::SO_TIMESTAMPING;
    SO_RXQ_OVFL = libc::SOL_SOCKET, libc::SO_RXQ_OVFL;
    SO_PASSCRED = libc::SOL_SOCKET, libc::SO_PASSCRED;
    SO_PASSSEC = libc::SOL_SOCKET, libc::SO_PASSSEC;
    SO_PEEK_OFF = libc::SOL_SOCKET, libc::SO_PEEK_OFF;
    SO_BUSY_POLL = libc::SOL_SOCKET, libc::SO_BUSY_POLL;
    SO_INCOMING_CPU = libc::SOL_SOCKET, libc::SO_INCOMING_CPU;
    SO_MAX_PACING_RATE = libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE;
    SO_BINDTODEVICE = libc::SOL_SOCKET, libc::SO_BINDTODEVICE;
    SO_LOCK_FILTER = libc::SOL_SOCKET, libc::SO_LOCK_FILTER;
    SO_DETACH_FILTER = libc::SOL_SOCKET, libc::SO_DETACH_FILTER;
    SO_NO_CHECK = libc::SOL_SOCKET, libc::SO_NO_CHECK;
    SO_ZEROCOPY = libc::SOL_SOCKET, libc::SO_ZEROCOPY;
    // libc does not have these for Linux. The numbers are those of asm-generic.
    SO_DETACH_REUSEPORT_BPF = libc::SOL_SOCKET, 68;
    SO_PASSPIDFD = libc::SOL_SOCKET, 76;
    SO_PASSRIGHTS = libc::SOL_SOCKET, 83;
    IP_TOS = libc::IPPROTO_IP, libc::IP_TOS;
    IP_TTL = libc::IPPROTO_IP, libc::IP_TTL;
    IP_MINTTL = libc::IPPROTO_IP, libc::IP_MINTTL;
    IP_MTU_DISCOVER = libc::IPPROTO_IP, libc::IP_MTU_DISCOVER;
    IP_OPTIONS = libc::IPPROTO_IP, libc::IP_OPTIONS;
    IP_RECVERR = libc::IPPROTO_IP, libc::IP_RECVERR;
    IP_TRANSPARENT = libc::IPPROTO_IP, libc::IP_TRANSPARENT;
    IP_FREEBIND = libc::IPPROTO_IP, libc::IP_FREEBIND;
    IP_PKTINFO = libc::IPPROTO_IP, libc::IP_PKTINFO;
    TCP_NODELAY = libc::IPPROTO_TCP, libc::TCP_NODELAY;
    TCP_MAXSEG = libc::IPPROTO_TCP, libc::TCP_MAXSEG;
    TCP_CORK = libc::IPPROTO_TCP, libc::TCP_CORK;
    TCP_KEEPIDLE = libc::IPPROTO_TCP, libc::TCP_KEEPIDLE;
    TCP_KEEPINTVL = libc::IPPROTO_TCP, libc::TCP_KEEPINTVL;
    TCP_KEEPCNT = libc::IPPROTO_TCP, libc::TCP_KEEPCNT;
    TCP_SYNCNT = libc::IPPROTO_TCP, libc::TCP_SYNCNT;
    TCP_LINGER2 = libc::IPPROTO_TCP, libc::TCP_LINGER2;
    TCP_DEFER_ACCEPT = libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT;
    TCP_WINDOW_CLAMP = libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP;
    TCP_QUICKACK = libc::IPPROTO_TCP, libc::TCP_QUICKACK;
    TCP_CONGESTION = libc::IPPROTO_TCP, libc::TCP_CONGESTION;
    TCP_MD5SIG_EXT = libc::IPPROTO_TCP, 32;
    TCP_USER_TIMEOUT = libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT;
    TCP_FASTOPEN = libc::IPPROTO_TCP, libc::TCP_FASTOPEN;
    TCP_FASTOPEN_NO_COOKIE = libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE;
    TCP_NOTSENT_LOWAT = libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT;
    TCP_SAVE_SYN = libc::IPPROTO_TCP, libc::TCP_SAVE_SYN;
    TCP_REPAIR = libc::IPPROTO_TCP, libc::TCP_REPAIR;
    TCP_ULP = libc::IPPROTO_TCP, libc::TCP_ULP;
    TCP_INQ = libc::IPPROTO_TCP, libc::TCP_INQ;
    TCP_TX_DELAY = libc::IPPROTO_TCP, 37;
    UDP_CORK = libc::IPPROTO_UDP, libc::UDP_CORK;
    UDP_SEGMENT = libc::IPPROTO_UDP, libc::UDP_SEGMENT;
    UDP_GRO = libc::IPPROTO_UDP, libc::UDP_GRO;
    UDP_ENCAP = libc::IPPROTO_UDP, 100;
}
