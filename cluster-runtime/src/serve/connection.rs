//! One HTTP connection from its first byte to its last: when it has idled too long, and how it ends when the worker drains.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::ConnectInfo;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use nix::time::{ClockId, clock_gettime};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};
use tower_service::Service;

use super::BoxError;
use super::gate::Gated;
use crate::listen::Address;
use crate::worker::{Process, Share, turn_of};

/// How long an HTTP/1 connection that idles when its turn to end has come may still bring a request, which perhaps is on its way
/// already: it is answered and the connection closed with the answer, instead of being reset.
const IDLE_LINGER: Duration = Duration::from_millis(500);

/// Serves one connection until it is closed.
pub(super) async fn serve<IO, S, B>(
    builder: Arc<auto::Builder<TokioExecutor>>,
    header_timeout: Duration,
    io: IO,
    peer: Address,
    app: S,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let activity = Arc::new(Activity::new());
    let service = Watched { app: TowerToHyperService::new(app), peer, activity: Arc::clone(&activity) };
    let wire = TokioIo::new(Wire { io, activity: Arc::clone(&activity) });
    let mut turn = pin!(Gated::new(turn(&activity, header_timeout)));
    let mut connection = pin!(builder.serve_connection_with_upgrades(wire, service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Ok(ended),
        turn = turn.as_mut() => Err(turn),
    };
    let ended = match ended {
        Ok(ended) => ended,
        Err(turn) => {
            connection.as_mut().graceful_shutdown();
            match turn {
                Turn::Drain => connection.await,
                // A half-sent request would be waited for; it is closed with the connection.
                Turn::Idle => timeout(IDLE_LINGER, connection).await.unwrap_or(Ok(())),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended early");
    }
}

/// Why the server ends a connection.
enum Turn {
    Drain,
    Idle,
}

async fn turn(activity: &Activity, header_timeout: Duration) -> Turn {
    tokio::select! {
        () = turn_of(activity.share, Process::current().phase()) => {
            // HTTP/2 has its GOAWAY: nothing that is on its way is lost by saying it at once.
            if !activity.http2.load(Ordering::Relaxed) {
                sleep(IDLE_LINGER).await;
            }
            Turn::Drain
        }
        () = activity.idle_for(header_timeout) => Turn::Idle,
    }
}

/// What a connection does.
///
/// hyper has a timeout for request heads, but it makes a timer for each request, does not begin before the first byte, and does
/// not know of a client that is slow to read. This is one timer for the life of the connection, which looks again when it goes
/// off.
struct Activity {
    opened: Duration,
    /// Held by each request that the app has not answered to the end. The last of the answer may still be on its way to the client.
    busy: Arc<Busy>,
    /// When something was last written, in milliseconds since then.
    written: AtomicU64,
    http2: AtomicBool,
    /// When it comes to its end, once the worker drains.
    share: Share,
}

impl Activity {
    fn new() -> Self {
        Self {
            opened: coarse_now(),
            busy: Arc::new(Busy),
            written: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            share: Process::current().draw_share(),
        }
    }

    /// Notes that something is written: a client that is slow to read what is answered does not idle.
    fn note_write(&self) {
        let since = coarse_now().saturating_sub(self.opened);
        self.written.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Completes once no request was under way and nothing written for `time`.
    async fn idle_for(&self, time: Duration) {
        let mut rest = time;
        while !rest.is_zero() {
            sleep(rest).await;
            let idle = if Arc::strong_count(&self.busy) > 1 {
                Duration::ZERO
            } else {
                let written = Duration::from_millis(self.written.load(Ordering::Relaxed));
                coarse_now().saturating_sub(self.opened + written)
            };
            // A timer may go off a little before the coarse clock has turned.
            rest = if idle + TICK >= time { Duration::ZERO } else { time - idle };
        }
    }
}

/// The longest that the coarse clock stands still.
const TICK: Duration = Duration::from_millis(10);

/// The time of a clock that costs next to nothing to read, and stands still for some milliseconds at a time.
fn coarse_now() -> Duration {
    // It fails for a clock that does not exist, which this one does.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}

/// One request under way, until it is dropped.
struct Busy;

/// The connection's bytes, whose writing is noted.
struct Wire<IO> {
    io: IO,
    activity: Arc<Activity>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Wire<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        self.activity.note_write();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        self.activity.note_write();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The user's service on one connection: it learns the client's address, and closes the connection with the answer once the
/// worker drains and the connection's turn has come.
struct Watched<S> {
    app: TowerToHyperService<S>,
    peer: Address,
    activity: Arc<Activity>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<Answer<B>>;
    type Error = S::Error;
    type Future = Answering<<TowerToHyperService<S> as hyper::service::Service<Request<Incoming>>>::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let process = Process::current();
        let http2 = request.version() == Version::HTTP_2;
        self.activity.http2.store(http2, Ordering::Relaxed);
        match self.peer.socket() {
            Some(peer) => request.extensions_mut().insert(ConnectInfo(peer)).map(drop),
            None => request.extensions_mut().insert(ConnectInfo(self.peer.clone())).map(drop),
        };
        process.reception().line().count_request();
        let Activity { busy, share, .. } = &*self.activity;
        Answering { busy: Some(Arc::clone(busy)), answering: self.app.call(request), http2, share: *share }
    }
}

pin_project! {
    /// The app at work on a request.
    struct Answering<F> {
        busy: Option<Arc<Busy>>,
        #[pin]
        answering: F,
        http2: bool,
        share: Share,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Answer<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.answering.poll(cx))?;
        // An upgrade has a `Connection` line of its own.
        let is_last = !*this.http2 && response.status() != StatusCode::SWITCHING_PROTOCOLS;
        if is_last && Process::current().is_turn_of(*this.share) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let busy = this.busy.take();
        Poll::Ready(Ok(response.map(|body| Answer { body, _busy: busy })))
    }
}

pin_project! {
    /// The body of an answer; the request is under way until it is dropped.
    struct Answer<B> {
        #[pin]
        body: B,
        _busy: Option<Arc<Busy>>,
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
