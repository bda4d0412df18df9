//! One HTTP connection from its first byte to its last: how it begins, and how it ends.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt;
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tower_service::Service;

use super::BoxError;
use super::activity::Activity;
use super::answer::Watched;
use super::closed::HttpClosed;
use super::executor::Spawner;
use super::gate::{Gate, Gated};
use super::settings::{Config, Protocols};
use super::socket::Socket;
use super::wire::Wire;
use crate::listen::Address;
use crate::worker::{Process, turn_of};

/// How long an HTTP/1 connection that idles when its turn to end has come may still bring a request, which perhaps is on its way
/// already: it is answered and the connection closed with the answer, instead of being reset.
const IDLE_LINGER: Duration = Duration::from_millis(500);

/// Whose connection it is.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) peer: Address,
    /// The socket under the stream, if it is known.
    pub(super) socket: Option<Socket>,
}

/// Serves one connection until it is closed, or has left HTTP.
pub(super) async fn serve<IO, S, B>(config: Arc<Config>, io: IO, client: Client, app: S)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let gate = Gate::new();
    let activity = Arc::new(Activity::new(config, Arc::clone(&gate), client.socket));
    let service = Watched::new(app, client.peer, Arc::clone(&activity));
    let mut wire = Wire::new(io, Arc::clone(&activity));
    let mut turn = pin!(Gated::new(&gate, turn(&activity)));
    let is_http2 = match activity.config.limits.protocols {
        Protocols::Http1 => false,
        Protocols::Http2 => true,
        Protocols::Both => {
            tokio::select! {
                biased;
                is_http2 = poll_fn(|context| wire.poll_is_http2(context)) => match is_http2 {
                    Ok(is_http2) => is_http2,
                    Err(error) => return tracing::debug!(%error, "connection ended early"),
                },
                turn = turn.as_mut() => {
                    return if let Turn::Overdue(why) = turn {
                        why.count();
                        activity.say_farewell(why);
                        wire.say_farewell().await;
                    };
                }
            }
        }
    };
    if is_http2 {
        activity.speak_http2();
        let http2 = activity.config.http2(Spawner(Arc::clone(&activity)));
        // It has a size that would be everybody's else.
        let mut connection = Box::pin(http2.serve_connection(TokioIo::new(wire), service));
        attend(connection.as_mut(), turn, &activity).await;
    } else {
        let connection = activity.config.http1.serve_connection(TokioIo::new(wire), service);
        attend(pin!(connection.with_upgrades()), turn, &activity).await;
    }
    activity.leave_http();
}

/// Why the server ends a connection.
enum Turn {
    Drain,
    Overdue(HttpClosed),
}

async fn turn(activity: &Activity) -> Turn {
    tokio::select! {
        () = turn_of(activity.share, Process::current().phase()) => {
            // HTTP/2 has its GOAWAY: nothing that is on its way is lost by saying it at once.
            if !activity.is_http2() {
                sleep(IDLE_LINGER).await;
            }
            Turn::Drain
        }
        why = activity.overdue() => Turn::Overdue(why),
    }
}

/// Either version's connection.
trait Connection: Future<Output = hyper::Result<()>> {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, S, B> Connection for http1::UpgradeableConnection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    S: HttpService<Incoming, ResBody = B, Error: Into<BoxError>>,
    I: rt::Read + rt::Write + Unpin,
    B: Body<Error: Into<BoxError>> + 'static,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

impl<I, S, B> Connection for http2::Connection<I, S, Spawner>
where
    Self: Future<Output = hyper::Result<()>>,
    S: HttpService<Incoming, ResBody = B, Error: Into<BoxError>>,
    I: rt::Read + rt::Write + Unpin,
    B: Body<Error: Into<BoxError>> + 'static,
    Spawner: rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        Self::graceful_shutdown(self);
    }
}

/// Until it ends: by itself, or because it must.
async fn attend<C: Connection>(
    mut connection: Pin<&mut C>,
    mut turn: Pin<&mut Gated<impl Future<Output = Turn>>>,
    activity: &Activity,
) {
    let turn = tokio::select! {
        biased;
        ended = connection.as_mut() => return note_end(ended, activity),
        turn = turn.as_mut() => turn,
    };
    match turn {
        Turn::Overdue(why) if why != HttpClosed::MaxRequests => return end(connection, why, activity).await,
        Turn::Overdue(why) => why.count(),
        Turn::Drain => {}
    }
    connection.as_mut().graceful_shutdown();
    // Those that are told to go are not spared anything. Seldom enough to be made anew.
    let overdue = Box::pin(activity.overdue_again());
    tokio::select! {
        biased;
        ended = connection.as_mut() => note_end(ended, activity),
        why = overdue => end(connection, why, activity).await,
    }
}

/// Ends a connection whose client owes something.
async fn end<C: Connection>(mut connection: Pin<&mut C>, why: HttpClosed, activity: &Activity) {
    why.count();
    tracing::debug!(?why, "connection ended");
    if why == HttpClosed::WriteTimeout {
        // Nothing that is still to be said would be taken.
        return activity.reset_on_close();
    }
    activity.say_farewell(why);
    connection.as_mut().graceful_shutdown();
    // A half-sent request would be waited for; it is closed with the connection.
    _ = timeout(IDLE_LINGER, connection).await;
}

/// It has ended by itself.
fn note_end(ended: hyper::Result<()>, activity: &Activity) {
    let Err(error) = ended else { return };
    tracing::debug!(%error, "connection ended early");
    if let Some(found) = activity.found() {
        found.count();
    } else if error.is_parse_too_large() {
        HttpClosed::HeadTooLarge.count();
    } else if error.is_parse() {
        HttpClosed::Malformed.count();
    } else if error.is_timeout() && activity.is_http2() {
        HttpClosed::KeepAlive.count();
    }
}
