//! The server's side of the handshake: how long it may take, and what becomes of who does not come through.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::TlsClosed;
use super::crowd::Crowd;
use crate::worker::{Process, draining};

/// What shakes hands as a [`Tls`](crate::Tls) says; from [`Tls::acceptor`](crate::Tls::acceptor). Cheap to clone.
#[derive(Clone)]
pub struct TlsAcceptor {
    acceptor: tokio_rustls::TlsAcceptor,
    timeout: Option<Duration>,
    crowd: Arc<Crowd>,
}

/// How long a handshake that runs when the worker begins to drain may still take.
const DRAIN_LINGER: Duration = Duration::from_secs(2);

impl TlsAcceptor {
    pub(super) fn new(config: ServerConfig, timeout: Option<Duration>, at_once: usize) -> Self {
        Self { acceptor: Arc::new(config).into(), timeout, crowd: Arc::new(Crowd::new(at_once)) }
    }

    /// Shakes hands with the client on the other end of `stream`.
    ///
    /// To end the connection call `shutdown` on what is returned: it says goodbye in TLS (close_notify), so that the client knows that nothing
    /// was cut off. Dropped, it does not.
    ///
    /// # Errors
    /// When the client does not come through: what it sends is no TLS, the two cannot agree, it leaves, or it takes too long
    /// (`TimedOut`): longer than the [`handshake_timeout`](crate::Tls::handshake_timeout), or than two seconds from when the worker drains.
    /// [`TlsClosed`] counts them.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept<IO>(&self, stream: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut place = self.crowd.enter();
        tokio::select! {
            biased;
            shaken = self.acceptor.accept(stream) => shaken.inspect_err(|error| {
                if let Some(why) = TlsClosed::of(error) {
                    _ = why.close();
                }
            }),
            () = place.lost() => Err(TlsClosed::PushedOut.close()),
            () = self.patience() => Err(TlsClosed::HandshakeTimeout.close()),
        }
    }

    /// Completes when a handshake that begins now has taken too long.
    async fn patience(&self) {
        let limit = async {
            match self.timeout {
                Some(time) => sleep(time).await,
                None => pending().await,
            }
        };
        let drain = async {
            draining(Process::current().phase()).await;
            sleep(DRAIN_LINGER).await;
        };
        tokio::select! {
            () = limit => {}
            () = drain => {}
        }
    }
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
