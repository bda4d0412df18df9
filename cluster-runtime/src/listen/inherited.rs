//! The sockets that the primary was started with: by systemd's socket activation, or by whoever has started it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{SockType, getsockopt, sockopt};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::handed::HandedDown;
use super::{Inherited, Transport};
use crate::os;

/// The variables of socket activation; see `sd_listen_fds(3)`.
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
/// Those below are stdin, stdout and stderr.
const FIRST: RawFd = 3;

/// The listening and datagram sockets that this process inherited. They are the cluster's from now on: closed on exec, so that no
/// worker and no program that one starts keeps a port.
#[derive(Debug, Default)]
pub(crate) struct InheritedSockets {
    sockets: BTreeMap<RawFd, OwnedFd>,
    names: BTreeMap<String, BTreeSet<RawFd>>,
}

/// [`InheritedSockets`] as plain data. The sockets go beside it, by number.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InheritedState {
    /// As they were when the cluster was started.
    numbers: BTreeSet<RawFd>,
    names: BTreeMap<String, BTreeSet<RawFd>>,
}

impl InheritedSockets {
    /// What a next program needs to have the same sockets under the same names.
    pub(crate) fn hand_down<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) -> InheritedState {
        fds.extend(self.sockets.values().map(OwnedFd::as_fd));
        InheritedState { numbers: self.sockets.keys().copied().collect(), names: self.names.clone() }
    }

    /// The sockets that the program before has handed down.
    ///
    /// # Errors
    /// `InvalidData` if descriptors are missing.
    pub(crate) fn again(state: InheritedState, fds: &mut HandedDown) -> io::Result<Self> {
        let InheritedState { numbers, names } = state;
        let sockets = numbers.into_iter().map(|number| Ok((number, fds.next()?))).collect::<io::Result<_>>()?;
        Ok(Self { sockets, names })
    }

    /// Takes what was inherited. Call it once.
    pub(crate) fn adopt() -> io::Result<Self> {
        let mut inherited = Self::default();
        for number in open_descriptors()? {
            if number >= FIRST
                && let Some(socket) = os::adopt_socket(number)
            {
                inherited.sockets.insert(number, socket);
            }
        }
        inherited.names = names().map_err(|error| {
            let text = format!("what the service manager says of the sockets that it passes makes no sense: {error}");
            io::Error::new(error.kind(), text)
        })?;
        for name in VARIABLES.into_iter().filter(|name| std::env::var_os(name).is_some()) {
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

fn names() -> io::Result<BTreeMap<String, BTreeSet<RawFd>>> {
    let mut names = BTreeMap::<String, BTreeSet<RawFd>>::new();
    // Names without sockets are meant for another process: a parent of this one, say.
    if sd_notify::listen_fds()?.len() > 0 {
        for (number, name) in sd_notify::listen_fds_with_names()? {
            names.entry(name).or_default().insert(number);
        }
    }
    Ok(names)
}

fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_inherited_socket_keeps_its_number_and_its_name_in_the_next_program() {
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let old = InheritedSockets {
            sockets: [30, 31].into_iter().zip(listeners.map(OwnedFd::from)).collect(),
            names: BTreeMap::from([("web".into(), BTreeSet::from([31]))]),
        };
        let mut fds = Vec::new();
        let state = old.hand_down(&mut fds);
        let fds = fds.into_iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        let new = InheritedSockets::again(state, &mut HandedDown::new(fds)).unwrap();
        drop(old);
        let address = |by| new.take(&by, Transport::Stream).unwrap().local_addr().unwrap().as_socket();
        assert_eq!(address(Inherited::Numbered(30)), Some(addresses[0]));
        assert_eq!(address(Inherited::Named("web".into())), Some(addresses[1]));
    }
}
