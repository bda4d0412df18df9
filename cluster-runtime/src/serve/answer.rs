//! The user's service on one connection, and its answers.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::ConnectInfo;
use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::activity::{Activity, Busy};
use super::closed::HttpClosed;
use super::executor;
use super::settings::Permit;
use super::streams::{Queued, Stream};
use crate::listen::Address;
use crate::worker::Process;

/// The user's service on one connection: it learns the client's address, and is not called for what is refused.
pub(super) struct Watched<S> {
    app: TowerToHyperService<S>,
    peer: Address,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(app: S, peer: Address, activity: Arc<Activity>) -> Self {
        Self { app: TowerToHyperService::new(app), peer, activity }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    B: Body,
{
    type Response = Response<Answer<B>>;
    type Error = S::Error;
    type Future = Answering<<TowerToHyperService<S> as hyper::service::Service<Request<Incoming>>>::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        Process::current().reception().line().count_request();
        let number = self.activity.count_request();
        let in_hand = InHand::new(&self.activity, &request);
        let permit = match self.judge(&request, number) {
            Ok(permit) => permit,
            Err(refusal) => {
                refusal.why.count();
                let activity = Arc::clone(&self.activity);
                return Answering { answering: None, refusal: Some(refusal), in_hand, permit: None, number, activity };
            }
        };
        match self.peer.socket() {
            Some(peer) => request.extensions_mut().insert(ConnectInfo(peer)).map(drop),
            None => request.extensions_mut().insert(ConnectInfo(self.peer.clone())).map(drop),
        };
        let answering = Some(self.app.call(request));
        Answering { answering, refusal: None, in_hand, permit, number, activity: Arc::clone(&self.activity) }
    }
}

impl<S> Watched<S> {
    /// Whether the app is to be called.
    fn judge(&self, request: &Request<Incoming>, number: u64) -> Result<Option<Permit>, Refusal> {
        let config = &self.activity.config;
        let limits = &config.limits;
        if request.version() == Version::HTTP_2 {
            if limits.max_headers.is_some_and(|most| request.headers().len() > most) {
                return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, HttpClosed::HeadTooLarge));
            }
        } else {
            if self.activity.is_ambiguous(number) {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, HttpClosed::AmbiguousLength));
            }
            if limits.requires_host && !has_one_host(request) {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, HttpClosed::Host));
            }
        }
        config.permit().map_err(|_full| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, HttpClosed::Busy))
    }
}

/// HTTP/1.0 may do without.
fn has_one_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match hosts.next() {
        Some(_) => hosts.next().is_none(),
        None => request.version() < Version::HTTP_11,
    }
}

/// An answer that is not the app's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    why: HttpClosed,
}

impl Refusal {
    const fn new(status: StatusCode, why: HttpClosed) -> Self {
        Self { status, why }
    }

    fn answer<B>(self) -> Response<Answer<B>> {
        let mut response = Response::new(Answer { body: None, in_hand: InHand::None, permit: None });
        *response.status_mut() = self.status;
        if self.why == HttpClosed::Busy {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A request in hand, as its connection counts it.
#[derive(Debug)]
pub(super) enum InHand {
    Http1(#[expect(dead_code, reason = "it is counted")] Arc<Busy>),
    Http2(Arc<Stream>),
    None,
}

impl InHand {
    fn new(activity: &Arc<Activity>, request: &Request<Incoming>) -> Self {
        let Some(mut streams) = activity.streams() else {
            activity.expect_continue(request.headers().contains_key(header::EXPECT));
            return Self::Http1(Arc::clone(&activity.busy));
        };
        let stream = Stream::new(activity);
        streams.call(&stream, request.method() == Method::CONNECT);
        executor::expect_task_of(&stream);
        Self::Http2(stream)
    }
}

pin_project! {
    /// The app at work on a request.
    pub(super) struct Answering<F> {
        #[pin]
        answering: Option<F>,
        refusal: Option<Refusal>,
        in_hand: InHand,
        permit: Option<Permit>,
        number: u64,
        activity: Arc<Activity>,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Answer<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.answering.as_pin_mut() {
            Some(answering) => ready!(answering.poll(context))?.map(|body| Answer {
                body: Some(body),
                in_hand: std::mem::replace(this.in_hand, InHand::None),
                permit: this.permit.take(),
            }),
            None => this.refusal.map_or_else(|| Response::new(Answer::none()), Refusal::answer),
        };
        let activity = &**this.activity;
        activity.note_answer();
        let is_most = activity.config.limits.max_requests.is_some_and(|most| *this.number >= most);
        if activity.is_http2() {
            if is_most {
                activity.end(HttpClosed::MaxRequests);
            }
        // An upgrade has a `Connection` line of its own.
        } else if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let is_malformed = this.refusal.is_some_and(|refusal| refusal.why != HttpClosed::Busy);
            if is_most || is_malformed || Process::current().is_turn_of(activity.share) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if is_most {
                HttpClosed::MaxRequests.count();
            }
        }
        Poll::Ready(Ok(response))
    }
}

pin_project! {
    /// The body of an answer; the request is under way until it is dropped.
    pub(super) struct Answer<B> {
        #[pin]
        body: Option<B>,
        in_hand: InHand,
        permit: Option<Permit>,
    }
}

impl<B> Answer<B> {
    const fn none() -> Self {
        Self { body: None, in_hand: InHand::None, permit: None }
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let frame = ready!(body.poll_frame(context));
        let piece = |data| match this.in_hand {
            InHand::Http2(stream) => Piece { data, queued: Some(Queued::new(stream)) },
            InHand::Http1(_) | InHand::None => Piece { data, queued: None },
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A part of an answer, whose progress on an HTTP/2 stream is noted.
#[derive(Debug)]
pub(super) struct Piece<D> {
    data: D,
    queued: Option<Queued>,
}

impl<D> Piece<D> {
    #[inline]
    fn note_progress(&self) {
        if let Some(queued) = &self.queued {
            queued.note_progress();
        }
    }
}

impl<D: Buf> Buf for Piece<D> {
    #[inline]
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    #[inline]
    fn chunks_vectored<'a>(&'a self, parts: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(parts)
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.note_progress();
        self.data.advance(count);
    }

    #[inline]
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.note_progress();
        self.data.copy_to_bytes(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_enough_and_two_are_too_many() {
        let request = |version, hosts: &[&str]| {
            let builder = Request::builder().version(version);
            hosts.iter().fold(builder, |builder, host| builder.header(header::HOST, *host)).body(()).unwrap()
        };
        assert!(has_one_host(&request(Version::HTTP_11, &["a"])));
        assert!(has_one_host(&request(Version::HTTP_10, &[])));
        assert!(!has_one_host(&request(Version::HTTP_11, &[])));
        assert!(!has_one_host(&request(Version::HTTP_11, &["a", "a"])));
        assert!(!has_one_host(&request(Version::HTTP_10, &["a", "b"])));
    }
}
