//! Why a client did not come through the handshake, counted over all workers.

use std::io;

use tokio_rustls::rustls::Error;

use crate::metrics::Counter;

/// Why the server has ended a connection during its TLS handshake.
///
/// Each is counted, over all workers, in a [`Counter`](struct@crate::Counter) that any process of the cluster can read. None is logged at a
/// level that is on by default: a client must not be able to fill the log.
///
/// ```no_run
/// use cluster::TlsClosed;
///
/// fn report() {
///     for why in TlsClosed::ALL {
///         println!("{} {}", why.counter().name(), why.counter().total());
///     }
/// }
/// ```
///
/// A client that leaves by itself in the middle of the handshake is not in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsClosed {
    /// The handshake was not complete in time. See [`handshake_timeout`](crate::Tls::handshake_timeout).
    HandshakeTimeout,
    /// What came was no TLS, such as plain HTTP.
    Malformed,
    /// The two could not agree: on a version, a cipher or a protocol, or one did not accept the other's certificate.
    Refused,
    /// Others came to shake hands, and it had taken longest. See [`max_handshakes`](crate::Tls::max_handshakes).
    PushedOut,
}

impl TlsClosed {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::HandshakeTimeout, Self::Malformed, Self::Refused, Self::PushedOut];

    /// How often it has happened, in all workers together, those that are gone among them.
    #[must_use]
    pub const fn counter(self) -> &'static Counter {
        &COUNTERS[self as usize]
    }

    /// What this error of a handshake means; `None` if the client has left.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(match error {
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord
            | Error::DecryptError => Self::Malformed,
            _ => Self::Refused,
        })
    }

    /// Counts it, and makes the error that the server's own code sees.
    pub(super) fn close(self) -> io::Error {
        self.counter().add(1);
        let (kind, text) = match self {
            Self::HandshakeTimeout => (io::ErrorKind::TimedOut, "the TLS handshake was not complete in time"),
            Self::PushedOut => (io::ErrorKind::ConnectionAborted, "too many clients shake hands"),
            Self::Malformed | Self::Refused => (io::ErrorKind::InvalidData, "the TLS handshake failed"),
        };
        io::Error::new(kind, text)
    }
}

static COUNTERS: [Counter; TlsClosed::ALL.len()] = [
    Counter::new("tls_closed_handshake_timeout", "connections ended because the TLS handshake took too long"),
    Counter::new("tls_closed_malformed", "connections ended because what came was no TLS"),
    Counter::new(
        "tls_closed_refused",
        "connections ended because client and server could not agree in the TLS handshake",
    ),
    Counter::new("tls_closed_pushed_out", "connections ended because too many clients were in the TLS handshake"),
];

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::{InvalidMessage, PeerIncompatible};

    use super::*;

    #[test]
    fn each_has_a_counter_of_its_own() {
        let names: std::collections::BTreeSet<_> = TlsClosed::ALL.iter().map(|why| why.counter().name()).collect();
        assert_eq!(names.len(), TlsClosed::ALL.len());
        for (index, why) in TlsClosed::ALL.iter().enumerate() {
            assert_eq!(*why as usize, index, "{why:?}");
        }
    }

    #[test]
    fn a_client_that_leaves_is_no_fault_and_others_are_told_apart() {
        assert_eq!(TlsClosed::of(&io::ErrorKind::UnexpectedEof.into()), None);
        assert_eq!(TlsClosed::of(&io::Error::from_raw_os_error(104)), None);
        let of = |error: Error| TlsClosed::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(of(Error::InvalidMessage(InvalidMessage::InvalidContentType)), Some(TlsClosed::Malformed));
        let incompatible = PeerIncompatible::NoCipherSuitesInCommon;
        assert_eq!(of(Error::PeerIncompatible(incompatible)), Some(TlsClosed::Refused));
        assert_eq!(of(Error::NoApplicationProtocol), Some(TlsClosed::Refused));
    }
}
