//! The worker's listening sockets: [`listen`], what it gives, and how it ends.
//!
//! The socket comes from the primary (`registry`), which owns it. A connection is accepted, placed (`place`), and kept or handed
//! over to a sibling (`exchange`, `mailbox`); what comes in for this worker, by whichever way, comes through its `reception`.

mod address;
pub(crate) mod condition;
pub(crate) mod exchange;
pub(crate) mod handed;
mod head;
pub(crate) mod inherited;
pub(crate) mod mailbox;
pub(crate) mod place;
mod port;
pub(crate) mod privilege;
pub(crate) mod reception;
pub(crate) mod registry;
pub(crate) mod steer;
mod stream;
mod udp;
mod unix;

use std::future::pending;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use address::Address;
pub use place::{Dispatch, Load, Loads, Placement, Readiness, Sticky};
pub(crate) use port::{Endpoint, Inherited, Options, PortId, PortKey, PortRequest, Refusal, Scheme, Transport};
pub use port::{Port, ToAddress};
pub use stream::Stream;
pub(crate) use stream::{Counted, Tally};
pub use udp::{UdpSocket, udp};

use crate::control::{FromWorker, Granted};
use crate::os;
use crate::worker::{Claim, Phase, Process};
use mailbox::Connection;
use reception::{Arrival, Desk};

/// Listens on an address together with all other workers.
///
/// `address` says where:
///
/// | | |
/// | --- | --- |
/// | `"0.0.0.0:3000"`, `"[::1]:3000"`, `"localhost:3000"` | TCP; also a [`SocketAddr`](std::net::SocketAddr), or an address and a port |
/// | `"unix:/run/app.sock"`, `"unix:app.sock"` | a Unix socket with a file, which is removed when the cluster ends |
/// | `"unix:@name"` | a Unix socket with an abstract name |
/// | `"systemd:http"` | the socket that the service manager has passed under this name |
/// | `"fd:3"` | the listening socket that the primary was started with under this number |
/// | a [`Port`] | one of these, with settings |
///
/// With port 0 the kernel chooses one, the same for all workers (and each worker's second listener on port 0 shares a second
/// port). The first listener makes the worker [ready](crate::CurrentWorker::ready).
///
/// The socket belongs to the primary. Connections that wait in it survive the death of the worker: others serve them, or its
/// replacement. Dropping the `Listener` leaves the port bound; to listen on the address again gives the same socket back.
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
/// worker listens on it already, `PermissionDenied` for a low port, `NotFound` for an inherited socket that is not there; a retry may
/// work. `InvalidInput` for an address that cannot be read. `NotConnected` once the worker drains or its primary is gone.
///
/// # Panics
/// Outside a worker.
///
/// # Cancel safety
/// Dropping the future leaves nothing open in this worker.
pub async fn listen(address: impl ToAddress) -> io::Result<Listener> {
    Listener::open(address.port().expect_plain()?, None).await
}

/// One worker's share of a port; made by [`listen`].
///
/// With the feature `axum` it is an `axum::serve::Listener`, so that `axum::serve(listener, app)` works as usual.
/// [`serve`](crate::serve()) is the shorter way, with a drain that ends.
#[derive(Debug)]
pub struct Listener {
    /// The shard; none where the primary accepts for all.
    socket: Option<AsyncFd<OwnedFd>>,
    address: Address,
    desk: Arc<Desk>,
    max_connections: usize,
    process: Arc<Process>,
    /// The worker cannot ask for the same port again while this lives.
    #[cfg_attr(not(all(feature = "axum", feature = "rustls")), expect(dead_code, reason = "it is held"))]
    claim: Claim,
    /// Held until the queue needs no more looking after.
    accepting: Mutex<Option<Counted>>,
    newcomers_refused: Once,
    /// Whether a lack of descriptors or memory was told, and still lasts.
    is_short: AtomicBool,
}

impl Listener {
    pub(crate) async fn open(port: Port, http: Option<Scheme>) -> io::Result<Self> {
        let process = Process::current();
        let mut options = port.options;
        options.nodelay = options.nodelay.or(http.map(|_| true));
        let mut failure = None;
        for endpoint in port.place.resolve(Transport::Stream).await? {
            let (claim, granted) = match process.obtain_port(endpoint, http, options.clone()).await {
                Ok(obtained) => obtained,
                Err(error) => {
                    let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                    failure = Some(error);
                    // A name of several addresses must not be shared with somebody else by halves.
                    if is_taken { break } else { continue }
                }
            };
            let (fd, Granted { port: id, address, .. }) = granted;
            let listener = Self {
                socket: fd.map(take_over).transpose()?,
                address,
                desk: process.reception().open_desk(id),
                max_connections: port.max_connections.unwrap_or(usize::MAX),
                process: Arc::clone(process),
                claim,
                accepting: Mutex::new(Some(Tally::count(process.listeners()))),
                newcomers_refused: Once::new(),
                is_short: AtomicBool::new(false),
            };
            process.ready();
            return Ok(listener);
        }
        Err(failure.unwrap_or_else(too_late))
    }

    /// The real address, the port number that the kernel chose included.
    ///
    /// # Errors
    /// None today; the signature is that of other listeners.
    pub fn local_addr(&self) -> io::Result<Address> {
        Ok(self.address.clone())
    }

    /// The port's name for all workers, the same in each, also after a reload.
    #[cfg(all(feature = "axum", feature = "rustls"))]
    pub(crate) fn name(&self) -> String {
        self.claim.name()
    }

    /// The next connection and the address of its client.
    ///
    /// Errors that concern one connection only are passed over, and a lack of descriptors or memory is waited out (and logged
    /// once; other workers are given what comes meanwhile), so this does not fail while the worker runs.
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
            let arrival = match last {
                None => tokio::select! {
                    biased;
                    _ = phase.changed() => continue,
                    arrival = self.next() => arrival,
                },
                Some(last) => match self.next_of_the_last(last).await {
                    Some(arrival) => arrival,
                    None => {
                        drop(self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take());
                        return Err(too_late());
                    }
                },
            };
            let Arrival { connection: Connection { fd, client }, held } = arrival;
            match Stream::new(fd, &client, held) {
                Ok(stream) => return Ok((stream, client)),
                Err(error) => tracing::error!(%client, %error, "lost a connection: the runtime does not take it"),
            }
        }
    }

    async fn next(&self) -> Arrival {
        let mut paused = None;
        loop {
            if self.desk.served() < self.max_connections
                && let Some(arrival) = self.desk.pop()
            {
                return arrival;
            }
            // What has come in already counts too: it is to be served here, unless somebody else can.
            let has_room = self.desk.open() < self.max_connections;
            if has_room {
                paused = None;
            } else {
                paused.get_or_insert_with(|| self.process.reception().pause(&self.desk));
                self.process.reception().pass_on(&self.desk);
            }
            tokio::select! {
                biased;
                () = self.desk.arrived() => {}
                () = self.desk.closed(), if !has_room => {}
                // Others may have room again before this worker has.
                () = tokio::time::sleep(ACCEPT_PAUSE), if !has_room && self.desk.has_waiting() => {}
                () = self.receive(), if self.desk.may_look() => {}
                accepted = self.accept_one(), if has_room && self.desk.may_look() => if let Some(arrival) = accepted {
                    return arrival;
                },
            }
        }
    }

    /// Takes in what was handed over, if there is room.
    async fn receive(&self) {
        match self.process.reception().receive().await {
            Ok(()) => self.is_short.store(false, Ordering::Relaxed),
            Err(error) => self.wait_out(&error).await,
        }
    }

    /// The next connection from this worker's own shard, unless it was handed over.
    async fn accept_one(&self) -> Option<Arrival> {
        let Some(socket) = &self.socket else { return pending().await };
        let reception = self.process.reception();
        match socket.async_io(Interest::READABLE, |socket| reception.accept(&self.desk, socket)).await {
            Ok(accepted) => {
                if reception.has_room_for_a_letter() {
                    self.is_short.store(false, Ordering::Relaxed);
                }
                accepted
            }
            Err(error) => {
                self.wait_out(&error).await;
                None
            }
        }
    }

    /// Pauses after an error that is not about one connection, such as "too many open files". Others get what comes meanwhile.
    async fn wait_out(&self, error: &io::Error) {
        if !self.is_short.swap(true, Ordering::Relaxed) {
            tracing::warn!(address = %self.address, %error, "cannot accept; trying again until it works");
        }
        let _paused = self.process.reception().pause(&self.desk);
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    /// What is still to be served when the worker drains: what has come in, and if nobody takes the queue over, what waits in it.
    /// `None` once there is nothing, for good.
    async fn next_of_the_last(&self, last: bool) -> Option<Arrival> {
        loop {
            if let Some(arrival) = self.desk.pop() {
                return Some(arrival);
            }
            if self.desk.is_expecting() {
                self.desk.arrived().await;
            } else if last {
                break;
            } else {
                return None;
            }
        }
        let Some(socket) = &self.socket else { return self.next_until_closed().await };
        self.newcomers_refused.call_once(|| drop_syn(socket.get_ref().as_fd()));
        let accepted = self.accept_last(socket).await;
        if accepted.is_none() {
            self.process.tell(FromWorker::Drained(self.desk.port())).await;
        }
        accepted
    }

    /// What the primary, which accepts for all, still hands over; `None` once it has said that no more comes.
    async fn next_until_closed(&self) -> Option<Arrival> {
        let reception = self.process.reception();
        let mut closed = self.process.closed();
        let mut rounds = 0;
        loop {
            if let Some(arrival) = self.desk.pop() {
                return Some(arrival);
            }
            let is_closed = closed.borrow_and_update().has(self.desk.port());
            let is_settled = reception.is_settled() || rounds >= PROMISES;
            tokio::select! {
                biased;
                () = self.desk.arrived() => {}
                received = reception.receive() => if received.is_err() {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                },
                _ = closed.changed(), if !is_closed => {}
                // What was promised to us is on its way, unless its sender has died.
                () = tokio::time::sleep(HANDSHAKE), if is_closed && !is_settled => rounds += 1,
                () = std::future::ready(()), if is_closed && is_settled => return None,
            }
        }
    }

    /// What is queued when nobody takes the queue over; `None` once it is empty for good.
    async fn accept_last(&self, socket: &AsyncFd<OwnedFd>) -> Option<Arrival> {
        let reception = self.process.reception();
        let mut is_over = false;
        let mut rounds = 0;
        loop {
            if let Some(arrival) = self.desk.pop() {
                return Some(arrival);
            }
            let accept = |socket: &OwnedFd| reception.accept_to_keep(&self.desk, socket).map(Some);
            let next = async {
                tokio::select! {
                    biased;
                    accepted = socket.async_io(Interest::READABLE, accept), if !is_over => Some(accepted),
                    () = self.desk.arrived() => None,
                    received = reception.receive() => match received {
                        Ok(()) => None,
                        Err(error) => Some(Err(error)),
                    },
                }
            };
            match tokio::time::timeout(HANDSHAKE, next).await {
                Ok(None) => {}
                Ok(Some(Ok(Some(arrival)))) => return Some(arrival),
                Ok(Some(Ok(None))) => {}
                Ok(Some(Err(error))) if is_about_one_connection(&error) => {}
                // It listens no more: another process has shut it down.
                Ok(Some(Err(error))) if error.kind() == io::ErrorKind::InvalidInput => is_over = true,
                // That there is no room for another one now does not mean that none waits.
                Ok(Some(Err(_))) => tokio::time::sleep(ACCEPT_PAUSE).await,
                // What was promised to us is on its way, unless its sender has died.
                Err(_quiet) if !reception.is_settled() && rounds < PROMISES => rounds += 1,
                Err(_quiet) => return None,
            }
        }
    }
}

/// Puts a shard in order that other workers have had before, or share, and registers it.
fn take_over(shard: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    os::set_nonblocking(shard.as_fd())?;
    detach_filter(shard.as_fd());
    os::register(shard, Interest::READABLE)
}

/// Takes a filter off; most sockets have none.
pub(crate) fn detach_filter(socket: BorrowedFd<'_>) {
    _ = SockRef::from(&socket).detach_filter();
}

/// Lets the kernel drop every packet that would open a new connection, so that none slips in between the last look into the queue and
/// the close, only to be reset. Its sender tries again within a second. Connections that there are go on.
pub(crate) fn drop_syn(socket: BorrowedFd<'_>) {
    // Classic BPF over the TCP header: of the flags (byte 13), SYN without ACK is dropped and all else passes.
    let drop_pure_syn = [
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x54, 0, 0, 0x12),
        SockFilter::new(0x15, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    // Where it is forbidden, a newcomer of the last instant is reset, as it is with every other server.
    _ = SockRef::from(&socket).attach_filter(&drop_pure_syn);
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.process.reception().close_desk(&self.desk);
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
            Err(_draining) => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Self::local_addr(self)
    }
}

#[cfg(feature = "axum")]
impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Listener>> for Address {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// The client's address on any kind of port, as a handler's argument: under [`serve`](crate::serve()), and under `axum::serve` with
/// `into_make_service_with_connect_info::<Address>()`.
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// # fn app() -> Router {
/// Router::new().route("/", get(|client: cluster::Address| async move { format!("hello, {client}\n") }))
/// # }
/// ```
#[cfg(feature = "axum")]
impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Address {
    type Rejection = http::StatusCode;

    /// 500 where the server knows no address.
    async fn from_request_parts(parts: &mut http::request::Parts, _state: &S) -> Result<Self, Self::Rejection> {
        use axum::extract::ConnectInfo;
        let tcp = parts.extensions.get().map(|ConnectInfo(address)| Self::Tcp(*address));
        let any = || parts.extensions.get().map(|ConnectInfo(address): &ConnectInfo<Self>| address.clone());
        tcp.or_else(any).ok_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// How long the queue of a closing listener must be empty: time for a handshake under way to complete.
const HANDSHAKE: Duration = Duration::from_millis(100);
/// How often a listener that closes waits so long for what was promised to it.
const PROMISES: u32 = 10;
/// The pause after an accept error that is not about one connection, such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the worker drains, or its primary is gone: no more connections come")
}

/// Such an error is the client's: it was reset before we took it, or the network failed it.
pub(crate) fn is_about_one_connection(error: &io::Error) -> bool {
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
