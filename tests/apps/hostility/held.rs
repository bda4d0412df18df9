//! What a worker holds of the cluster, found as foreign code in it would: by its descriptors.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::sys::socket::{AddressFamily, SockType, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt};
use nix::unistd::{Pid, getppid};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// A kind of thing that a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A socket that connections come to.
    Listening,
    /// A UDP socket.
    Datagrams,
    /// The lane to the primary's main thread.
    Control,
    /// The lane for messages to the primary function.
    Messages,
    /// The ends by which connections go to other slots, and its own.
    Sending,
    /// The end by which they come to its own slot.
    Receiving,
    /// What wakes the primary.
    Bell,
    /// The shared memory.
    Board,
    /// What tells that the primary has died.
    Pidfd,
    /// What its runtime waits with.
    Epoll,
    /// The connections that it serves.
    Connection,
    Other,
}

/// One descriptor.
#[derive(Debug)]
pub(crate) struct Thing {
    pub(crate) kind: Kind,
    /// Its number in this process.
    pub(crate) number: RawFd,
    /// The same open file under another number, so that calls need not trust the number.
    pub(crate) same: OwnedFd,
    link: String,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) things: Vec<Thing>,
    /// The others, but for the primary.
    pub(crate) siblings: Vec<Pid>,
}

static LANES: OnceLock<[RawFd; 2]> = OnceLock::new();

/// The numbers of the two lanes stand in the mark that makes a process a worker.
pub(crate) fn remember_lanes() {
    let Ok(mark) = std::env::var("CLUSTER_WORKER") else { return };
    let value = |key: &str| mark.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
    if let (Some(control), Some(messages)) = (value("control"), value("messages")) {
        _ = LANES.set([control, messages]);
    }
}

impl Held {
    pub(crate) fn look() -> io::Result<Self> {
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?.flatten().filter_map(|entry| number(&entry)).collect();
        let waited_for = waited_for(&numbers);
        let mut things = Vec::new();
        for number in numbers {
            // What is open for this look only is none of it.
            if number == this.as_raw_fd() || things.iter().any(|thing: &Thing| thing.same.as_raw_fd() == number) {
                continue;
            }
            let Ok(link) = fs::read_link(format!("/proc/self/fd/{number}")) else { continue };
            let Ok(same) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else { continue };
            let link = link.to_string_lossy().into_owned();
            let kind = kind(&link, number, &same, waited_for.contains(&number));
            things.push(Thing { kind, number, same, link });
        }
        Ok(Self { things, siblings: siblings()? })
    }

    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = &Thing> {
        self.things.iter().filter(move |thing| thing.kind == kind)
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Thing { kind, number, link, .. } in &self.things {
            writeln!(f, "{number}\t{kind:?}\t{link}")?;
        }
        writeln!(f, "siblings {:?}", self.siblings)
    }
}

fn number(entry: &fs::DirEntry) -> Option<RawFd> {
    entry.file_name().to_str()?.parse().ok()
}

/// What this process waits for with epoll. What it only writes to is not among it.
fn waited_for(numbers: &[RawFd]) -> BTreeSet<RawFd> {
    let tables = numbers.iter().filter_map(|number| fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok());
    let numbers = tables.flat_map(|table| {
        let lines = table.lines().map(str::to_owned).collect::<Vec<_>>();
        lines.into_iter().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse().ok())
    });
    numbers.collect()
}

fn kind(link: &str, number: RawFd, same: &OwnedFd, is_waited_for: bool) -> Kind {
    match link {
        "anon_inode:[eventfd]" if !is_waited_for => Kind::Bell,
        "anon_inode:[eventpoll]" => Kind::Epoll,
        "anon_inode:[pidfd]" => Kind::Pidfd,
        _ if link.starts_with("/memfd:") => Kind::Board,
        _ if link.starts_with("socket:") => socket(number, same, is_waited_for),
        _ => Kind::Other,
    }
}

fn socket(number: RawFd, same: &OwnedFd, is_waited_for: bool) -> Kind {
    match LANES.get() {
        Some([control, _]) if *control == number => return Kind::Control,
        Some([_, messages]) if *messages == number => return Kind::Messages,
        _ => {}
    }
    let is_listening = getsockopt(same, sockopt::AcceptConn).unwrap_or(false);
    match getsockopt(&same.as_fd(), sockopt::SockType) {
        _ if is_listening => Kind::Listening,
        Ok(SockType::Datagram) => Kind::Datagrams,
        Ok(SockType::SeqPacket) if is_waited_for => Kind::Receiving,
        Ok(SockType::SeqPacket) => Kind::Sending,
        Ok(SockType::Stream) if is_of_the_network(number) => Kind::Connection,
        _ => Kind::Other,
    }
}

fn is_of_the_network(number: RawFd) -> bool {
    let name = getsockname::<SockaddrStorage>(number).ok();
    matches!(name.and_then(|name| name.family()), Some(AddressFamily::Inet | AddressFamily::Inet6))
}

/// The primary's other children.
fn siblings() -> io::Result<Vec<Pid>> {
    let primary = getppid();
    let is_child = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        parent == Some(primary.as_raw()) && *pid != Pid::this()
    };
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| number(&entry)).map(Pid::from_raw);
    Ok(pids.filter(is_child).collect())
}
