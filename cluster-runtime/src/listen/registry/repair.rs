//! What a worker has done to the sockets that it holds ends with it: they are examined, set back, or replaced.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use socket2::Socket;

use super::{Endpoint, Port, Registry, Sockets, backlog};
use crate::listen::condition::{Condition, Finding, is_suspect};
use crate::listen::{Address, PortId, Transport};

/// A socket that was not as it should be.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) port: PortId,
    pub(crate) address: Address,
    /// What was changed: the names of options, or what it no longer does.
    pub(crate) what: Vec<&'static str>,
    pub(crate) repair: Repair,
}

#[derive(Debug)]
pub(crate) enum Repair {
    /// It is as it was. What was accepted from it meanwhile has inherited the changes, and needs this condition.
    SetBack(Condition),
    /// Another is in its place. In the queue of the old one connections may wait, which need this condition.
    Replaced(OwnedFd, Condition),
    /// It stays as it is.
    Failed(io::Error),
}

impl Registry {
    /// Whether a few calls show that the shard of `slot` was changed.
    pub(crate) fn is_suspect(&self, port: PortId, slot: usize) -> bool {
        let transport = self.port(port).map(Port::transport);
        self.shard(port, slot).is_some_and(|shard| is_suspect(shard, transport))
    }

    /// Every port of which `slot` has a socket of its own.
    pub(crate) fn sharded(&self) -> impl Iterator<Item = PortId> {
        let ids = (0..self.ports.len()).map(PortId);
        ids.filter(|id| self.port(*id).is_some_and(|port| matches!(port.sockets, Sockets::Shards { .. })))
    }

    /// Every port whose one socket all workers read from: an inherited one for datagrams.
    pub(crate) fn read_by_all(&self) -> impl Iterator<Item = PortId> {
        self.datagrams().filter(|id| self.shared(*id).is_some())
    }

    /// Examines the shard of `slot`, and puts it right.
    pub(crate) fn examine(&mut self, id: PortId, slot: usize) -> Option<Fault> {
        let port = self.ports.get_mut(id.0)?.as_mut()?;
        let transport = port.transport();
        let Sockets::Shards { shards, .. } = &port.sockets else { return None };
        let shard = shards.get(slot)?.as_ref()?;
        let (what, repair) = match port.condition.mend(shard.as_fd(), Some(transport)) {
            Finding::Sound => return None,
            Finding::Mended(what) => (what, Repair::SetBack(port.condition.clone())),
            Finding::Broken(what) => {
                let replaced = port.replace_shard(slot);
                (what, replaced.map_or_else(Repair::Failed, |old| Repair::Replaced(old, port.condition.clone())))
            }
        };
        Some(Fault { port: id, address: port.address.clone(), what, repair })
    }

    /// Examines a socket that all workers read from. It is another's, and cannot be replaced.
    pub(crate) fn examine_shared(&mut self, id: PortId) -> Option<Fault> {
        let port = self.ports.get_mut(id.0)?.as_mut()?;
        let Sockets::Shared { socket: Some(socket), .. } = &port.sockets else { return None };
        let (what, repair) = match port.condition.mend(socket.as_fd(), Some(port.transport())) {
            Finding::Sound => return None,
            Finding::Mended(what) => (what, Repair::SetBack(port.condition.clone())),
            Finding::Broken(what) => (what, Repair::Failed(Errno::ENOTRECOVERABLE.into())),
        };
        Some(Fault { port: id, address: port.address.clone(), what, repair })
    }

    /// Binds the one socket of a port anew, from which nothing comes any more.
    ///
    /// # Errors
    /// What bind(2) or listen(2) say; and always for an inherited socket, which is lost. The port has no socket then.
    pub(crate) fn renew_shared(&mut self, id: PortId) -> io::Result<()> {
        let Some(port) = self.ports.get_mut(id.0).and_then(Option::as_mut) else { return Ok(()) };
        if !matches!(port.sockets, Sockets::Shared { .. }) {
            return Ok(());
        }
        // The old one goes first: it still has the address.
        port.sockets = Sockets::Shared { socket: None, file: None };
        let (endpoint, options) = (port.key.endpoint.clone(), port.options.clone());
        let endpoint = match (endpoint, port.address.socket()) {
            (Endpoint::Inherited { .. }, _) => return Err(lost()),
            // With the real port number.
            (Endpoint::Tcp(_), Some(address)) => Endpoint::Tcp(address),
            (endpoint, _) => endpoint,
        };
        let (_, sockets) = self.bind_sockets(&endpoint, &options)?;
        if let Some(port) = self.ports.get_mut(id.0).and_then(Option::as_mut) {
            port.sockets = sockets;
            port.apply(&options)?;
        }
        Ok(())
    }

    /// Whether the socket is another's, which goes on using it.
    pub(crate) fn is_inherited(&self, id: PortId) -> bool {
        self.port(id).is_some_and(|port| matches!(port.key.endpoint, Endpoint::Inherited { .. }))
    }

    /// Whether the port has no socket although it should have one, which can be bound again.
    pub(crate) fn is_unbound(&self, id: PortId) -> bool {
        let is_lost = |port: &Port| matches!(port.sockets, Sockets::Shared { socket: None, .. });
        self.port(id).is_some_and(is_lost) && !self.is_inherited(id)
    }
}

impl Port {
    /// Puts a new socket in the place of a shard, and returns the old one.
    ///
    /// The kernel numbers it last, and gives it the number of the old one when that is closed. Of one that was shut down another shard
    /// has the number already: then the kernel passes over the wrong one when a slot is excluded, and what the right one still gets is
    /// handed on as ever.
    fn replace_shard(&mut self, slot: usize) -> io::Result<OwnedFd> {
        let shard = self.more_shards(1)?.pop().ok_or(Errno::EAFNOSUPPORT)?;
        if self.transport() == Transport::Stream {
            shard.listen(backlog(&self.options))?;
        }
        let Sockets::Shards { shards, .. } = &mut self.sockets else { return Err(Errno::EINVAL.into()) };
        let place = shards.get_mut(slot).ok_or(Errno::EINVAL)?;
        let old: Option<Socket> = place.replace(shard);
        old.map(OwnedFd::from).ok_or_else(|| Errno::EINVAL.into())
    }
}

fn lost() -> io::Error {
    let text = "it was inherited and cannot be bound again; restart the service, so that its manager makes a new one";
    io::Error::other(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Shutdown, TcpStream};
    use std::os::unix::net::UnixStream;

    use socket2::SockRef;

    use super::*;
    use crate::listen::inherited::InheritedSockets;
    use crate::listen::{Dispatch, Options, PortKey, PortRequest};
    use crate::os;

    fn listening(dispatch: Dispatch, endpoint: Endpoint, slots: usize) -> (Registry, PortId, Address) {
        let mut registry = Registry::new(slots, dispatch, InheritedSockets::default(), 1024);
        let request = PortRequest {
            key: PortKey { endpoint, ordinal: 0 },
            http: None,
            options: Options { nodelay: Some(true), ..Options::default() },
        };
        let (granted, _) = registry.listen(0, &request).unwrap();
        (registry, granted.port, granted.address)
    }

    fn tcp(slots: usize) -> (Registry, PortId, Address) {
        listening(Dispatch::Balanced, Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), slots)
    }

    #[test]
    fn sockets_of_every_kind_are_sound_when_they_are_made_and_when_their_options_are_set() {
        for endpoint in [
            Endpoint::Tcp("127.0.0.1:0".parse().unwrap()),
            Endpoint::Tcp("[::1]:0".parse().unwrap()),
            Endpoint::Tcp("[::]:0".parse().unwrap()),
            Endpoint::Udp("127.0.0.1:0".parse().unwrap()),
            Endpoint::Udp("[::1]:0".parse().unwrap()),
        ] {
            let (mut registry, port, _) = listening(Dispatch::Balanced, endpoint.clone(), 3);
            for slot in 0..3 {
                let fault = registry.examine(port, slot);
                assert!(fault.is_none(), "{endpoint:?}: {fault:?}");
                assert!(!registry.is_suspect(port, slot));
            }
            let options = Options {
                backlog: Some(7),
                keepalive: Some(std::time::Duration::from_secs(9)),
                defer_accept: Some(std::time::Duration::from_secs(3)),
                fast_open: Some(5),
                ..Options::default()
            };
            let request = PortRequest { key: PortKey { endpoint: endpoint.clone(), ordinal: 0 }, http: None, options };
            registry.listen(1, &request).unwrap();
            for slot in 0..3 {
                let fault = registry.examine(port, slot);
                assert!(fault.is_none(), "{endpoint:?}: {fault:?}");
            }
        }
    }

    #[test]
    fn a_shard_that_was_shut_down_is_replaced_and_gets_its_share_again() {
        let (mut registry, port, address) = tcp(2);
        SockRef::from(&registry.shard(port, 1).unwrap()).shutdown(Shutdown::Both).unwrap();
        let fault = registry.examine(port, 1).unwrap();
        assert!(matches!(fault.repair, Repair::Replaced(..)) && fault.what == ["it no longer listens"], "{fault:?}");
        drop(fault);
        assert!(registry.examine(port, 1).is_none());
        let _clients: Vec<_> = (0..60).map(|_| TcpStream::connect(address.socket().unwrap()).unwrap()).collect();
        let queued = |slot| std::iter::from_fn(|| os::accept(registry.shard(port, slot).unwrap()).ok()).count();
        let (one, other) = (queued(0), queued(1));
        assert!(one > 0 && other > 0 && one + other == 60, "{one} {other}");
    }

    #[test]
    fn a_shard_that_is_replaced_while_it_listens_gets_the_number_of_the_old_one() {
        let (mut registry, port, address) = tcp(3);
        let shard = registry.shard(port, 1).unwrap();
        crate::listen::drop_syn(shard);
        os::set_socket_option(shard, libc::SOL_SOCKET, 44, &1_i32.to_ne_bytes()).unwrap();
        let fault = registry.examine(port, 1).unwrap();
        assert!(matches!(fault.repair, Repair::Replaced(..)), "{fault:?}");
        drop(fault);
        registry.exclude(port, BTreeSet::from([0, 2]));
        let _clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address.socket().unwrap()).unwrap()).collect();
        let queued = |slot| std::iter::from_fn(|| os::accept(registry.shard(port, slot).unwrap()).ok()).count();
        assert_eq!([queued(0), queued(1), queued(2)], [0, 20, 0]);
    }

    #[test]
    fn a_socket_for_all_that_is_shut_down_is_bound_anew_at_its_address() {
        let path = std::env::temp_dir().join(format!("cluster-renewed-{}.sock", std::process::id()));
        let abstract_name = format!("cluster-renewed-{}", std::process::id());
        for (dispatch, endpoint) in [
            (Dispatch::RoundRobin, Endpoint::Tcp("127.0.0.1:0".parse().unwrap())),
            (Dispatch::Balanced, Endpoint::Unix(path.clone())),
            (Dispatch::Balanced, Endpoint::Abstract(abstract_name.into())),
        ] {
            let (mut registry, port, address) = listening(dispatch, endpoint.clone(), 2);
            SockRef::from(&registry.shared(port).unwrap()).shutdown(Shutdown::Both).unwrap();
            registry.renew_shared(port).unwrap();
            match (&endpoint, address.socket()) {
                (_, Some(address)) => drop(TcpStream::connect(address).unwrap()),
                (Endpoint::Unix(path), _) => drop(UnixStream::connect(path).unwrap()),
                _ => {}
            }
            assert_eq!(registry.address(port), Some(address));
        }
        assert!(!path.exists());
    }
}
