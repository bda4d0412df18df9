//! A TLS client that remembers its sessions, and believes in the first certificate that it sees.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme,
    StreamOwned,
};

use crate::DEADLINE;

/// The certificate that a server is known by from its first handshake on.
#[derive(Clone, Debug, Default)]
pub struct Pin(Arc<OnceLock<CertificateDer<'static>>>);

/// A client with a memory of its own, of no session at first. Time stands still for it, so that it never finds a session too old
/// to try.
#[derive(Debug)]
pub struct Client(Arc<ClientConfig>);

/// What a GET over a connection of its own brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Whether the client offered a session and the server took it.
    pub is_resumed: bool,
    /// The answer, head and all.
    pub answer: String,
}

impl Client {
    /// Makes one that accepts the pinned certificate only, or pins the first.
    ///
    /// # Panics
    /// Never: the settings fit together.
    #[must_use]
    pub fn new(pin: &Pin) -> Self {
        let config = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(Frozen));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(pin.clone()));
        Self(Arc::new(config.with_no_client_auth()))
    }

    /// Connects, with a session of an earlier visit if there is one, and asks once.
    ///
    /// # Errors
    /// When the server cannot be reached or believed, or the answer does not come whole.
    ///
    /// # Panics
    /// If rustls says of a finished handshake that it is not.
    pub fn visit(&self, address: SocketAddr) -> io::Result<Visit> {
        let mut stream = self.connect(address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        // It fails if the server hangs up without saying so in TLS.
        stream.read_to_string(&mut answer)?;
        let is_resumed = stream.conn.handshake_kind().unwrap() == HandshakeKind::Resumed;
        Ok(Visit { is_resumed, answer })
    }

    /// Connects, for a conversation of the caller's own.
    ///
    /// # Errors
    /// When the server cannot be reached.
    ///
    /// # Panics
    /// Never: `localhost` is a name.
    pub fn connect(&self, address: SocketAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let tcp = TcpStream::connect_timeout(&address, DEADLINE)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        tcp.set_write_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(client, tcp))
    }
}

#[derive(Debug)]
struct Frozen;

impl TimeProvider for Frozen {
    fn current_time(&self) -> Option<UnixTime> {
        static NOW: OnceLock<UnixTime> = OnceLock::new();
        Some(*NOW.get_or_init(UnixTime::now))
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_known = self.0.get_or_init(|| certificate.clone().into_owned()) == certificate;
        is_known.then(ServerCertVerified::assertion).ok_or(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}
