//! HTTP for any tower service: hyper's connections under our listener, with a drain that loses nothing and ends.

use std::error::Error as StdError;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::ConnectInfo;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_service::Service;

use crate::Result;
use crate::listen::{Address, Listener, Stream, ToAddress};
use crate::worker::{Phase, Process, draining};

/// Serves an HTTP application on an address that all workers share: [`listen`](crate::listen()) and an [`Http`] with its
/// defaults.
///
/// `app` is any tower service, such as an axum `Router`; HTTP/1 and HTTP/2 are spoken as the client wishes. Handlers get the
/// client's address as `ConnectInfo<SocketAddr>`. Returns once the worker has drained.
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
/// Those of [`listen`](crate::listen()).
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
    header_timeout: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// The defaults: a header timeout of 60 s.
    pub const fn new() -> Self {
        Self { header_timeout: Duration::from_secs(60) }
    }

    /// How long a connection may take to send the next request's head, the time that it idles between two requests included;
    /// then it is closed. A load balancer in front should let go of idle connections sooner than this.
    pub const fn header_timeout(mut self, header_timeout: Duration) -> Self {
        self.header_timeout = header_timeout;
        self
    }

    /// Serves `app` on `address` until the worker has drained; see [`serve`].
    ///
    /// When the worker drains, requests that run are finished, HTTP/1 connections closed with their next response
    /// (`Connection: close`) or after half a second of idling, HTTP/2 connections told to go away. What is still open shortly
    /// before the grace period ends is cut: half-sent requests, endless streams, WebSockets whose handlers ignore
    /// [`shutdown`](crate::CurrentWorker::shutdown).
    ///
    /// # Errors
    /// Those of [`listen`](crate::listen()).
    ///
    /// # Panics
    /// Outside a worker.
    ///
    /// # Cancel safety
    /// Dropping the future closes every connection at once.
    pub async fn serve<S, B>(self, address: impl ToAddress, app: S) -> Result
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let process = Process::current();
        process.expect_main_to_end();
        let listener = match Listener::open(&address.place(), true).await {
            Ok(listener) => listener,
            // Told to go before it came to listening: there is nothing to serve and nothing wrong.
            Err(_) if *process.phase().borrow() != Phase::Running => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut connections = self.accept_all(&listener, app).await;
        drop(listener);
        // Those whose protocol was upgraded live on outside of their tasks.
        let closed = async {
            while connections.join_next().await.is_some() {}
            process.streams().none_left().await;
        };
        tokio::select! {
            () = closed => {}
            () = cut(process.phase()) => tracing::warn!("cut what was still open at the end of the grace period"),
        }
        Ok(())
    }

    /// Accepts until the worker drains; returns the connections that are then open.
    async fn accept_all<S, B>(&self, listener: &Listener, app: S) -> JoinSet<()>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let builder = Arc::new(self.connection_builder());
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let service = Tracked::new(app.clone(), peer, listener.process().phase());
                        connections.spawn(connection(Arc::clone(&builder), self.header_timeout, stream, service));
                    }
                    Err(_draining) => return connections,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    fn connection_builder(&self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.header_timeout);
        builder.http2().timer(TokioTimer::new());
        builder
    }
}

/// How long an HTTP/1 connection that idles when the worker drains may still bring a request, which perhaps is on its way
/// already: it is answered and the connection closed with the answer, instead of being reset.
const IDLE_LINGER: Duration = Duration::from_millis(500);

/// One connection from its first byte to its last.
async fn connection<S, B>(
    builder: Arc<auto::Builder<TokioExecutor>>,
    header_timeout: Duration,
    stream: Stream,
    service: Tracked<S>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    if let Some(tcp) = stream.tcp() {
        // Small answers must not wait for the client's acknowledgement. A socket that refuses is already dead.
        _ = tcp.set_nodelay(true);
    }
    let (seen, phase) = (Arc::clone(&service.seen), service.phase.clone());
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let turn = async {
        tokio::select! {
            () = draining(phase) => if !seen.http2.load(Ordering::Relaxed) {
                tokio::time::sleep(IDLE_LINGER).await;
            },
            // hyper's own timeout begins only after it has seen the first bytes.
            () = silence(header_timeout, &seen) => {}
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = turn => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended early");
    }
}

/// Completes after `timeout` if no request was seen by then.
async fn silence(timeout: Duration, seen: &Seen) {
    tokio::time::sleep(timeout).await;
    if seen.request.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Completes when what is still open must be cut.
async fn cut(mut phase: watch::Receiver<Phase>) {
    loop {
        let Phase::Draining { cut, .. } = *phase.borrow_and_update() else { return std::future::pending().await };
        tokio::select! {
            () = tokio::time::sleep_until(cut) => return,
            // A second order may shorten the time. The sender lives as long as the process.
            _ = phase.changed() => {}
        }
    }
}

/// What a connection has carried so far.
#[derive(Default)]
struct Seen {
    request: AtomicBool,
    http2: AtomicBool,
}

/// The user's service on one connection: it learns the client's address, and closes the connection with the answer once the
/// worker drains.
struct Tracked<S> {
    app: TowerToHyperService<S>,
    peer: Option<SocketAddr>,
    phase: watch::Receiver<Phase>,
    seen: Arc<Seen>,
}

impl<S> Tracked<S> {
    fn new(app: S, peer: Address, phase: watch::Receiver<Phase>) -> Self {
        Self { app: TowerToHyperService::new(app), peer: peer.socket(), phase, seen: Arc::default() }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Tracked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Answer<<TowerToHyperService<S> as hyper::service::Service<Request<Incoming>>>::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let http2 = request.version() == Version::HTTP_2;
        self.seen.request.store(true, Ordering::Relaxed);
        self.seen.http2.store(http2, Ordering::Relaxed);
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        // HTTP/2 has its GOAWAY for this.
        let phase = (!http2).then(|| self.phase.clone());
        Answer { answer: self.app.call(request), phase }
    }
}

pin_project_lite::pin_project! {
    /// The app's answer, marked as the last of its connection if the worker drains by then.
    struct Answer<F> {
        #[pin]
        answer: F,
        phase: Option<watch::Receiver<Phase>>,
    }
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(cx));
        if let (Ok(response), Some(phase)) = (&mut answer, this.phase)
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
            && *phase.borrow() != Phase::Running
        {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(answer)
    }
}
