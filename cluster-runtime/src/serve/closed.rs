//! Why the server has ended a connection or refused a request, counted over all workers.

use crate::metrics::Counter;

/// Why a connection of [`Http`](crate::Http) was ended by the server, or a request refused.
///
/// Each is counted, over all workers, in a [`Counter`](struct@crate::Counter) that any process of the cluster can read:
///
/// ```no_run
/// use cluster::HttpClosed;
///
/// fn report() {
///     for why in HttpClosed::ALL {
///         println!("{} {}", why.counter().name(), why.counter().total());
///     }
/// }
/// ```
///
/// What ends a connection otherwise is not in here: the client has closed it, the worker drains, a handler has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HttpClosed {
    /// A request's head was begun and not finished in time; answered with 408 in HTTP/1. See
    /// [`header_timeout`](crate::Http::header_timeout).
    HeadTimeout,
    /// Nothing was asked for so long. See [`idle_timeout`](crate::Http::idle_timeout).
    IdleTimeout,
    /// The rest of a request's body did not come in time; answered with 408 in HTTP/1. See
    /// [`body_timeout`](crate::Http::body_timeout).
    BodyTimeout,
    /// The client took nothing of what there was to write. See [`write_timeout`](crate::Http::write_timeout).
    WriteTimeout,
    /// A head had too many bytes (431, or 414 for the path) or too many lines (431). See [`max_head`](crate::Http::max_head) and
    /// [`max_headers`](crate::Http::max_headers).
    HeadTooLarge,
    /// What came was no HTTP; answered with 400 where it can be.
    Malformed,
    /// A request over HTTP/1 with no `Host`, or with several; answered with 400. See [`require_host`](crate::Http::require_host).
    Host,
    /// A request with `Content-Length` and `Transfer-Encoding`, which two servers may understand differently; answered with 400.
    AmbiguousLength,
    /// Too many HTTP/2 frames that carry nothing. See [`max_control_frames`](crate::Http::max_control_frames).
    Flood,
    /// The worker had enough in hand; answered with 503. See [`concurrency`](crate::Http::concurrency).
    Busy,
    /// The connection had brought as many requests as one may. See
    /// [`max_requests_per_connection`](crate::Http::max_requests_per_connection).
    MaxRequests,
    /// An HTTP/2 client did not answer a PING. See [`keep_alive`](crate::Http::keep_alive).
    KeepAlive,
}

impl HttpClosed {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::HeadTimeout,
        Self::IdleTimeout,
        Self::BodyTimeout,
        Self::WriteTimeout,
        Self::HeadTooLarge,
        Self::Malformed,
        Self::Host,
        Self::AmbiguousLength,
        Self::Flood,
        Self::Busy,
        Self::MaxRequests,
        Self::KeepAlive,
    ];

    /// How often it has happened, in all workers together, those that are gone among them.
    #[must_use]
    pub const fn counter(self) -> &'static Counter {
        &COUNTERS[self as usize]
    }

    pub(super) fn count(self) {
        self.counter().add(1);
    }
}

static COUNTERS: [Counter; HttpClosed::ALL.len()] = [
    Counter::new("http_closed_head_timeout", "connections ended because a request's head was not finished in time"),
    Counter::new("http_closed_idle_timeout", "connections ended because nothing was asked for so long"),
    Counter::new("http_closed_body_timeout", "requests ended because the rest of their body did not come in time"),
    Counter::new("http_closed_write_timeout", "answers ended because the client took nothing of them"),
    Counter::new("http_closed_head_too_large", "requests refused because their head was too large"),
    Counter::new("http_closed_malformed", "connections ended because what came was no HTTP"),
    Counter::new("http_closed_host", "requests refused because they had no Host, or several"),
    Counter::new("http_closed_ambiguous_length", "requests refused because they had two kinds of length"),
    Counter::new("http_closed_flood", "connections ended because of too many HTTP/2 control frames"),
    Counter::new("http_closed_busy", "requests refused because the worker had enough in hand"),
    Counter::new("http_closed_max_requests", "connections ended because they had brought as many requests as one may"),
    Counter::new("http_closed_keep_alive", "connections ended because a PING was not answered"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_counter_of_its_own() {
        let names: std::collections::BTreeSet<_> = HttpClosed::ALL.iter().map(|why| why.counter().name()).collect();
        assert_eq!(names.len(), HttpClosed::ALL.len());
        for (index, why) in HttpClosed::ALL.iter().enumerate() {
            assert_eq!(*why as usize, index, "{why:?}");
        }
    }
}
