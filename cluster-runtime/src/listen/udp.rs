//! UDP: a socket for each slot, kept by the primary.

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use super::port::{ToAddress, Transport};
use super::{Address, too_late};
use crate::os;
use crate::worker::{Claim, Process};

/// Binds a UDP address together with all other workers.
///
/// Each worker has a socket of its own on the address; the kernel gives every datagram to one of them, by a hash of the
/// client's and the server's address, so that a client stays with a worker as long as no slot is without one. (An inherited
/// socket is one for all: whoever is first reads the next datagram.) `address` is what
/// [`listen`](crate::listen()) takes, but for Unix sockets.
///
/// ```no_run
/// # async fn echo() -> std::io::Result<()> {
/// let socket = cluster::udp("127.0.0.1:5353").await?;
/// let mut datagram = [0; 1500];
/// loop {
///     tokio::select! {
///         () = cluster::worker().shutdown() => return Ok(()),
///         received = socket.recv_from(&mut datagram) => {
///             let (len, client) = received?;
///             socket.send_to(&datagram[..len], client).await?;
///         }
///     }
/// }
/// # }
/// ```
///
/// # What a restart means
///
/// The socket belongs to the primary: datagrams that wait in it when its worker dies are read by the replacement, which has no
/// memory of the clients. A protocol with connections (QUIC, DTLS) loses those of the worker that died, unless its clients
/// start anew, and a QUIC client whose address changes may reach another worker: spread QUIC by connection id in front of the
/// cluster, or use one worker. A worker that drains must stop reading at [`shutdown`](crate::CurrentWorker::shutdown), as its
/// successor reads from the same socket.
///
/// # Errors
/// Those of [`listen`](crate::listen()).
///
/// # Panics
/// Outside a worker.
///
/// # Cancel safety
/// Dropping the future leaves nothing open in this worker.
pub async fn udp(address: impl ToAddress) -> io::Result<UdpSocket> {
    let port = address.port().expect_plain()?;
    let process = Process::current();
    let mut failure = None;
    for endpoint in port.place.resolve(Transport::Datagram).await? {
        match process.obtain_port(endpoint, None, port.options.clone()).await {
            Ok((claim, (fd, granted))) => {
                // Only from connections the primary accepts for all.
                let fd = fd.ok_or_else(too_late)?;
                os::set_nonblocking(fd.as_fd())?;
                let socket = tokio::net::UdpSocket::from_std(fd.into())?;
                process.ready();
                return Ok(UdpSocket { socket: Arc::new(socket), address: granted.address, _claim: Arc::new(claim) });
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(too_late))
}

/// One worker's UDP socket; from [`udp()`]. It dereferences to tokio's, which has the methods.
#[derive(Clone, Debug)]
pub struct UdpSocket {
    socket: Arc<tokio::net::UdpSocket>,
    address: Address,
    _claim: Arc<Claim>,
}

impl UdpSocket {
    /// The real address, as [`Listener::local_addr`](crate::Listener::local_addr) gives it.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }
}

impl Deref for UdpSocket {
    type Target = tokio::net::UdpSocket;

    fn deref(&self) -> &Self::Target {
        &self.socket
    }
}
