//! The primary's sockets: one shard per slot and address, bound once and held for life.
//!
//! A worker gets a duplicate of its slot's shard. The primary keeps its own, so the accept queue outlives the worker: what was
//! queued when it died is served by its replacement.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::control::PortRequest;

/// Connections that may wait in a shard; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Every port of the cluster.
pub(crate) struct Registry {
    ports: HashMap<Key, Port>,
    most_shards: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    ordinal: u32,
}

struct Port {
    /// With the real port number.
    address: SocketAddr,
    http: bool,
    /// By slot. A shard is made when its slot first listens, and not before: a listening socket that nobody reads would
    /// swallow its share of the connections.
    shards: HashMap<usize, Socket>,
}

impl Registry {
    /// A registry that never holds more than `most_shards` sockets: a worker that asks for port after port must not use up the
    /// descriptors that the primary needs to spawn the next one.
    pub(crate) fn new(most_shards: usize) -> Self {
        Self { ports: HashMap::new(), most_shards }
    }

    /// The shard of `slot` for this port, bound and listening, and its real address.
    ///
    /// # Errors
    /// What bind(2) or listen(2) say, and EMFILE beyond the most shards; nothing is remembered of a failure, so that a retry starts afresh.
    pub(crate) fn listen(&mut self, slot: usize, request: PortRequest) -> io::Result<(SocketAddr, BorrowedFd<'_>)> {
        let key = Key { address: request.address, ordinal: request.ordinal };
        let is_new = self.ports.get(&key).is_none_or(|port| !port.shards.contains_key(&slot));
        if is_new && self.ports.values().map(|port| port.shards.len()).sum::<usize>() >= self.most_shards {
            return Err(Errno::EMFILE.into());
        }
        if let Some(port) = self.ports.get_mut(&key) {
            if !port.shards.contains_key(&slot) {
                port.shards.insert(slot, further_shard(port.address)?);
            }
        } else {
            let (socket, address) = first_shard(request.address)?;
            let port = Port { address, http: request.http, shards: HashMap::from([(slot, socket)]) };
            self.ports.insert(key, port);
        }
        let port = &self.ports[&key];
        Ok((port.address, port.shards[&slot].as_fd()))
    }

    /// The shard of `slot` for this port, if there is one already.
    ///
    /// # Errors
    /// ESHUTDOWN if there is none.
    pub(crate) fn find(&self, slot: usize, request: PortRequest) -> io::Result<(SocketAddr, BorrowedFd<'_>)> {
        let port = self.ports.get(&Key { address: request.address, ordinal: request.ordinal });
        let found = port.and_then(|port| Some((port.address, port.shards.get(&slot)?.as_fd())));
        found.ok_or_else(|| Errno::ESHUTDOWN.into())
    }

    /// Closes every shard of `slot`: it stays empty, and its shards would swallow their share of the connections.
    pub(crate) fn close_slot(&mut self, slot: usize) {
        self.ports.values_mut().for_each(|port| drop(port.shards.remove(&slot)));
        self.ports.retain(|_, port| !port.shards.is_empty());
    }

    /// Closes the shard of `slot` at the real address `address`, as nobody will serve it any more.
    pub(crate) fn close(&mut self, slot: usize, address: SocketAddr) {
        for port in self.ports.values_mut().filter(|port| port.address == address) {
            port.shards.remove(&slot);
        }
        self.ports.retain(|_, port| !port.shards.is_empty());
    }

    /// The real addresses, each with whether HTTP is spoken there.
    pub(crate) fn addresses(&self) -> Vec<(SocketAddr, bool)> {
        let mut all: Vec<_> = self.ports.values().map(|port| (port.address, port.http)).collect();
        all.sort_unstable();
        all
    }
}

/// Binds the port for the cluster.
///
/// The first socket is bound *without* `SO_REUSEPORT` and gets the option afterwards: so it fails where another cluster has the
/// port, which with the option would be joined without a word.
fn first_shard(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = stream_socket(address)?;
    socket.bind(&SockAddr::from(address))?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))?;
    Ok((socket, bound))
}

fn further_shard(address: SocketAddr) -> io::Result<Socket> {
    let socket = stream_socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    // Closed on exec; non-blocking holds for every duplicate, the workers' too.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restarted cluster must not wait for the last one's connections to leave TIME_WAIT. It does not let two listen.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn any(ordinal: u32) -> PortRequest {
        PortRequest { address: "127.0.0.1:0".parse().unwrap(), ordinal, http: false }
    }

    fn fixed(address: SocketAddr) -> PortRequest {
        PortRequest { address, ordinal: 0, http: false }
    }

    #[test]
    fn every_slot_gets_the_same_real_port_and_a_shard_of_its_own() {
        let mut registry = Registry::new(8);
        let (first, one) = registry.listen(0, any(0)).map(|(a, fd)| (a, fd.try_clone_to_owned().unwrap())).unwrap();
        let (second, other) = registry.listen(1, any(0)).map(|(a, fd)| (a, fd.try_clone_to_owned().unwrap())).unwrap();
        assert_eq!(first, second);
        assert_ne!(first.port(), 0);
        let inode = |fd| std::fs::File::from(fd).metadata().map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
        assert_ne!(inode(one), inode(other));
        let (third, _) = registry.listen(0, any(1)).unwrap();
        assert_ne!(first, third, "the second port of a worker is another one");
    }

    #[test]
    fn a_second_cluster_on_the_port_is_refused_and_may_retry() {
        let mut one = Registry::new(8);
        let mut other = Registry::new(8);
        let (address, _) = one.listen(0, any(0)).unwrap();
        one.listen(1, any(0)).unwrap();
        let error = other.listen(0, fixed(address)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(one);
        other.listen(0, fixed(address)).expect("the retry works once the port is free");
    }

    #[test]
    fn a_port_whose_last_shard_is_closed_refuses_connections() {
        let mut registry = Registry::new(8);
        let (address, _) = registry.listen(0, any(0)).unwrap();
        registry.listen(3, any(0)).unwrap();
        registry.close(0, address);
        TcpStream::connect(address).expect("slot 3 still listens");
        registry.close(3, address);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn one_worker_cannot_have_port_after_port_without_end() {
        let mut registry = Registry::new(2);
        registry.listen(0, any(0)).unwrap();
        registry.listen(0, any(1)).unwrap();
        assert_eq!(registry.listen(0, any(2)).unwrap_err().raw_os_error(), Some(libc::EMFILE));
        registry.listen(0, any(1)).expect("what there is can still be had");
    }
}
