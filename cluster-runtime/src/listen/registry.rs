//! The primary's sockets: bound once and held for life.
//!
//! A TCP or UDP port has one socket for each slot, its *shard*, in the order of the slots, as the kernel numbers them in that order
//! too. A worker gets a duplicate of its slot's shard. The primary keeps its own, so the accept queue outlives the worker: what was
//! queued when it died is served by its replacement, or by others if there is none.
//!
//! Unix sockets and inherited ones cannot be multiplied. They are one socket for all, from which the primary accepts; so is a TCP
//! port when the primary is to place every connection.
//!
//! When the primary becomes another program, its sockets stay open and so stay what they are for the kernel, steering included.
//! What is known of them goes along as [`RegistryState`].

mod repair;

use std::collections::BTreeSet;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::condition::Condition;
use super::handed::{HandedDown, invalid};
use super::inherited::{InheritedSockets, InheritedState};
use super::place::Dispatch;
use super::steer::{self, Steering};
use super::unix::{self, FileGuard};
use super::{Address, Endpoint, Options, PortId, PortKey, PortRequest, Scheme, Transport};
use crate::board::MOST_PORTS;
use crate::control::Granted;
use crate::os;
pub(crate) use repair::{Fault, Repair};

/// Connections that may wait in a shard; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Every port of the cluster.
#[derive(Debug)]
pub(crate) struct Registry {
    /// By [`PortId`].
    ports: Vec<Option<Port>>,
    slots: usize,
    dispatch: Dispatch,
    inherited: InheritedSockets,
    most_sockets: usize,
}

#[derive(Debug)]
struct Port {
    key: PortKey,
    /// With the real port number.
    address: Address,
    http: Option<Scheme>,
    /// As they hold now: what is bound later gets them too.
    options: Options,
    /// What each shard is like, as long as nothing but the registry changes it.
    condition: Condition,
    sockets: Sockets,
}

#[derive(Debug)]
enum Sockets {
    /// By slot. A slot that will never be served again has none.
    Shards {
        shards: Vec<Option<Socket>>,
        /// The shards that the kernel passes over now.
        excluded: BTreeSet<usize>,
    },
    Shared {
        /// None once it was lost and cannot be bound again.
        socket: Option<Socket>,
        file: Option<FileGuard>,
    },
}

/// A [`Registry`] as plain data. The descriptors go beside it: the inherited sockets, and port by port what it has.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegistryState {
    ports: Vec<Option<PortState>>,
    inherited: InheritedState,
    /// A TCP port has one socket for all.
    is_in_primary: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PortState {
    key: PortKey,
    address: Address,
    http: Option<Scheme>,
    options: Options,
    sockets: SocketsState,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SocketsState {
    /// By slot, whether there is one.
    Shards {
        is_there: Vec<bool>,
        excluded: BTreeSet<usize>,
    },
    Shared {
        is_there: bool,
        has_file: bool,
    },
}

impl Registry {
    /// A registry for `slots` slots that never holds more than `most_sockets` sockets: a worker that asks for port after port must
    /// not use up the descriptors that the primary needs to spawn the next one.
    pub(crate) fn new(slots: usize, dispatch: Dispatch, inherited: InheritedSockets, most_sockets: usize) -> Self {
        Self { ports: Vec::new(), slots, dispatch, inherited, most_sockets }
    }

    /// The socket of `slot` for this port, bound and listening; none where the primary accepts for all.
    ///
    /// # Errors
    /// What bind(2) or listen(2) say, and EMFILE beyond the most sockets or ports; nothing is remembered of a failure, so that a
    /// retry starts afresh.
    pub(crate) fn listen(
        &mut self,
        slot: usize,
        request: &PortRequest,
    ) -> io::Result<(Granted, Option<BorrowedFd<'_>>)> {
        match self.position(&request.key) {
            None => {
                let id = self.bind(request)?;
                if let Some(port) = &mut self.ports[id.0] {
                    port.set(request.options.clone())?;
                }
            }
            Some(id) => {
                if let Some(port) = &mut self.ports[id.0] {
                    let mut options = port.options.clone();
                    options.overwrite(&request.options);
                    if options != port.options {
                        port.set(options)?;
                    }
                }
            }
        }
        self.find(slot, request)
    }

    /// Makes room for more slots: each port gets shards for them.
    ///
    /// # Errors
    /// What socket(2), bind(2) or listen(2) say, and EMFILE beyond the most sockets. Then there are as many slots as before, and
    /// nobody is in the way of the next attempt.
    pub(crate) fn grow(&mut self, slots: usize) -> io::Result<()> {
        let more = slots.saturating_sub(self.slots);
        let sockets: usize = self.ports.iter().flatten().map(Port::count).sum();
        if sockets + more * self.ports.iter().flatten().count() > self.most_sockets {
            return Err(Errno::EMFILE.into());
        }
        let is_sharded = |port: &&mut Port| matches!(port.sockets, Sockets::Shards { .. });
        let mut grown = Vec::new();
        // Bound first: what does not listen gets nothing and can be closed again.
        for port in self.ports.iter_mut().flatten().filter(is_sharded) {
            grown.push(port.more_shards(more)?);
        }
        let is_by_address = self.dispatch.is_by_address();
        for (port, shards) in self.ports.iter_mut().flatten().filter(is_sharded).zip(grown) {
            port.add(shards, is_by_address)?;
        }
        self.slots = slots;
        Ok(())
    }

    /// The socket of `slot` for this port, if there is one already.
    ///
    /// # Errors
    /// ESHUTDOWN if there is none.
    pub(crate) fn find(&self, slot: usize, request: &PortRequest) -> io::Result<(Granted, Option<BorrowedFd<'_>>)> {
        let found = self.position(&request.key).and_then(|id| {
            let port = self.port(id)?;
            let socket = match &port.sockets {
                Sockets::Shards { shards, .. } => Some(shards.get(slot)?.as_ref()?.as_fd()),
                Sockets::Shared { socket, .. } if port.transport() == Transport::Datagram => {
                    Some(socket.as_ref()?.as_fd())
                }
                Sockets::Shared { .. } => None,
            };
            let granted = Granted { port: id, address: port.address.clone(), by_primary: socket.is_none() };
            Some((granted, socket))
        });
        found.ok_or_else(|| Errno::ESHUTDOWN.into())
    }

    /// Every port from which connections are accepted.
    pub(crate) fn streams(&self) -> impl Iterator<Item = PortId> {
        let ids = (0..self.ports.len()).map(PortId);
        ids.filter(|id| self.port(*id).is_some_and(|port| port.transport() == Transport::Stream))
    }

    /// Every port that receives datagrams.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = PortId> {
        let ids = (0..self.ports.len()).map(PortId);
        ids.filter(|id| self.port(*id).is_some_and(|port| port.transport() == Transport::Datagram))
    }

    /// The socket that all slots share, where they do.
    pub(crate) fn shared(&self, port: PortId) -> Option<BorrowedFd<'_>> {
        match &self.port(port)?.sockets {
            Sockets::Shared { socket, .. } => socket.as_ref().map(Socket::as_fd),
            Sockets::Shards { .. } => None,
        }
    }

    /// The shard of `slot`, where it has one.
    pub(crate) fn shard(&self, port: PortId, slot: usize) -> Option<BorrowedFd<'_>> {
        match &self.port(port)?.sockets {
            Sockets::Shards { shards, .. } => Some(shards.get(slot)?.as_ref()?.as_fd()),
            Sockets::Shared { .. } => None,
        }
    }

    /// Lets the kernel give nothing to the shards of the `excluded` slots. Not for a cluster that stops, whose shards have gaps.
    pub(crate) fn exclude(&mut self, port: PortId, to_exclude: BTreeSet<usize>) {
        let is_by_address = self.dispatch.is_by_address();
        let Some(port) = self.ports.get_mut(port.0).and_then(Option::as_mut) else { return };
        let transport = port.transport();
        let Sockets::Shards { shards, excluded } = &mut port.sockets else { return };
        if *excluded == to_exclude {
            return;
        }
        *excluded = to_exclude;
        // Where it is forbidden, who is given to an excluded slot is served too, only later.
        if let Err(error) = steer(shards, transport, is_by_address, excluded) {
            tracing::debug!(%error, "the kernel does not let connections be steered");
        }
    }

    /// From here on shards are closed one by one, which renumbers them for the kernel: it is to choose by itself.
    pub(crate) fn stop_steering(&mut self) {
        for port in self.ports.iter().flatten() {
            if let Sockets::Shards { shards, .. } = &port.sockets
                && let Some(any) = shards.iter().flatten().next()
            {
                _ = os::detach_steering(any.as_fd());
            }
        }
    }

    /// Closes every shard of `slot`: it stays empty, and its shards would swallow their share of the connections.
    pub(crate) fn close_slot(&mut self, slot: usize) {
        (0..self.ports.len()).for_each(|id| self.close(slot, PortId(id)));
    }

    /// Closes the shard of `slot`, or the socket that it shares with all, as nobody will serve it any more.
    pub(crate) fn close(&mut self, slot: usize, id: PortId) {
        let Some(entry) = self.ports.get_mut(id.0) else { return };
        let is_empty = match entry.as_mut().map(|port| &mut port.sockets) {
            Some(Sockets::Shards { shards, .. }) => {
                if let Some(shard) = shards.get_mut(slot).and_then(Option::take) {
                    // A child that a worker has forked and forgotten may still have it, and must not keep the port.
                    _ = shard.shutdown(Shutdown::Both);
                }
                shards.iter().all(Option::is_none)
            }
            Some(Sockets::Shared { .. }) | None => false,
        };
        if is_empty {
            *entry = None;
        }
    }

    /// Closes the sockets that all slots share, where there are such.
    pub(crate) fn close_shared(&mut self, id: PortId) {
        if self.port(id).is_some_and(|port| matches!(port.sockets, Sockets::Shared { .. })) {
            self.ports[id.0] = None;
        }
    }

    /// The real address of a port.
    pub(crate) fn address(&self, port: PortId) -> Option<Address> {
        self.port(port).map(|port| port.address.clone())
    }

    /// The real addresses, each with whether HTTP is spoken there.
    pub(crate) fn addresses(&self) -> Vec<(Address, Option<Scheme>)> {
        let mut all: Vec<_> = self.ports.iter().flatten().map(|port| (port.address.clone(), port.http)).collect();
        all.sort_unstable();
        all
    }

    /// What a next program needs to go on with the same ports; the descriptors go to `fds`.
    pub(crate) fn hand_down<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) -> RegistryState {
        RegistryState {
            inherited: self.inherited.hand_down(fds),
            ports: self.ports.iter().map(|port| port.as_ref().map(|port| port.hand_down(fds))).collect(),
            is_in_primary: self.dispatch.is_in_primary(),
        }
    }

    /// From here on the files of Unix sockets are another's to remove.
    pub(crate) fn keep_files(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            if let Sockets::Shared { file, .. } = &mut port.sockets
                && let Some(file) = file.take()
            {
                file.keep();
            }
        }
    }

    /// Goes on with the ports of the program before. `is_steered`: no shard has been closed, as is done when the cluster stops.
    ///
    /// # Errors
    /// What [`RegistryState::check`] says, and `InvalidData` if descriptors are missing or are not what they should be.
    pub(crate) fn adopt(
        state: RegistryState,
        fds: &mut HandedDown,
        slots: usize,
        dispatch: Dispatch,
        most_sockets: usize,
        is_steered: bool,
    ) -> io::Result<Self> {
        state.check(&dispatch)?;
        let RegistryState { ports, inherited, is_in_primary: _ } = state;
        let inherited = InheritedSockets::again(inherited, fds)?;
        let adopt = |port: Option<PortState>| port.map(|port| Port::adopt(port, fds)).transpose();
        let ports = ports.into_iter().map(adopt).collect::<io::Result<Vec<_>>>()?;
        let registry = Self { ports, slots, dispatch, inherited, most_sockets };
        if is_steered {
            registry.steer_again();
        }
        Ok(registry)
    }

    /// Has the kernel go by our programs again: it may go by those of the program before, which may have spread connections by another
    /// policy, or by one that a worker has attached.
    pub(crate) fn steer_again(&self) {
        for port in self.ports.iter().flatten() {
            if let Sockets::Shards { shards, excluded } = &port.sockets
                && let Err(error) = steer(shards, port.transport(), self.dispatch.is_by_address(), excluded)
            {
                tracing::debug!(%error, "the kernel does not let connections be steered");
            }
        }
    }

    fn bind(&mut self, request: &PortRequest) -> io::Result<PortId> {
        let id = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        let sockets: usize = self.ports.iter().flatten().map(Port::count).sum();
        if id >= MOST_PORTS || sockets + self.slots > self.most_sockets {
            let text = format!("a cluster has {MOST_PORTS} ports at most, and as many as its file limit allows");
            return Err(io::Error::other(text));
        }
        let (address, sockets) = self.bind_sockets(&request.key.endpoint, &request.options)?;
        let options = request.options.clone();
        let condition = Condition::default();
        let mut port = Port { key: request.key.clone(), address, http: request.http, options, condition, sockets };
        let transport = port.transport();
        if let Sockets::Shards { shards, excluded } = &mut port.sockets
            && self.dispatch.is_by_address()
            && let Err(error) = steer(shards, transport, true, excluded)
        {
            tracing::debug!(%error, "the kernel does not let connections be steered");
        }
        if id == self.ports.len() {
            self.ports.push(None);
        }
        self.ports[id] = Some(port);
        Ok(PortId(id))
    }

    fn bind_sockets(&self, endpoint: &Endpoint, options: &Options) -> io::Result<(Address, Sockets)> {
        let backlog = backlog(options);
        let shared = |socket, file| Sockets::Shared { socket: Some(socket), file };
        match endpoint {
            Endpoint::Tcp(address) if self.dispatch.is_in_primary() => {
                let socket = inet_socket(*address, Type::STREAM, options)?;
                socket.bind(&SockAddr::from(*address))?;
                socket.listen(backlog)?;
                Ok((Address::Tcp(bound(&socket)?), shared(socket, None)))
            }
            Endpoint::Tcp(address) => {
                let (bound, shards) = shards(*address, Type::STREAM, options, self.slots)?;
                Ok((Address::Tcp(bound), shards))
            }
            Endpoint::Udp(address) => {
                let (bound, shards) = shards(*address, Type::DGRAM, options, self.slots)?;
                Ok((Address::Udp(bound), shards))
            }
            Endpoint::Unix(path) => {
                let (socket, file) = unix::bind(path, options.mode, backlog)?;
                Ok((Address::Unix(path.clone()), shared(socket, Some(file))))
            }
            Endpoint::Abstract(name) => {
                Ok((Address::Abstract(name.clone()), shared(unix::bind_abstract(name, backlog)?, None)))
            }
            Endpoint::Inherited { by, transport } => {
                let socket = self.inherited.take(by, *transport)?;
                let address = match (socket.local_addr()?, transport) {
                    (address, Transport::Stream) => Address::of_stream(&address),
                    (address, Transport::Datagram) => Address::Udp(address.as_socket().ok_or(Errno::EAFNOSUPPORT)?),
                };
                Ok((address, shared(socket, None)))
            }
        }
    }

    /// The number of a port, if it is bound.
    pub(crate) fn position(&self, key: &PortKey) -> Option<PortId> {
        self.ports.iter().position(|port| port.as_ref().is_some_and(|port| port.key == *key)).map(PortId)
    }

    fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0)?.as_ref()
    }
}

impl RegistryState {
    /// Whether the ports can be gone on with under this policy.
    ///
    /// # Errors
    /// `InvalidInput` if it needs sockets of another kind.
    pub(crate) fn check(&self, dispatch: &Dispatch) -> io::Result<()> {
        let (now, then) = (self.is_in_primary, dispatch.is_in_primary());
        if now == then {
            return Ok(());
        }
        let name = |is_in_primary| if is_in_primary { "round-robin" } else { "something other than round-robin" };
        let text = format!(
            "dispatch is {} in the running cluster and {} in the new program, for which ports would have to be bound anew; \
             leave it as it is, or stop the cluster and start it again",
            name(now),
            name(then)
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

impl Port {
    fn hand_down<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) -> PortState {
        let sockets = match &self.sockets {
            Sockets::Shards { shards, excluded } => {
                fds.extend(shards.iter().flatten().map(Socket::as_fd));
                let is_there = shards.iter().map(Option::is_some).collect();
                SocketsState::Shards { is_there, excluded: excluded.clone() }
            }
            Sockets::Shared { socket, file } => {
                let file = file.as_ref().and_then(FileGuard::file);
                fds.extend(socket.as_ref().map(Socket::as_fd));
                fds.extend(file);
                SocketsState::Shared { is_there: socket.is_some(), has_file: file.is_some() }
            }
        };
        let Self { key, address, http, options, .. } = self;
        PortState { key: key.clone(), address: address.clone(), http: *http, options: options.clone(), sockets }
    }

    fn adopt(state: PortState, fds: &mut HandedDown) -> io::Result<Self> {
        let PortState { key, address, http, options, sockets } = state;
        let mut socket = || {
            let socket = Socket::from(fds.next()?);
            // A wrong one would serve the clients of another port.
            match address.socket() {
                Some(address) if bound(&socket)? != address => Err(invalid("a socket is not the one of its port")),
                Some(_) | None => Ok(socket),
            }
        };
        let sockets = match sockets {
            SocketsState::Shards { is_there, excluded } => {
                let shards = is_there.into_iter().map(|is_there| is_there.then(&mut socket).transpose());
                Sockets::Shards { shards: shards.collect::<io::Result<_>>()?, excluded }
            }
            SocketsState::Shared { is_there, has_file } => {
                let socket = is_there.then(&mut socket).transpose()?;
                let file = match &key.endpoint {
                    Endpoint::Unix(path) if has_file => Some(FileGuard::again(path.clone(), fds.next()?)?),
                    _ if has_file => return Err(invalid("only a Unix socket has a file")),
                    _ => None,
                };
                Sockets::Shared { socket, file }
            }
        };
        let mut port = Self { key, address, http, options, condition: Condition::default(), sockets };
        port.condition = port.right_condition();
        Ok(port)
    }

    fn transport(&self) -> Transport {
        self.key.endpoint.transport()
    }

    fn count(&self) -> usize {
        match &self.sockets {
            Sockets::Shards { shards, .. } => shards.iter().flatten().count(),
            Sockets::Shared { .. } => 1,
        }
    }

    /// So many sockets more at the same address, bound and not listening yet.
    fn more_shards(&self, count: usize) -> io::Result<Vec<Socket>> {
        let Some(address) = self.address.socket() else { return Ok(Vec::new()) };
        let bind = |_| {
            let shard = self.unbound_shard(address)?;
            shard.bind(&SockAddr::from(address))?;
            Ok(shard)
        };
        (0..count).map(bind).collect()
    }

    fn unbound_shard(&self, address: SocketAddr) -> io::Result<Socket> {
        let kind = if self.transport() == Transport::Stream { Type::STREAM } else { Type::DGRAM };
        let shard = inet_socket(address, kind, &self.options)?;
        shard.set_reuse_port(true)?;
        if kind == Type::STREAM {
            apply_to_tcp(&shard, &self.options)?;
        }
        Ok(shard)
    }

    /// What a shard of this port is like as long as nothing else changes it, as a new one shows. An inherited socket has its own
    /// settings, which are those that it has now.
    fn right_condition(&self) -> Condition {
        let fresh = match (&self.sockets, self.address.socket()) {
            (Sockets::Shards { .. }, Some(address)) => self.unbound_shard(address).ok(),
            (Sockets::Shards { .. }, None) => None,
            (Sockets::Shared { socket, .. }, _) => {
                return socket.as_ref().map_or_else(Condition::default, |socket| Condition::of(socket.as_fd()));
            }
        };
        fresh.as_ref().map_or_else(Condition::default, |socket| Condition::of(socket.as_fd()))
    }

    /// Takes shards for the slots after the last; they listen from here on.
    fn add(&mut self, more: Vec<Socket>, is_by_address: bool) -> io::Result<()> {
        let transport = self.transport();
        if transport == Transport::Stream {
            more.iter().try_for_each(|shard| shard.listen(backlog(&self.options)))?;
        }
        let Sockets::Shards { shards, excluded } = &mut self.sockets else { return Ok(()) };
        shards.extend(more.into_iter().map(Some));
        // A program knows how many there are.
        if let Err(error) = steer(shards, transport, is_by_address, excluded) {
            tracing::debug!(%error, "the kernel does not let connections be steered");
        }
        Ok(())
    }

    /// Makes `options` hold from here on.
    fn set(&mut self, options: Options) -> io::Result<()> {
        self.apply(&options)?;
        self.options = options;
        self.condition = self.right_condition();
        Ok(())
    }

    /// Sets what can be set at any time. Accepted connections inherit it.
    fn apply(&self, options: &Options) -> io::Result<()> {
        if self.transport() == Transport::Datagram {
            return Ok(());
        }
        let sockets: Vec<&Socket> = match &self.sockets {
            Sockets::Shards { shards, .. } => shards.iter().flatten().collect(),
            Sockets::Shared { socket, .. } => socket.iter().collect(),
        };
        for socket in sockets {
            if options.backlog.is_some() {
                socket.listen(backlog(options))?;
            }
            if matches!(self.address, Address::Tcp(_)) {
                apply_to_tcp(socket, options)?;
            }
        }
        Ok(())
    }
}

fn apply_to_tcp(socket: &Socket, options: &Options) -> io::Result<()> {
    if let Some(nodelay) = options.nodelay {
        socket.set_tcp_nodelay(nodelay)?;
    }
    if let Some(idle) = options.keepalive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle.max(Duration::from_secs(1))))?;
    }
    if let Some(pending) = options.fast_open {
        os::set_fast_open(socket.as_fd(), pending)?;
    }
    if let Some(time) = options.defer_accept {
        os::set_defer_accept(socket.as_fd(), time)?;
    }
    Ok(())
}

/// Binds a port for the cluster, one socket for each slot.
///
/// The first socket is bound *without* `SO_REUSEPORT` and gets the option afterwards: so it fails where another cluster has the
/// port, which with the option would be joined without a word.
fn shards(address: SocketAddr, kind: Type, options: &Options, slots: usize) -> io::Result<(SocketAddr, Sockets)> {
    let first = inet_socket(address, kind, options)?;
    first.bind(&SockAddr::from(address))?;
    first.set_reuse_port(true)?;
    let address = bound(&first)?;
    let mut shards = vec![Some(first)];
    for _ in 1..slots {
        let shard = inet_socket(address, kind, options)?;
        shard.set_reuse_port(true)?;
        shard.bind(&SockAddr::from(address))?;
        shards.push(Some(shard));
    }
    if kind == Type::STREAM {
        // In the order of the slots: the kernel numbers them as they begin to listen.
        shards.iter().flatten().try_for_each(|shard| shard.listen(backlog(options)))?;
    }
    Ok((address, Sockets::Shards { shards, excluded: BTreeSet::new() }))
}

fn inet_socket(address: SocketAddr, kind: Type, options: &Options) -> io::Result<Socket> {
    // Closed on exec; non-blocking holds for every duplicate, the workers' too.
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if kind == Type::STREAM {
        // A restarted cluster must not wait for the last one's connections to leave TIME_WAIT. It does not let two listen.
        socket.set_reuse_address(true)?;
    }
    if let (Some(only), SocketAddr::V6(_)) = (options.v6_only, address) {
        socket.set_only_v6(only)?;
    }
    Ok(socket)
}

fn steer(
    shards: &[Option<Socket>],
    transport: Transport,
    is_by_address: bool,
    excluded: &BTreeSet<usize>,
) -> io::Result<()> {
    let [Some(any), _, ..] = shards else { return Ok(()) };
    let steering = match transport {
        Transport::Stream if is_by_address => Steering::Client,
        Transport::Stream => Steering::Random,
        Transport::Datagram => Steering::Flow,
    };
    if excluded.is_empty() && steering != Steering::Client {
        return match os::detach_steering(any.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
    }
    os::attach_steering(any.as_fd(), &steer::program(steering, shards.len(), excluded))
}

fn bound(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an internet socket"))
}

fn backlog(options: &Options) -> i32 {
    options.backlog.unwrap_or(BACKLOG).try_into().unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// The registry as another program has it, which gets duplicates here. The files stay behind.
    fn adopted(mut old: Registry, dispatch: Dispatch) -> io::Result<Registry> {
        let mut fds = Vec::new();
        let state = crate::ipc::codec::encode_state(&old.hand_down(&mut fds)).unwrap();
        let fds = fds.into_iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        old.keep_files();
        let (mut fds, state) = (HandedDown::new(fds), crate::ipc::codec::decode_state(&state).unwrap());
        let slots = old.slots;
        drop(old);
        let registry = Registry::adopt(state, &mut fds, slots, dispatch, 1024, true)?;
        fds.end()?;
        Ok(registry)
    }

    fn registry(slots: usize) -> Registry {
        Registry::new(slots, Dispatch::Balanced, InheritedSockets::default(), 1024)
    }

    fn on(endpoint: Endpoint, ordinal: u32) -> PortRequest {
        PortRequest { key: PortKey { endpoint, ordinal }, http: None, options: Options::default() }
    }

    fn any(ordinal: u32) -> PortRequest {
        on(Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), ordinal)
    }

    fn listen(registry: &mut Registry, slot: usize, request: &PortRequest) -> (Granted, OwnedFd) {
        let (granted, fd) = registry.listen(slot, request).unwrap();
        let fd = fd.map(|fd| fd.try_clone_to_owned().unwrap());
        let shared = || registry.shared(granted.port).unwrap().try_clone_to_owned().unwrap();
        let fd = fd.unwrap_or_else(shared);
        (granted, fd)
    }

    fn inode(fd: OwnedFd) -> u64 {
        std::fs::File::from(fd).metadata().unwrap().ino()
    }

    #[test]
    fn all_slots_share_a_port_that_the_kernel_chose_each_with_a_socket_of_its_own() {
        let mut registry = registry(2);
        let (first, one) = listen(&mut registry, 0, &any(0));
        let (second, other) = listen(&mut registry, 1, &any(0));
        assert_eq!((first.port, &first.address), (second.port, &second.address));
        assert_ne!(first.address.port(), Some(0));
        assert_ne!(inode(one), inode(other));
        let (third, _) = listen(&mut registry, 0, &any(1));
        assert_ne!(first.address, third.address, "the second port of a worker is another one");
    }

    #[test]
    fn a_replacement_gets_the_socket_of_its_slot() {
        let mut registry = registry(2);
        let (_, one) = listen(&mut registry, 1, &any(0));
        let (_, again) = listen(&mut registry, 1, &any(0));
        assert_eq!(inode(one), inode(again));
    }

    #[test]
    fn a_second_cluster_on_the_port_is_refused_and_may_retry() {
        for transport in [Endpoint::Tcp, Endpoint::Udp] {
            let mut one = registry(2);
            let mut other = registry(2);
            let (granted, _) = listen(&mut one, 0, &on(transport("127.0.0.1:0".parse().unwrap()), 0));
            let fixed = on(transport(granted.address.socket().unwrap()), 0);
            let error = other.listen(0, &fixed).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            drop(one);
            other.listen(0, &fixed).expect("the retry works once the port is free");
        }
    }

    #[test]
    fn a_port_whose_last_shard_is_closed_refuses_connections() {
        let mut registry = registry(2);
        let (granted, _) = listen(&mut registry, 0, &any(0));
        let address = granted.address.socket().unwrap();
        registry.close(0, granted.port);
        TcpStream::connect(address).expect("slot 1 still listens");
        registry.close(1, granted.port);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_registry_that_grows_gives_every_port_shards_for_the_new_slots() {
        let mut registry = registry(1);
        let (granted, _) = listen(&mut registry, 0, &any(0));
        let address = granted.address.socket().unwrap();
        registry.grow(4).unwrap();
        let _clients: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
        let queued = |slot| {
            let shard = registry.shard(granted.port, slot).unwrap();
            std::iter::from_fn(|| os::accept(shard).ok()).count()
        };
        let spread: Vec<_> = (0..4).map(queued).collect();
        assert!(spread.iter().all(|count| *count > 0), "{spread:?}");
        assert_eq!(spread.iter().sum::<usize>(), 200);
        registry.exclude(granted.port, BTreeSet::from([0, 2, 3]));
        let _clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        let queued = |slot| {
            let shard = registry.shard(granted.port, slot).unwrap();
            std::iter::from_fn(|| os::accept(shard).ok()).count()
        };
        assert_eq!(queued(1), 20, "the kernel numbers them by slot");
        let (other, _) = listen(&mut registry, 3, &any(1));
        assert!(registry.shard(other.port, 3).is_some(), "a port that is bound later has as many");
    }

    #[test]
    fn an_excluded_shard_gets_no_connection() {
        let mut registry = registry(3);
        let (granted, _) = listen(&mut registry, 0, &any(0));
        registry.exclude(granted.port, BTreeSet::from([1]));
        let address = granted.address.socket().unwrap();
        let _clients: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
        let queued = |slot| {
            let shard = registry.shard(granted.port, slot).unwrap();
            std::iter::from_fn(|| os::accept(shard).ok()).count()
        };
        assert_eq!((queued(1), queued(0) + queued(2)), (0, 60));
        registry.exclude(granted.port, BTreeSet::new());
        let _clients: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
        let queued = |slot| {
            let shard = registry.shard(granted.port, slot).unwrap();
            std::iter::from_fn(|| os::accept(shard).ok()).count()
        };
        assert!(queued(1) > 0, "it is back");
    }

    #[test]
    fn one_worker_cannot_have_port_after_port_without_end() {
        let mut few = Registry::new(2, Dispatch::Balanced, InheritedSockets::default(), 4);
        few.listen(0, &any(0)).unwrap();
        few.listen(0, &any(1)).unwrap();
        assert!(few.listen(0, &any(2)).is_err());
        few.listen(0, &any(1)).expect("what there is can still be had");
        let mut many = registry(1);
        let refused = (0..200).find(|ordinal| many.listen(0, &any(*ordinal)).is_err());
        assert_eq!(refused, Some(MOST_PORTS as u32));
    }

    #[test]
    fn a_unix_socket_is_one_for_all_slots_and_its_file_goes_with_it() {
        let directory = std::env::temp_dir().join(format!("cluster-registry-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let mut registry = registry(2);
        let request = on(Endpoint::Unix(path.clone()), 0);
        let (granted, one) = listen(&mut registry, 0, &request);
        let (_, other) = listen(&mut registry, 1, &request);
        assert!(granted.by_primary);
        assert_eq!(inode(one), inode(other));
        UnixStream::connect(&path).unwrap();
        registry.close_shared(granted.port);
        assert!(!path.exists());
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_registry_that_is_handed_down_has_the_same_sockets() {
        let mut registry = registry(3);
        let udp = on(Endpoint::Udp("127.0.0.1:0".parse().unwrap()), 0);
        let name = on(Endpoint::Abstract(format!("cluster-handed-{}", std::process::id()).into()), 0);
        let requests = [any(0), any(1), udp, name];
        let all = |registry: &mut Registry| -> Vec<_> {
            let each = requests.iter().flat_map(|request| (0..3).map(move |slot| (slot, request)));
            let listen = |(slot, request)| {
                let (granted, fd) = listen(registry, slot, request);
                (granted.port, granted.address, granted.by_primary, inode(fd))
            };
            each.map(listen).collect()
        };
        let before = all(&mut registry);
        let addresses = registry.addresses();
        let mut registry = adopted(registry, Dispatch::Balanced).unwrap();
        assert_eq!(registry.addresses(), addresses);
        assert_eq!(all(&mut registry), before);
        for request in &requests[2..] {
            let (granted, _) = listen(&mut registry, 0, request);
            let fixed = match granted.address {
                Address::Udp(address) => on(Endpoint::Udp(address), 0),
                _ => request.clone(),
            };
            let error = self::registry(3).listen(0, &fixed).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "a second cluster is still refused");
        }
        listen(&mut registry, 0, &any(2));
    }

    #[test]
    fn an_excluded_shard_stays_excluded_in_the_next_program_and_can_be_back() {
        let mut registry = registry(3);
        let (granted, _) = listen(&mut registry, 0, &any(0));
        registry.exclude(granted.port, BTreeSet::from([1]));
        let mut registry = adopted(registry, Dispatch::Balanced).unwrap();
        let address = granted.address.socket().unwrap();
        let queued = |registry: &Registry, slot| {
            let shard = registry.shard(granted.port, slot).unwrap();
            std::iter::from_fn(|| os::accept(shard).ok()).count()
        };
        let _clients: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!((queued(&registry, 1), queued(&registry, 0) + queued(&registry, 2)), (0, 60));
        registry.exclude(granted.port, BTreeSet::new());
        let _clients: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert!(queued(&registry, 1) > 0, "it is back");
    }

    #[test]
    fn the_next_program_may_keep_clients_with_their_slot_where_this_one_does_not() {
        let mut registry = registry(3);
        let (granted, _) = listen(&mut registry, 0, &any(0));
        let registry = adopted(registry, Dispatch::Sticky(super::super::Sticky::address())).unwrap();
        let address = granted.address.socket().unwrap();
        let _clients: Vec<_> = (0..30).map(|_| TcpStream::connect(address).unwrap()).collect();
        let queued = |slot| {
            let shard = registry.shard(granted.port, slot).unwrap();
            std::iter::from_fn(|| os::accept(shard).ok()).count()
        };
        let mut all = [queued(0), queued(1), queued(2)];
        all.sort_unstable();
        assert_eq!(all, [0, 0, 30], "one client, one slot");
    }

    #[test]
    fn a_policy_that_needs_sockets_of_another_kind_is_refused_and_named() {
        for (then, now) in [(Dispatch::Balanced, Dispatch::RoundRobin), (Dispatch::RoundRobin, Dispatch::Kernel)] {
            let mut registry = Registry::new(2, then, InheritedSockets::default(), 1024);
            listen(&mut registry, 0, &any(0));
            let error = adopted(registry, now).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("stop the cluster and start it again"), "{error}");
        }
        let mut registry = Registry::new(2, Dispatch::RoundRobin, InheritedSockets::default(), 1024);
        let (granted, _) = listen(&mut registry, 0, &any(0));
        assert!(adopted(registry, Dispatch::RoundRobin).unwrap().shared(granted.port).is_some());
    }

    #[test]
    fn a_shard_that_was_closed_is_missing_in_the_next_program_too() {
        let mut registry = registry(3);
        let (granted, _) = listen(&mut registry, 0, &any(0));
        let (other, _) = listen(&mut registry, 0, &any(1));
        registry.close(1, granted.port);
        (0..3).for_each(|slot| registry.close(slot, PortId(0)));
        let registry = adopted(registry, Dispatch::Balanced).unwrap();
        assert!(registry.port(PortId(0)).is_none(), "the whole port was closed");
        assert!((0..3).all(|slot| registry.shard(other.port, slot).is_some()));
        assert_eq!(registry.streams().collect::<Vec<_>>(), [other.port]);
    }

    #[test]
    fn the_file_of_a_unix_socket_goes_with_the_next_program_and_not_with_this_one() {
        let directory = std::env::temp_dir().join(format!("cluster-handed-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let mut registry = registry(2);
        listen(&mut registry, 0, &on(Endpoint::Unix(path.clone()), 0));
        let registry = adopted(registry, Dispatch::Balanced).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(registry);
        assert!(!path.exists());
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn descriptors_that_are_not_those_of_the_ports_are_refused() {
        let mut registry = registry(2);
        listen(&mut registry, 0, &any(0));
        listen(&mut registry, 0, &any(1));
        let adopt = |change: fn(&mut Vec<OwnedFd>)| {
            let mut fds = Vec::new();
            let state = registry.hand_down(&mut fds);
            let mut fds: Vec<_> = fds.into_iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
            change(&mut fds);
            let mut fds = HandedDown::new(fds);
            let adopted = Registry::adopt(state, &mut fds, 2, Dispatch::Balanced, 1024, true);
            adopted.and_then(|_| fds.end()).map_err(|error| error.kind())
        };
        assert_eq!(adopt(|_| {}), Ok(()));
        assert_eq!(adopt(|fds| _ = fds.pop()), Err(io::ErrorKind::InvalidData));
        assert_eq!(adopt(|fds| fds.reverse()), Err(io::ErrorKind::InvalidData));
        assert_eq!(adopt(|fds| fds.push(fds[0].try_clone().unwrap())), Err(io::ErrorKind::InvalidData));
    }

    #[test]
    fn v6_only_leaves_the_port_to_ipv4() {
        let mut registry = registry(2);
        let mut request = on(Endpoint::Tcp("[::]:0".parse().unwrap()), 0);
        request.options.v6_only = Some(true);
        let (granted, _) = listen(&mut registry, 0, &request);
        let port = granted.address.port().unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        TcpListener::bind(("0.0.0.0", port)).expect("it is free");
        request = on(Endpoint::Tcp("[::]:0".parse().unwrap()), 1);
        request.options.v6_only = Some(false);
        let (both, _) = listen(&mut registry, 0, &request);
        TcpStream::connect(("127.0.0.1", both.address.port().unwrap())).expect("it takes both");
    }
}
