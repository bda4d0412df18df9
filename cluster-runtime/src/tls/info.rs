//! What a handler may know of the TLS that its request came by.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use tokio_rustls::server::TlsStream;

/// The TLS that a request came by; an extension of every request that [`serve`](crate::serve()) has from a port with
/// [`tls`](crate::Port::tls).
///
/// ```no_run
/// use axum::{Extension, Router, routing::get};
/// use cluster::TlsInfo;
///
/// # fn app() -> Router {
/// Router::new().route("/", get(|Extension(tls): Extension<TlsInfo>| async move { format!("{:?}\n", tls.server_name()) }))
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TlsInfo(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    server_name: Option<String>,
    alpn: Option<Vec<u8>>,
    certificates: Vec<CertificateDer<'static>>,
    version: Option<ProtocolVersion>,
    is_resumed: bool,
}

impl TlsInfo {
    /// What is known of a connection.
    #[must_use]
    pub fn of<IO>(stream: &TlsStream<IO>) -> Self {
        let connection: &ServerConnection = stream.get_ref().1;
        Self(Arc::new(Facts {
            server_name: connection.server_name().map(str::to_owned),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            certificates: connection
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .cloned()
                .map(CertificateDer::into_owned)
                .collect(),
            version: connection.protocol_version(),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }))
    }

    /// The name that the client has asked for (SNI).
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// The protocol that both have agreed on, such as `b"h2"` (ALPN).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.alpn.as_deref()
    }

    /// The certificates that the client has shown, its own first; empty if it has none, or was not asked.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.certificates
    }

    /// The version of TLS.
    #[must_use]
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.0.version
    }

    /// Whether a session was resumed.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.0.is_resumed
    }
}
