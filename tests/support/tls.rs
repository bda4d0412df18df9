//! A TLS client that remembers its sessions, and believes in the first certificate that it sees; and certificates for servers.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::{
    ALL_VERSIONS, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    SignatureScheme, StreamOwned, SupportedProtocolVersion,
};

use crate::scratch::Scratch;
use crate::{DEADLINE, Launch};

/// The certificate that a server is known by from its first handshake on.
#[derive(Clone, Debug, Default)]
pub struct Pin(Arc<OnceLock<CertificateDer<'static>>>);

impl Pin {
    /// The certificate, once it is known.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.0.get().map(AsRef::as_ref)
    }
}

/// A self-signed certificate and its key on disk, in a directory of their own.
#[derive(Debug)]
pub struct Identity {
    directory: Scratch,
    certificate: Vec<u8>,
}

impl Identity {
    /// Makes both.
    ///
    /// # Panics
    /// If there is no place for them.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes files")]
    pub fn new() -> Self {
        let mut identity = Self { directory: Scratch::new(), certificate: Vec::new() };
        identity.renew();
        identity
    }

    /// Puts a new certificate with a new key in the place of the old, and returns it.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn renew(&mut self) -> &[u8] {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        self.certificate = made.cert.der().to_vec();
        // One file, so that no moment sees the key of one with the certificate of the other.
        let key = pem("PRIVATE KEY", &made.signing_key.serialize_der());
        self.put(&(key + &pem("CERTIFICATE", &self.certificate)));
        self.certificate()
    }

    /// Puts this text in their place.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn put(&self, text: &str) {
        let new = self.directory.path("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    /// The certificate, as a client gets it.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Where both are.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.path("identity.pem")
    }

    /// Tells a program where both are.
    pub fn give_to(&self, launch: Launch) -> Launch {
        let file = self.file();
        let path: &Path = &file;
        launch.env("CERT", path.to_str().unwrap()).env("KEY", path.to_str().unwrap())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

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
        Self::with(pin, ALL_VERSIONS, &[])
    }

    /// Makes one that speaks these versions of TLS and offers these protocols.
    ///
    /// # Panics
    /// Without a version.
    #[must_use]
    pub fn with(pin: &Pin, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Self {
        let config = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(Frozen));
        let config = config.with_protocol_versions(versions).unwrap();
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(pin.clone()));
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Makes one that shows this certificate to a server that asks for one.
    ///
    /// # Panics
    /// If the files are no certificate.
    #[must_use]
    pub fn known_as(identity: &Identity) -> Self {
        let config = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(Frozen));
        let config = config.with_protocol_versions(ALL_VERSIONS).unwrap();
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Pin::default()));
        let chain = vec![CertificateDer::from_pem_file(identity.file()).unwrap()];
        let key = PrivateKeyDer::from_pem_file(identity.file()).unwrap();
        Self(Arc::new(config.with_client_auth_cert(chain, key).unwrap()))
    }

    /// What it is made of, for other libraries.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
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
