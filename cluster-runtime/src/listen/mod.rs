//! The worker's listening sockets: [`listen`], what it gives, and how it ends.
//!
//! The socket comes from the primary (`registry`), which owns it; the worker accepts from it directly.

#[allow(dead_code)]
pub(crate) mod head;
pub(crate) mod registry;
#[allow(dead_code)]
pub(crate) mod steer;
mod stream;
#[allow(dead_code)]
pub(crate) mod unix;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::net::TcpListener;

pub use stream::Stream;
pub(crate) use stream::{Counted, Tally};

use crate::control::{FromWorker, PortRequest};
use crate::worker::{Phase, Process};

/// Listens on an address together with all other workers.
///
/// `address` says where: `"0.0.0.0:3000"`, `"[::1]:3000"`, `"localhost:3000"`, a [`SocketAddr`], or an address and a port.
/// With port 0 the kernel chooses one, the same for all workers (and each worker's second listener on port 0 shares a second
/// port). The first listener makes the worker [ready](crate::CurrentWorker::ready).
///
/// The socket belongs to the primary. Connections that wait in it survive the death of the worker: its replacement serves
/// them. Dropping the `Listener` leaves the port bound; to listen on the address again gives the same socket back.
///
/// ```no_run
/// # async fn echo() -> std::io::Result<()> {
/// let listener = cluster::listen("127.0.0.1:3000").await?;
/// while let Ok((mut stream, peer)) = listener.accept().await {
///     println!("worker {} serves {peer}", cluster::worker().id());
///     tokio::spawn(async move {
///         let (mut from, mut to) = tokio::io::split(&mut stream);
///         tokio::io::copy(&mut from, &mut to).await
///     });
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What the operating system says, with its kind: `AddrInUse` when somebody else has the port (another cluster too) or this
/// worker listens on it already, `PermissionDenied` for a low port; a retry may work. `InvalidInput` for an address that
/// cannot be read. `NotConnected` once the worker drains or its primary is gone.
///
/// # Panics
/// Outside a worker.
///
/// # Cancel safety
/// Dropping the future leaves nothing open in this worker.
pub async fn listen(address: impl ToAddress) -> io::Result<Listener> {
    Listener::open(&address.place(), false).await
}

/// What says where to listen; see [`listen`] for the forms.
pub trait ToAddress: sealed::Sealed {
    #[doc(hidden)]
    fn place(&self) -> Place;
}

mod sealed {
    use super::SocketAddr;

    /// Where to listen, as the user wrote it.
    #[derive(Debug)]
    pub enum Place {
        Socket(SocketAddr),
        Text(String),
    }

    pub trait Sealed {}
    impl Sealed for str {}
    impl Sealed for String {}
    impl Sealed for SocketAddr {}
    impl Sealed for (std::net::IpAddr, u16) {}
    impl Sealed for (&str, u16) {}
    impl<T: Sealed + ?Sized> Sealed for &T {}
}
pub(crate) use sealed::Place;

impl ToAddress for str {
    fn place(&self) -> Place {
        Place::Text(self.to_owned())
    }
}

impl ToAddress for String {
    fn place(&self) -> Place {
        Place::Text(self.clone())
    }
}

impl ToAddress for SocketAddr {
    fn place(&self) -> Place {
        Place::Socket(*self)
    }
}

impl ToAddress for (IpAddr, u16) {
    fn place(&self) -> Place {
        Place::Socket((*self).into())
    }
}

impl ToAddress for (&str, u16) {
    fn place(&self) -> Place {
        Place::Text(format!("{}:{}", self.0, self.1))
    }
}

impl<T: ToAddress + ?Sized> ToAddress for &T {
    fn place(&self) -> Place {
        (**self).place()
    }
}

/// An address of a listener or of its client.
///
/// Displays as the address itself, as in `127.0.0.1:3000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
}

impl Address {
    /// The internet address, where it is one.
    #[must_use]
    pub const fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
        }
    }

    /// The port number, where the address has one.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// One worker's share of a port; made by [`listen`].
///
/// With the feature `axum` it is an `axum::serve::Listener`, so that `axum::serve(listener, app)` works as usual.
/// [`serve`](crate::serve()) is the shorter way, with a drain that ends.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    /// What was asked for; the worker cannot ask for it again while this lives.
    request: PortRequest,
    process: Arc<Process>,
    /// Held until the queue needs no more looking after.
    accepting: Mutex<Option<Counted>>,
    newcomers_refused: Once,
}

impl Listener {
    pub(crate) async fn open(place: &Place, http: bool) -> io::Result<Self> {
        let process = Process::current();
        let mut failure = None;
        for address in resolve(place).await? {
            match Self::open_one(process, address, http).await {
                Ok(listener) => {
                    process.ready();
                    return Ok(listener);
                }
                Err(error) => {
                    let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                    failure = Some(ListenError { address, source: error });
                    // A name of several addresses must not be shared with somebody else by halves.
                    if is_taken {
                        break;
                    }
                }
            }
        }
        Err(failure.map_or_else(|| invalid(place, "names no address"), ListenError::into_io))
    }

    async fn open_one(process: &Arc<Process>, address: SocketAddr, http: bool) -> io::Result<Self> {
        let request = process.claim_port(address, http)?;
        let unclaim = Unclaim(process, request);
        let (fd, address) = process.request_port(request).await?;
        let socket = into_tokio(fd)?;
        std::mem::forget(unclaim);
        let accepting = Mutex::new(Some(Tally::count(process.listeners())));
        Ok(Self { socket, address, request, process: Arc::clone(process), accepting, newcomers_refused: Once::new() })
    }

    /// The real address, the port number that the kernel chose included.
    ///
    /// # Errors
    /// None today; the signature is that of other listeners.
    pub fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Tcp(self.address))
    }

    /// The next connection and the address of its client.
    ///
    /// Errors that concern one connection only are passed over, and a lack of descriptors or memory is waited out (and logged
    /// once), so this does not fail while the worker runs.
    ///
    /// # Errors
    /// `NotConnected` when the worker drains: no connection comes any more. When the whole cluster stops, the ones that wait
    /// in the queue are still handed out before.
    ///
    /// # Cancel safety
    /// Cancel safe: no connection is lost.
    pub async fn accept(&self) -> io::Result<(Stream, Address)> {
        let mut phase = self.process.phase();
        loop {
            let last = match *phase.borrow_and_update() {
                Phase::Running => None,
                Phase::Draining { last, .. } => Some(last),
            };
            match last {
                None => tokio::select! {
                    biased;
                    _ = phase.changed() => {}
                    accepted = self.accept_one() => return Ok(accepted),
                },
                Some(last) => {
                    if last && let Some(accepted) = self.accept_last().await {
                        return Ok(accepted);
                    }
                    drop(self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take());
                    return Err(draining());
                }
            }
        }
    }

    /// What is still queued when nobody takes the queue over; `None` once it is empty for good.
    async fn accept_last(&self) -> Option<(Stream, Address)> {
        self.refuse_newcomers();
        loop {
            match tokio::time::timeout(HANDSHAKE, self.socket.accept()).await {
                Ok(Ok((tcp, peer))) => return Some((Stream::new(tcp, self.process.streams()), Address::Tcp(peer))),
                Ok(Err(error)) if is_about_one_connection(&error) => {}
                // That there is no room for another one now does not mean that none waits.
                Ok(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
                Err(_quiet) => {
                    self.process.tell(FromWorker::Drained(self.address)).await;
                    return None;
                }
            }
        }
    }

    /// Lets the kernel drop every packet that would open a new connection, so that none slips in between our last look into the
    /// queue and the close, only to be reset. Its sender tries again within a second and is then refused.
    fn refuse_newcomers(&self) {
        self.newcomers_refused.call_once(|| self.drop_syn());
    }

    fn drop_syn(&self) {
        // Classic BPF over the TCP header: of the flags (byte 13), SYN without ACK is dropped and all else passes.
        let drop_pure_syn = [
            SockFilter::new(0x30, 0, 0, 13),
            SockFilter::new(0x54, 0, 0, 0x12),
            SockFilter::new(0x15, 0, 1, 0x02),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        // Where it is forbidden, a newcomer of the last instant is reset, as it is with every other server.
        _ = SockRef::from(&self.socket).attach_filter(&drop_pure_syn);
    }

    async fn accept_one(&self) -> (Stream, Address) {
        let mut told = false;
        loop {
            match self.socket.accept().await {
                Ok((tcp, peer)) => return (Stream::new(tcp, self.process.streams()), Address::Tcp(peer)),
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(address = %self.address, %error, "cannot accept; trying again until it works");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.process.unclaim_port(self.request);
    }
}

#[cfg(feature = "axum")]
impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = Address;

    /// Once the worker drains this waits for ever; give `axum::serve` the worker's shutdown with `with_graceful_shutdown`.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match Self::accept(self).await {
            Ok(accepted) => accepted,
            Err(_draining) => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Self::local_addr(self)
    }
}

#[cfg(feature = "axum")]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Listener>> for Address {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Listener>) -> Self {
        *stream.remote_addr()
    }
}

/// How long the queue of a closing listener must be empty: time for a handshake under way to complete.
const HANDSHAKE: Duration = Duration::from_millis(100);
/// The pause after an accept error that is not about one connection, such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Gives the claim on a port back if listening is cancelled or fails.
struct Unclaim<'a>(&'a Process, PortRequest);

impl Drop for Unclaim<'_> {
    fn drop(&mut self) {
        self.0.unclaim_port(self.1);
    }
}

/// Carries the address into the message and keeps the kernel's error as its source.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl ListenError {
    fn into_io(self) -> io::Error {
        io::Error::new(self.source.kind(), self)
    }
}

async fn resolve(place: &Place) -> io::Result<Vec<SocketAddr>> {
    match place {
        Place::Socket(address) => Ok(vec![*address]),
        Place::Text(text) => match tokio::net::lookup_host(text).await {
            Ok(found) => Ok(found.collect()),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(invalid(place, &error.to_string())),
            Err(error) => Err(io::Error::new(error.kind(), format!("cannot listen on {text:?}: {error}"))),
        },
    }
}

fn invalid(place: &Place, why: &str) -> io::Error {
    let text =
        format!("cannot listen on {place:?}: {why}; write host:port, such as \"0.0.0.0:3000\" or \"[::1]:3000\"");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn into_tokio(fd: OwnedFd) -> io::Result<TcpListener> {
    TcpListener::from_std(std::net::TcpListener::from(fd))
}

fn draining() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the worker drains: it takes no more connections")
}

/// Such an error is the client's: it was reset before we took it, or the network failed it.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
    )
}
