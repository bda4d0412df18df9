//! The settings of [`Http`], and what hyper makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;

use super::Http;
use super::clock::Times;
use super::executor::Spawner;
use super::streams::WINDOW;

/// Which versions of HTTP are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocols {
    /// HTTP/1.0 and HTTP/1.1. The beginning of an HTTP/2 connection is answered with 400.
    Http1,
    /// HTTP/2, which the client must know beforehand (or agree upon by TLS). Anything else is closed.
    Http2,
    /// Either, as the client wishes; the default.
    #[default]
    Both,
}

/// Everything that can be set; `None` is off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) times: Times,
    pub(super) max_head: Option<usize>,
    pub(super) max_headers: Option<usize>,
    pub(super) max_streams: Option<u32>,
    pub(super) max_header_list: Option<u32>,
    pub(super) keep_alive: Option<(Duration, Duration)>,
    pub(super) control_frames: Option<u32>,
    pub(super) requires_host: bool,
    pub(super) protocols: Protocols,
    pub(super) concurrency: Option<usize>,
    pub(super) max_requests: Option<u64>,
    pub(super) has_extended_connect: bool,
}

impl Limits {
    pub(super) const fn new() -> Self {
        Self {
            times: Times {
                head: Some(Duration::from_secs(30)),
                idle: Some(Duration::from_secs(75)),
                body: Some(Duration::from_secs(60)),
                write: Some(Duration::from_secs(60)),
            },
            max_head: Some(64 << 10),
            max_headers: Some(HYPERS_HEADERS),
            max_streams: Some(100),
            max_header_list: Some(64 << 10),
            keep_alive: None,
            control_frames: Some(10_000),
            requires_host: true,
            protocols: Protocols::Both,
            concurrency: None,
            max_requests: None,
            has_extended_connect: true,
        }
    }
}

/// So many lines hyper parses without an allocation for each request.
const HYPERS_HEADERS: usize = 100;
/// And so many it is told to parse where there is no limit: it makes room for each.
const MOST_HEADERS: usize = 4096;
/// hyper's own bound of what it holds of a connection.
const HYPERS_BUFFER: usize = 8192 + 4096 * 100;
const HYPERS_LEAST_BUFFER: usize = 8192;
/// What h2 takes of a head where there is no limit.
const MOST_HEADER_LIST: u32 = 16 << 20;

impl Http {
    /// How long a request's head may take, from its first byte to its last: 30 s, unless it is set. In HTTP/1 a client that is slower is
    /// answered with 408. `None` turns the limit off.
    pub fn header_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.limits.times.head = time.into();
        self.renewed()
    }

    /// How long a connection may have no request in hand, before its first one or between two: 75 s, unless it is set, which is longer than
    /// the 60 s of most load balancers, who should be the ones to close. Then it is closed without a word. A PING of HTTP/2 is no request
    /// and makes it no longer. `None` turns the limit off.
    pub fn idle_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.limits.times.idle = time.into();
        self.renewed()
    }

    /// How long the next part of a request's body may take to come, whether the handler has asked for it or not: 60 s, unless it is set. A
    /// client that is slower is answered with 408 in HTTP/1, if nothing was answered yet; in HTTP/2 its stream is reset, or the
    /// connection ended if it has no other. `None` turns the limit off.
    ///
    /// The time counts while the client could send: not while a handler leaves unread what has come. A tunnel (an upgraded
    /// connection, `CONNECT`) is no body. But a call that streams in both directions for hours, as gRPC has them, is one: turn the limit
    /// off for those, or have their clients send something now and then.
    pub fn body_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.limits.times.body = time.into();
        self.renewed()
    }

    /// How long a client may take nothing at all of what there is to write: 60 s, unless it is set. Then the connection is reset. It holds for
    /// answers in one piece and for streamed ones, and for a full socket as for HTTP/2's windows: a stream that its client holds back,
    /// while others go on, is reset alone. Whoever takes a byte now and then is never cut, and a handler that has nothing to write may be silent.
    /// PINGs and SETTINGS count for nothing. `None` turns the limit off.
    pub fn write_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.limits.times.write = time.into();
        self.renewed()
    }

    /// How many bytes a request's head may have in HTTP/1: 64 KiB, unless it is set. A longer one is answered with 431. With `None` it is
    /// what hyper holds of a connection, 408 KiB.
    pub fn max_head(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.limits.max_head = bytes.into();
        self.renewed()
    }

    /// How many lines a request's head may have: 100, unless it is set. One with more is answered with 431. Another number than 100 costs an
    /// allocation for each request of HTTP/1. With `None` it is 4,096 in HTTP/1, and as many as
    /// [`max_header_list`](Self::max_header_list) has room for in HTTP/2.
    pub fn max_headers(mut self, lines: impl Into<Option<usize>>) -> Self {
        self.limits.max_headers = lines.into();
        self.renewed()
    }

    /// How many streams an HTTP/2 client may have open at a time: 100, unless it is set. What is beyond is refused, so that the client
    /// tries again. `None` turns the limit off.
    pub fn max_streams(mut self, streams: impl Into<Option<u32>>) -> Self {
        self.limits.max_streams = streams.into();
        self.renewed()
    }

    /// How many bytes the head of a request may have in HTTP/2, once it is decoded, with 32 more for each line: 64 KiB, unless it is set. A
    /// longer one is answered with 431. With `None` it is 16 MiB.
    pub fn max_header_list(mut self, bytes: impl Into<Option<u32>>) -> Self {
        self.limits.max_header_list = bytes.into();
        self.renewed()
    }

    /// Sends a PING to HTTP/2 clients of whom nothing came for `interval`, and ends the connection if it is not answered within
    /// `timeout`; off unless it is set. It finds clients that are gone without a word while a request is in hand. 20 s and 20 s are usual.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.limits.keep_alive = Some((interval, timeout));
        self.renewed()
    }

    /// How many frames an HTTP/2 client may send in 10 s that carry nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, empty DATA,
    /// unknown ones), beyond those that go with what is asked and answered: 10,000, unless it is set; it is measured by tenths of
    /// the limit. More end the connection. `None` turns the limit off; h2's own, against resets and what would fill the memory, remain.
    pub fn max_control_frames(mut self, frames: impl Into<Option<u32>>) -> Self {
        self.limits.control_frames = frames.into();
        self.renewed()
    }

    /// Whether a request of HTTP/1.1 must have a `Host` line, and none of HTTP/1 may have several: on, unless it is set. Else it is answered with
    /// 400, as RFC 9112 asks.
    pub fn require_host(mut self, is_required: bool) -> Self {
        self.limits.requires_host = is_required;
        self.renewed()
    }

    /// Which versions of HTTP are spoken: both, unless it is set.
    pub fn protocols(mut self, protocols: Protocols) -> Self {
        self.limits.protocols = protocols;
        self.renewed()
    }

    /// How many requests each worker has in hand at a time; a request beyond that is answered with 503 and `Retry-After: 1`, before the app
    /// hears of it. A request is in hand until the last of its answer is given away. Off unless it is set.
    pub fn concurrency(mut self, requests: impl Into<Option<usize>>) -> Self {
        self.limits.concurrency = requests.into();
        self.renewed()
    }

    /// How many requests a connection may bring: with the last one it is closed in HTTP/1, and told to go away in HTTP/2. So clients that keep
    /// their connections for ever spread anew. Off unless it is set.
    pub fn max_requests_per_connection(mut self, requests: impl Into<Option<u64>>) -> Self {
        self.limits.max_requests = requests.into();
        self.renewed()
    }

    /// Whether HTTP/2 clients may open tunnels, such as WebSockets, as RFC 8441 has it (extended `CONNECT`): on, unless it is set.
    pub fn extended_connect(mut self, is_allowed: bool) -> Self {
        self.limits.has_extended_connect = is_allowed;
        self.renewed()
    }
}

/// What all connections of one [`Http`] share in a worker.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) limits: Limits,
    pub(super) http1: http1::Builder,
    in_hand: AtomicUsize,
}

/// One request among those that are in hand, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Config>);

impl Config {
    pub(super) fn new(limits: Limits) -> Self {
        let mut http1 = http1::Builder::new();
        http1.header_read_timeout(None);
        if let Some(bytes) = limits.max_head {
            http1.max_header_size(bytes);
            if bytes > HYPERS_BUFFER {
                http1.max_buf_size(bytes.max(HYPERS_LEAST_BUFFER));
            }
        }
        match limits.max_headers {
            Some(HYPERS_HEADERS) => {}
            lines => _ = http1.max_headers(lines.unwrap_or(MOST_HEADERS)),
        }
        Self { limits, http1, in_hand: AtomicUsize::new(0) }
    }

    pub(super) fn http2(&self, spawner: Spawner) -> http2::Builder<Spawner> {
        let limits = &self.limits;
        let mut http2 = http2::Builder::new(spawner);
        http2
            .initial_stream_window_size(WINDOW)
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(limits.max_header_list.unwrap_or(MOST_HEADER_LIST));
        if let Some((interval, timeout)) = limits.keep_alive {
            http2.timer(TokioTimer::new()).keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
        if limits.has_extended_connect {
            http2.enable_connect_protocol();
        }
        http2
    }

    /// A place among the requests in hand, where they are limited.
    ///
    /// # Errors
    /// When all places are taken.
    pub(super) fn permit(self: &Arc<Self>) -> Result<Option<Permit>, Full> {
        let Some(most) = self.limits.concurrency else { return Ok(None) };
        if self.in_hand.fetch_add(1, Ordering::Relaxed) < most {
            return Ok(Some(Permit(Arc::clone(self))));
        }
        self.in_hand.fetch_sub(1, Ordering::Relaxed);
        Err(Full)
    }
}

/// All places are taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_requests_are_in_hand_and_no_more() {
        let config = Arc::new(Config::new(Limits { concurrency: Some(2), ..Limits::new() }));
        let places = [config.permit().unwrap(), config.permit().unwrap()];
        assert_eq!(config.permit().unwrap_err(), Full);
        drop(places);
        assert!(config.permit().unwrap().is_some());
        assert!(Arc::new(Config::new(Limits::new())).permit().unwrap().is_none(), "without a limit none is counted");
    }
}
