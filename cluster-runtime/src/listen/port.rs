//! [`Port`]: where to listen and how, as the user says it; and [`PortRequest`], the same as the worker asks the primary for it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::Address;
#[cfg(feature = "rustls")]
use crate::tls::Tls;

/// Where to listen, with settings; what [`listen`](crate::listen()) and [`serve`](crate::serve()) take in place of a mere
/// address.
///
/// ```no_run
/// # async fn f(app: axum::Router) -> cluster::Result {
/// use std::time::Duration;
/// use cluster::Port;
///
/// let port = Port::at("[::]:3000").v6_only(true).max_connections(10_000).keepalive(Duration::from_secs(60));
/// cluster::serve(port, app).await
/// # }
/// ```
///
/// The socket belongs to the whole cluster: of settings that differ between workers, those of the last one to ask hold, and those
/// of the first one where they cannot be changed later (`v6_only`, `mode`).
#[derive(Clone, Debug)]
#[must_use = "a Port does nothing until it is given to listen or serve"]
pub struct Port {
    pub(crate) place: Place,
    pub(crate) options: Options,
    pub(crate) max_connections: Option<usize>,
    #[cfg(feature = "rustls")]
    pub(crate) tls: Option<Tls>,
}

/// Where to listen, as the user wrote it.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Socket(SocketAddr),
    Text(String),
}

/// What can be set of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) backlog: Option<u32>,
    pub(crate) v6_only: Option<bool>,
    pub(crate) mode: Option<u32>,
    pub(crate) nodelay: Option<bool>,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) fast_open: Option<u32>,
    pub(crate) defer_accept: Option<Duration>,
}

impl Options {
    /// Takes from `later` what it sets.
    pub(crate) fn overwrite(&mut self, later: &Self) {
        let Self { backlog, v6_only, mode, nodelay, keepalive, fast_open, defer_accept } = later.clone();
        // What a socket is bound with is settled with the first.
        let Self { v6_only: bound, mode: made, .. } = *self;
        *self = Self {
            backlog: backlog.or(self.backlog),
            v6_only: bound.or(v6_only),
            mode: made.or(mode),
            nodelay: nodelay.or(self.nodelay),
            keepalive: keepalive.or(self.keepalive),
            fast_open: fast_open.or(self.fast_open),
            defer_accept: defer_accept.or(self.defer_accept),
        };
    }
}

impl Port {
    /// The address `address` with the defaults.
    pub fn at(address: impl ToAddress) -> Self {
        address.port()
    }

    /// Connections that may wait to be accepted, for each worker; the kernel cuts it to `net.core.somaxconn`. Default: 4096.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.options.backlog = Some(connections);
        self
    }

    /// Connections that one worker has at a time; others get what is more, unless clients are to stay with their slot by address.
    /// When all have so many, newcomers wait in the accept queue. Default: no limit.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = Some(connections.max(1));
        self
    }

    /// Whether an IPv6 address takes IPv6 clients only. Default: as the system has it, which is usually not (`[::]` takes
    /// IPv4 clients too).
    pub fn v6_only(mut self, only: bool) -> Self {
        self.options.v6_only = Some(only);
        self
    }

    /// The permissions of a Unix socket's file, such as `0o660`. Default: as the umask leaves them.
    pub fn mode(mut self, mode: u32) -> Self {
        self.options.mode = Some(mode);
        self
    }

    /// Whether small writes are sent at once (`TCP_NODELAY`). Default: as the system has it, and for [`serve`](crate::serve())
    /// they are.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.options.nodelay = Some(nodelay);
        self
    }

    /// Lets the kernel look after clients that have been silent for `idle`, so that the dead ones are noticed. Whole seconds.
    /// Default: it does not.
    pub fn keepalive(mut self, idle: Duration) -> Self {
        self.options.keepalive = Some(idle);
        self
    }

    /// Lets clients send data in their first packet (TCP Fast Open), at most so many that are not yet established. Default: off.
    pub fn fast_open(mut self, pending: u32) -> Self {
        self.options.fast_open = Some(pending);
        self
    }

    /// Lets a connection wait in the kernel until its client has sent something, or the time is over. Whole seconds. Default: off.
    pub fn defer_accept(mut self, time: Duration) -> Self {
        self.options.defer_accept = Some(time);
        self
    }

    /// Speaks TLS: with a certificate from PEM files ([`Tls::from_pem`]), or as a rustls `ServerConfig` says. For
    /// [`serve`](crate::serve()) and [`Http::serve`](crate::Http::serve).
    ///
    /// ```no_run
    /// # async fn f(app: axum::Router) -> cluster::Result {
    /// use cluster::{Port, Tls};
    /// cluster::serve(Port::at("0.0.0.0:3443").tls(Tls::from_pem("cert.pem", "key.pem")), app).await
    /// # }
    /// ```
    ///
    /// [`listen`](crate::listen()) refuses a port with TLS: a handshake in `accept` would let one slow client keep all others
    /// waiting. There the task of each connection shakes hands, by [`Tls::acceptor`].
    #[cfg(feature = "rustls")]
    pub fn tls(mut self, tls: impl Into<Tls>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    fn place(place: Place) -> Self {
        Self {
            place,
            options: Options::default(),
            max_connections: None,
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }

    /// For those who do not shake hands: what goes over the port would not be encrypted.
    pub(crate) fn expect_plain(self) -> io::Result<Self> {
        #[cfg(feature = "rustls")]
        if self.tls.is_some() {
            let text = "only serve shakes hands by itself on a Port with tls(..); here listen without it, make an acceptor by \
                        Tls::acceptor(), and have the task of each connection shake hands";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(self)
    }
}

/// What says where to listen; see [`listen`](crate::listen()) for the forms.
pub trait ToAddress: sealed::Sealed {
    #[doc(hidden)]
    fn port(&self) -> Port;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for str {}
    impl Sealed for String {}
    impl Sealed for std::net::SocketAddr {}
    impl Sealed for (std::net::IpAddr, u16) {}
    impl Sealed for (&str, u16) {}
    impl Sealed for super::Port {}
    impl Sealed for super::Address {}
    impl<T: Sealed + ?Sized> Sealed for &T {}
}

impl ToAddress for str {
    fn port(&self) -> Port {
        Port::place(Place::Text(self.to_owned()))
    }
}

impl ToAddress for String {
    fn port(&self) -> Port {
        self.as_str().port()
    }
}

impl ToAddress for SocketAddr {
    fn port(&self) -> Port {
        Port::place(Place::Socket(*self))
    }
}

impl ToAddress for (IpAddr, u16) {
    fn port(&self) -> Port {
        Port::at(SocketAddr::from(*self))
    }
}

impl ToAddress for (&str, u16) {
    fn port(&self) -> Port {
        format!("{}:{}", self.0, self.1).port()
    }
}

impl ToAddress for Address {
    fn port(&self) -> Port {
        match self.socket() {
            Some(address) => Port::at(address),
            None => Port::at(self.to_string()),
        }
    }
}

impl ToAddress for Port {
    fn port(&self) -> Port {
        self.clone()
    }
}

impl<T: ToAddress + ?Sized> ToAddress for &T {
    fn port(&self) -> Port {
        (**self).port()
    }
}

/// A port of the cluster: its number among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PortId(pub(crate) usize);

/// What a worker asks the primary for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortRequest {
    pub(crate) key: PortKey,
    /// Whether HTTP is spoken there, and how, for the line that tells the user how to try it.
    pub(crate) http: Option<Scheme>,
    pub(crate) options: Options,
}

/// How a URL there begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// What tells ports apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct PortKey {
    pub(crate) endpoint: Endpoint,
    /// Tells apart the ports that the kernel chooses: the worker's n-th open listener on this address. All workers' n-th
    /// share one port. 0 for all others.
    pub(crate) ordinal: u32,
}

/// Where to listen, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// An absolute path.
    Unix(#[serde(with = "super::address::path")] PathBuf),
    Abstract(Vec<u8>),
    /// A socket that the primary was started with.
    Inherited {
        by: Inherited,
        transport: Transport,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Transport {
    Stream,
    Datagram,
}

/// How an inherited socket is told from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Inherited {
    /// By systemd's name for it.
    Named(String),
    Numbered(i32),
}

/// Why a worker does not get a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    errno: i32,
    text: String,
}

/// A path so long fits into a packet of the control lane beside all else.
const LONGEST_PATH: usize = 2048;
/// So does a text.
const LONGEST_TEXT: usize = 1000;

impl Place {
    /// The endpoints that this names, at least one.
    pub(crate) async fn resolve(&self, transport: Transport) -> io::Result<Vec<Endpoint>> {
        let socket = |address| match transport {
            Transport::Stream => Endpoint::Tcp(address),
            Transport::Datagram => Endpoint::Udp(address),
        };
        let text = match self {
            Self::Socket(address) => return Ok(vec![socket(*address)]),
            Self::Text(text) => text.as_str(),
        };
        if let Some(name) = text.strip_prefix("systemd:") {
            let by = Inherited::Named(name.chars().take(255).collect());
            return Ok(vec![Endpoint::Inherited { by, transport }]);
        }
        if let Some(number) = text.strip_prefix("fd:") {
            let by = number.parse().map_err(|_| self.invalid("what follows fd: is no number"))?;
            return Ok(vec![Endpoint::Inherited { by: Inherited::Numbered(by), transport }]);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return self.unix(path, transport).map(|endpoint| vec![endpoint]);
        }
        let found: Vec<_> = match tokio::net::lookup_host(text).await {
            Ok(found) => found.map(socket).collect(),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(self.invalid(&error.to_string())),
            Err(error) => return Err(io::Error::new(error.kind(), format!("cannot listen on {text:?}: {error}"))),
        };
        if found.is_empty() { Err(self.invalid("it names no address")) } else { Ok(found) }
    }

    fn unix(&self, path: &str, transport: Transport) -> io::Result<Endpoint> {
        if transport == Transport::Datagram {
            return Err(self.invalid("datagrams over Unix sockets are not supported"));
        }
        match path.strip_prefix('@') {
            Some(name) => Ok(Endpoint::Abstract(name.as_bytes().to_owned())),
            None if path.is_empty() => Err(self.invalid("the path is missing")),
            None if path.len() > LONGEST_PATH => Err(self.invalid("the path is too long")),
            // The primary may stand in another directory.
            None => std::path::absolute(path).map(Endpoint::Unix),
        }
    }

    fn invalid(&self, why: &str) -> io::Error {
        let place = match self {
            Self::Socket(address) => address.to_string(),
            Self::Text(text) => text.clone(),
        };
        let text = format!(
            "cannot listen on {place:?}: {why}; write host:port, such as \"0.0.0.0:3000\" or \"[::1]:3000\", or unix:/path, \
             systemd:name, fd:3"
        );
        io::Error::new(io::ErrorKind::InvalidInput, text)
    }
}

impl Endpoint {
    /// Whether the kernel chooses the port number, so that a worker may ask for several.
    pub(crate) fn is_any_port(&self) -> bool {
        matches!(self, Self::Tcp(address) | Self::Udp(address) if address.port() == 0)
    }

    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Udp(_) => Transport::Datagram,
            Self::Inherited { transport, .. } => *transport,
            Self::Tcp(_) | Self::Unix(_) | Self::Abstract(_) => Transport::Stream,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.fmt(f),
            Self::Unix(path) => Address::Unix(path.clone()).fmt(f),
            Self::Abstract(name) => Address::Abstract(name.clone()).fmt(f),
            Self::Inherited { by: Inherited::Named(name), .. } => write!(f, "systemd:{name}"),
            Self::Inherited { by: Inherited::Numbered(number), .. } => write!(f, "fd:{number}"),
        }
    }
}

impl Refusal {
    pub(crate) fn of(error: &io::Error) -> Self {
        let by_kind = match error.kind() {
            io::ErrorKind::AddrInUse => Errno::EADDRINUSE,
            io::ErrorKind::InvalidInput => Errno::EINVAL,
            io::ErrorKind::PermissionDenied => Errno::EACCES,
            io::ErrorKind::NotFound => Errno::ENOENT,
            io::ErrorKind::TimedOut => Errno::ETIMEDOUT,
            _ => Errno::EIO,
        };
        let errno = error.raw_os_error().unwrap_or(by_kind as i32);
        Self { errno, text: error.to_string().chars().take(LONGEST_TEXT / 4).collect() }
    }

    pub(crate) fn into_io(self) -> io::Error {
        let kind = io::Error::from_raw_os_error(self.errno).kind();
        io::Error::new(kind, self.text)
    }
}
