//! HTTP for any tower service: hyper's connections under our listener, with a drain that loses nothing and ends.

mod activity;
mod answer;
mod carried;
mod clock;
mod closed;
mod connection;
mod executor;
mod frames;
mod framing;
mod gate;
#[cfg(feature = "rustls")]
mod secure;
mod settings;
mod socket;
mod streams;
mod wire;

use std::error::Error as StdError;
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tower_service::Service;

use self::connection::Client;
use self::settings::{Config, Limits};
use self::socket::Socket;
use crate::Result;
use crate::listen::{Address, Listener, Port, Scheme, Stream, ToAddress};
use crate::worker::{Process, cut};

/// Serves an HTTP application on an address that all workers share: [`listen`](crate::listen()) and an [`Http`] with its
/// defaults.
///
/// `app` is any tower service, such as an axum `Router` (as it is: without `into_make_service…`); HTTP/1 and HTTP/2 are spoken as
/// the client wishes. Handlers get the client's address as [`Address`](crate::Address), and on TCP as `ConnectInfo<SocketAddr>`, on a
/// Unix socket as `ConnectInfo<Address>`. Returns once the worker has drained.
///
/// ```no_run
/// use axum::{Router, extract::ConnectInfo, routing::get};
/// use std::net::SocketAddr;
///
/// #[cluster::main(workers = "auto")]
/// async fn main() -> cluster::Result {
///     let app = Router::new().route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { format!("{peer}\n") }));
///     cluster::serve("127.0.0.1:3000", app).await
/// }
/// ```
///
/// # Errors
/// Those of [`listen`](crate::listen()). On a port with TLS (`Port::tls`) also what is wrong with its certificate, with the file and the
/// remedy.
///
/// # Panics
/// Outside a worker.
///
/// # Cancel safety
/// Dropping the future closes every connection at once.
pub async fn serve<S, B>(address: impl ToAddress, app: S) -> Result
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    Http::new().serve(address, app).await
}

pub use self::closed::HttpClosed;
pub use self::settings::Protocols;

type BoxError = Box<dyn StdError + Send + Sync>;

/// How HTTP is served; [`serve`] with settings.
///
/// ```no_run
/// # async fn f(app: axum::Router) -> cluster::Result {
/// use std::time::Duration;
/// cluster::Http::new().header_timeout(Duration::from_secs(5)).serve("127.0.0.1:3000", app).await
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "an Http does nothing until it serves"]
pub struct Http {
    limits: Limits,
    /// What comes of the settings, once it serves.
    config: OnceLock<Arc<Config>>,
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// The defaults; each setting says what its is.
    pub const fn new() -> Self {
        Self { limits: Limits::new(), config: OnceLock::new() }
    }

    /// A setting has changed.
    fn renewed(mut self) -> Self {
        self.config = OnceLock::new();
        self
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(self.config.get_or_init(|| Arc::new(Config::new(self.limits))))
    }

    /// Serves `app` on `address` until the worker has drained; see [`serve`].
    ///
    /// When the worker drains, requests that run are finished, HTTP/1 connections closed with their next response
    /// (`Connection: close`) or after half a second of idling, HTTP/2 connections told to go away; with a
    /// [`drain_spread`](crate::Config::drain_spread) each connection at a moment of its own, and served as ever until then. What is still open shortly
    /// before the grace period ends is cut: half-sent requests, endless streams, WebSockets whose handlers ignore
    /// [`shutdown`](crate::CurrentWorker::shutdown).
    ///
    /// # Errors
    /// Those of [`serve`].
    ///
    /// # Panics
    /// Outside a worker.
    ///
    /// # Cancel safety
    /// Dropping the future closes every connection at once, but for those whose protocol was upgraded.
    pub async fn serve<S, B>(self, address: impl ToAddress, app: S) -> Result
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let process = Process::current();
        process.expect_main_to_end();
        let served = self.serve_port(address.port(), app).await;
        // Told to go before it came to listening: there is nothing to serve and nothing wrong.
        served.or_else(|error| if process.is_draining() { Ok(()) } else { Err(error.into()) })
    }

    async fn serve_port<S, B>(self, port: Port, app: S) -> io::Result<()>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let config = self.config();
        #[cfg(feature = "rustls")]
        if let Some(tls) = &port.tls {
            // Before the port is opened, which makes the worker ready.
            let tls = tls.prepare(secure::alpn(self.limits.protocols)).await?;
            let listener = Listener::open(port, Some(Scheme::Https)).await?;
            let tls = tls.acceptor(&listener.name());
            let serve = |stream, peer| secure::serve(tls.clone(), Arc::clone(&config), stream, peer, app.clone());
            serve_all(listener, serve).await;
            return Ok(());
        }
        let listener = Listener::open(port, Some(Scheme::Http)).await?;
        let serve = |stream: Stream, peer| {
            let client = Client { peer, socket: Socket::of(&stream) };
            connection::serve(Arc::clone(&config), stream, client, app.clone())
        };
        serve_all(listener, serve).await;
        Ok(())
    }

    /// Serves `app` on one connection that came by another way than [`serve`](Self::serve): as an [`Fd`](crate::Fd) in a message, or
    /// from elsewhere. `stream` is a `tokio::net::TcpStream`, a `UnixStream`, a [`Stream`](crate::Stream), a TLS stream, one end of a
    /// `tokio::io::duplex`: whatever reads and writes.
    ///
    /// All of this `Http`'s settings hold. When the worker drains, the connection ends as those that `serve` serves do: what runs is
    /// finished, and what is still open shortly before the grace period ends is cut, upgraded connections excepted. Completes when the
    /// connection is closed, or was upgraded.
    ///
    /// Handlers get the client's address from the socket, if `stream` is one of tokio's. Else it is
    /// [`Address::Unnamed`](crate::Address::Unnamed), and [`serve_connection_from`](Self::serve_connection_from) is told.
    ///
    /// ```no_run
    /// use cluster::{Fd, Http};
    ///
    /// #[derive(cluster::Message)]
    /// struct Visit(Fd<std::net::TcpStream>);
    ///
    /// # async fn f(worker: cluster::Worker<cluster::NoMessages, Visit>, app: axum::Router) -> cluster::Result {
    /// let http = Http::new();
    /// while let Some(Visit(connection)) = worker.recv().await {
    ///     let connection = connection.into_inner()?;
    ///     connection.set_nonblocking(true)?;
    ///     let stream = tokio::net::TcpStream::from_std(connection)?;
    ///     tokio::spawn(http.serve_connection(stream, app.clone()));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// A worker whose `main` goes on for ever, or which is in [`serve`], waits for the connection when it drains. Else `main` must: what it does
    /// not wait for is cut when it returns.
    ///
    /// # Panics
    /// Outside a worker.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection at once, unless it was upgraded.
    pub fn serve_connection<IO, S, B>(&self, stream: IO, app: S) -> impl Future<Output = ()> + Send + use<IO, S, B>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let peer = carried::peer_of(&stream);
        self.serve_connection_from(stream, peer, app)
    }

    /// [`serve_connection`](Self::serve_connection) of a client whose address the stream does not tell, as behind TLS.
    ///
    /// # Panics
    /// Outside a worker.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection at once, unless it was upgraded.
    pub fn serve_connection_from<IO, S, B>(
        &self,
        stream: IO,
        client: Address,
        app: S,
    ) -> impl Future<Output = ()> + Send + use<IO, S, B>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let process = Process::current();
        let client = Client { peer: client, socket: Socket::of(&stream) };
        let stream = carried::Carried::new(stream, process.carried());
        let serving = connection::serve(self.config(), stream, client, app);
        async move {
            tokio::select! {
                () = serving => {}
                () = cut(process.phase()) => tracing::debug!("cut a connection at the end of the grace period"),
            }
        }
    }
}

/// Serves each connection by `serve`, until the worker has drained.
async fn serve_all<F>(listener: Listener, serve: impl Fn(Stream, Address) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let process = Process::current();
    let mut connections = JoinSet::new();
    let served = async {
        accept_all(&listener, serve, &mut connections).await;
        drop(listener);
        while connections.join_next().await.is_some() {}
        // Those whose protocol was upgraded live on outside of their tasks.
        process.streams().none_left().await;
        process.carried().none_left().await;
    };
    tokio::select! {
        () = served => {}
        () = cut(process.phase()) => tracing::warn!("cut what was still open at the end of the grace period"),
    }
}

/// Accepts until the worker drains.
async fn accept_all<F>(listener: &Listener, serve: impl Fn(Stream, Address) -> F, connections: &mut JoinSet<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    // Not begun anew whenever a connection ends: the last look into the queue has to be long enough.
    let mut accepting = pin!(listener.accept());
    loop {
        tokio::select! {
            accepted = accepting.as_mut() => match accepted {
                Ok((stream, peer)) => {
                    accepting.set(listener.accept());
                    connections.spawn(serve(stream, peer));
                }
                Err(_draining) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
