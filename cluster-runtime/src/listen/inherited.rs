//! The sockets that the primary was started with: by systemd's socket activation, or by whoever has started it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use nix::sys::socket::{SockType, getsockopt, sockopt};
use socket2::Socket;

use super::{Inherited, Transport};
use crate::os;

/// The variables of socket activation; see `sd_listen_fds(3)`.
const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";
/// The first descriptor that is passed.
const FIRST: RawFd = 3;

/// The listening and datagram sockets that this process inherited. They are the cluster's from now on: closed on exec, so that no
/// worker and no program that one starts keeps a port.
#[derive(Debug, Default)]
pub(crate) struct InheritedSockets {
    sockets: BTreeMap<RawFd, OwnedFd>,
    names: BTreeMap<String, BTreeSet<RawFd>>,
}

impl InheritedSockets {
    /// Takes what was inherited. Call it once, before anything is opened that could be mistaken for it.
    pub(crate) fn adopt() -> io::Result<Self> {
        let mut inherited = Self::default();
        for number in open_descriptors()? {
            if number >= FIRST
                && let Some(socket) = os::adopt_socket(number)
            {
                inherited.sockets.insert(number, socket);
            }
        }
        inherited.names = names(|name| std::env::var(name).ok());
        for name in [PID, COUNT, NAMES] {
            // They are this process's alone.
            os::remove_env(name)?;
        }
        Ok(inherited)
    }

    /// A duplicate of an inherited socket, non-blocking.
    pub(crate) fn take(&self, by: &Inherited, transport: Transport) -> io::Result<Socket> {
        let number = match by {
            Inherited::Numbered(number) => *number,
            Inherited::Named(name) => self.number_of(name)?,
        };
        let missing = || {
            let text =
                format!("the primary was not started with a socket as descriptor {number}; it has {}", self.list());
            io::Error::new(io::ErrorKind::NotFound, text)
        };
        let fd = self.sockets.get(&number).ok_or_else(missing)?;
        let (wanted, what) = match transport {
            Transport::Stream => (SockType::Stream, "a listening stream socket"),
            Transport::Datagram => (SockType::Datagram, "a datagram socket"),
        };
        let listens = getsockopt(fd, sockopt::AcceptConn).unwrap_or(false);
        if getsockopt(fd, sockopt::SockType)? != wanted || (transport == Transport::Stream && !listens) {
            let text = format!("descriptor {number} is not {what}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let socket = Socket::from(fd.try_clone()?);
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn number_of(&self, name: &str) -> io::Result<RawFd> {
        let numbers = self.names.get(name).ok_or_else(|| {
            let text = format!("no socket was passed under the name {name:?}; passed were {}", self.list());
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        match numbers.iter().collect::<Vec<_>>().as_slice() {
            [one] => Ok(**one),
            several => {
                let text = format!(
                    "{} sockets were passed under the name {name:?}; give each its own FileDescriptorName=, or write fd:{}",
                    several.len(),
                    several[0]
                );
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }

    fn list(&self) -> String {
        let named = self.names.keys().map(|name| format!("systemd:{name}"));
        let all: Vec<_> = named.chain(self.sockets.keys().map(|number| format!("fd:{number}"))).collect();
        if all.is_empty() { "none".into() } else { all.join(", ") }
    }
}

/// The names of what the service manager has passed, if it was passed to this process.
fn names(variable: impl Fn(&str) -> Option<String>) -> BTreeMap<String, BTreeSet<RawFd>> {
    let mut names = BTreeMap::<String, BTreeSet<RawFd>>::new();
    if variable(PID).and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return names;
    }
    let count: RawFd = variable(COUNT).and_then(|count| count.parse().ok()).unwrap_or(0);
    let given = variable(NAMES).unwrap_or_default();
    let mut given = given.split(':').filter(|name| !name.is_empty());
    for number in FIRST..FIRST.saturating_add(count.min(1024)) {
        names.entry(given.next().unwrap_or("unknown").to_owned()).or_default().insert(number);
    }
    names
}

fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_only_in_the_process_that_they_are_for() {
        let me = std::process::id().to_string();
        let with = |pid: String| {
            names(move |name| match name {
                PID => Some(pid.clone()),
                COUNT => Some("3".into()),
                NAMES => Some("http:admin:http".into()),
                _ => None,
            })
        };
        assert_eq!(with(me)["http"], BTreeSet::from([3, 5]));
        assert!(with("1".into()).is_empty());
    }
}
