//! HTTP over TLS: the handshake, and then a connection like any other.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tower_service::Service;

use super::BoxError;
use super::connection::{self, Client};
use super::settings::{Config, Protocols};
use super::socket::Socket;
use crate::listen::{Address, Stream};
use crate::tls::{TlsAcceptor, TlsInfo};

/// What clients are offered to speak, the preferred first.
pub(super) const fn alpn(protocols: Protocols) -> &'static [&'static [u8]] {
    match protocols {
        Protocols::Http1 => &[b"http/1.1"],
        Protocols::Http2 => &[b"h2"],
        Protocols::Both => &[b"h2", b"http/1.1"],
    }
}

/// Serves one connection of a TLS port until it is closed.
pub(super) async fn serve<S, B>(tls: TlsAcceptor, config: Arc<Config>, stream: Stream, peer: Address, app: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let stream = match tls.accept(stream).await {
        // A connection that idles holds the task's share of memory: TLS is not to be in it twice.
        Ok(stream) => Box::new(stream),
        Err(error) => return tracing::debug!(%error, "no TLS"),
    };
    let client = Client { peer, socket: Socket::under_tls(stream.get_ref().0) };
    let app = Informed { app, info: TlsInfo::of(&stream) };
    connection::serve(config, stream, client, app).await;
}

/// The user's service, which learns what TLS a request came by.
#[derive(Clone)]
struct Informed<S> {
    app: S,
    info: TlsInfo,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Informed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> S::Future {
        request.extensions_mut().insert(self.info.clone());
        self.app.call(request)
    }
}
