//! TLS for a port: [`Tls`] says how, [`TlsAcceptor`] shakes hands.
//!
//! Sessions are resumed by tickets, whose keys come from the primary (`ticket_keys`), so that it does not matter to which worker a client
//! comes back. The certificate is read when a worker starts, so that a reload brings a renewed one.

mod acceptor;
mod closed;
mod crowd;
mod info;
mod pem;
mod tickets;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::NoServerSessionStorage;

pub use acceptor::TlsAcceptor;
pub use closed::TlsClosed;
pub use info::TlsInfo;

use crate::ticket_keys::{LONGEST_LIFETIME, SHORTEST_LIFETIME};
use crate::worker::Process;
use tickets::SharedTickets;

/// How a port speaks TLS; what [`Port::tls`](crate::Port::tls) takes.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use cluster::{Port, Tls};
///
/// #[cluster::main(workers = "auto")]
/// async fn main() -> cluster::Result {
///     let app = Router::new().route("/", get(|| async { "hello\n" }));
///     let tls = Tls::from_pem("cert.pem", "key.pem");
///     cluster::serve(Port::at("0.0.0.0:3443").tls(tls), app).await
/// }
/// ```
///
/// Clients agree on HTTP/2 or HTTP/1.1 by ALPN. A client that comes back resumes its session at any worker, also after a reload or
/// an upgrade: the primary makes the keys of the tickets, rotates them, and gives them to the workers that need them.
///
/// For client certificates, several names, or other settings, make a [`ServerConfig`] of the re-exported [`rustls`](crate::rustls):
///
/// ```no_run
/// # fn config() -> Result<cluster::rustls::ServerConfig, cluster::rustls::Error> { unreachable!() }
/// # async fn f(app: axum::Router) -> cluster::Result {
/// let tls = cluster::Tls::from(config().map_err(cluster::Error::other)?);
/// cluster::serve(cluster::Port::at("0.0.0.0:3443").tls(tls), app).await
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a Tls does nothing until a Port has it"]
pub struct Tls {
    source: Source,
    alpn: Option<Vec<Vec<u8>>>,
    handshake_timeout: Option<Duration>,
    max_handshakes: usize,
    ticket_lifetime: Duration,
    session_scope: Option<String>,
}

/// Where the certificate and its key are from.
#[derive(Clone)]
enum Source {
    Pem { certificate: PathBuf, key: PathBuf },
    Config(Arc<ServerConfig>),
}

/// What a config of the user's own holds is long, and partly nobody's business.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { certificate, key } => {
                f.debug_struct("Pem").field("certificate", certificate).field("key", key).finish()
            }
            Self::Config(_) => f.write_str("Config"),
        }
    }
}

impl Tls {
    /// A certificate chain and its private key in PEM files: the server's own certificate first, the intermediate ones after it. They
    /// may be one file.
    ///
    /// Each worker reads them when it starts to serve. So after a renewal a reload (HUP) brings the new certificate, without a failed
    /// request: connections that there are go on with the old one. A worker that replaces a crashed one reads them too: put new files in
    /// place by a rename, and the key and the certificate together.
    ///
    /// With a [`user`](crate::Setup::user) it is that user who must be allowed to read both files. The key of a public certificate
    /// is usually root's alone: give a group that the user is in the right to read it.
    pub fn from_pem(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::of(Source::Pem { certificate: certificate.into(), key: key.into() })
    }

    const fn of(source: Source) -> Self {
        Self {
            source,
            alpn: None,
            handshake_timeout: Some(Duration::from_secs(10)),
            max_handshakes: usize::MAX,
            ticket_lifetime: Duration::from_secs(6 * 60 * 60),
            session_scope: None,
        }
    }

    /// The protocols that are offered to clients by ALPN, the preferred first. Default: those of the `ServerConfig`; if it has none,
    /// those that [`Http`](crate::Http) speaks. A client that offers others only is refused.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = Some(protocols.into_iter().map(Into::into).collect());
        self
    }

    /// How long a client may take to shake hands; then its connection is closed. The limits of [`Http`](crate::Http) hold from then
    /// on. Default: 10 s; `None` is without a limit.
    pub fn handshake_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.handshake_timeout = time.into();
        self
    }

    /// So many clients may shake hands with one worker at the same time. One more pushes the one out that has taken longest. Default:
    /// no limit. [`Port::max_connections`](crate::Port::max_connections) counts them too.
    pub fn max_handshakes(mut self, clients: usize) -> Self {
        self.max_handshakes = clients.max(1);
        self
    }

    /// A ticket can be used for at least so long, and for less than twice as long: so often the primary rotates the keys. Where ports
    /// differ, the longest time counts for all. From a second to seven days; zero is without tickets, so that every handshake is
    /// a full one. Default: 6 hours.
    ///
    /// A `ServerConfig` that has a `ticketer` already keeps that.
    pub fn ticket_lifetime(mut self, time: Duration) -> Self {
        self.ticket_lifetime = if time.is_zero() { time } else { time.clamp(SHORTEST_LIFETIME, LONGEST_LIFETIME) };
        self
    }

    /// Sessions are resumed only where they were begun in the same scope. Default: that of the port's address.
    ///
    /// A session that is resumed is not asked for a client certificate again. So whoever lets clients in by their certificates
    /// changes the scope (`"v2"`) when those change who may come in; else a client gets in by a session of before, for as long as
    /// its ticket lives.
    pub fn session_scope(mut self, scope: impl Into<String>) -> Self {
        self.session_scope = Some(scope.into());
        self
    }

    /// What shakes hands on connections that do not come by [`serve`](crate::serve()): in front of a protocol of your own, or of a
    /// connection that came as an [`Fd`](crate::Fd).
    ///
    /// ```no_run
    /// use tokio::io::AsyncWriteExt as _;
    ///
    /// # async fn f() -> cluster::Result {
    /// let tls = cluster::Tls::from_pem("cert.pem", "key.pem").acceptor().await?;
    /// let listener = cluster::listen("0.0.0.0:6697").await?;
    /// while let Ok((stream, _client)) = listener.accept().await {
    ///     let tls = tls.clone();
    ///     // The handshake is the task's: nobody waits for a client that dawdles.
    ///     tokio::spawn(async move {
    ///         let mut stream = tls.accept(stream).await?;
    ///         stream.write_all(b"hello\n").await?;
    ///         stream.shutdown().await
    ///     });
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// All that `Tls` sets holds. No protocol is offered by ALPN unless [`alpn`](Self::alpn) says so. The session scope is one for all
    /// acceptors, unless [`session_scope`](Self::session_scope) says otherwise.
    ///
    /// # Errors
    /// When the files cannot be read, or are not what they should be; the error names the file and the remedy.
    ///
    /// # Panics
    /// Outside a worker.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn acceptor(&self) -> io::Result<TlsAcceptor> {
        Ok(self.prepare(&[]).await?.acceptor("acceptor"))
    }

    /// Reads what is to be read and gets what the primary has to give. `alpn` is what is spoken, unless the user says otherwise.
    pub(crate) async fn prepare(&self, alpn: &[&[u8]]) -> io::Result<Prepared> {
        let mut config = match &self.source {
            Source::Config(config) => ServerConfig::clone(config),
            Source::Pem { certificate, key } => {
                let (certificate, key) = (certificate.clone(), key.clone());
                // A disk that hangs must not keep this thread.
                let reading =
                    tokio::task::spawn_blocking(move || pem::config(ring::default_provider(), &certificate, &key));
                reading.await.map_err(io::Error::other)??
            }
        };
        if let Some(alpn) = &self.alpn {
            config.alpn_protocols.clone_from(alpn);
        } else if config.alpn_protocols.is_empty() {
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        }
        let keys = if self.ticket_lifetime.is_zero() {
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            None
        } else if config.ticketer.enabled() {
            None
        } else {
            Some(Process::current().obtain_ticket_keys(self.ticket_lifetime).await)
        };
        Ok(Prepared { tls: self.clone(), config, keys })
    }
}

impl From<ServerConfig> for Tls {
    fn from(config: ServerConfig) -> Self {
        Self::from(Arc::new(config))
    }
}

impl From<Arc<ServerConfig>> for Tls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::of(Source::Config(config))
    }
}

/// All that can fail has been done.
pub(crate) struct Prepared {
    tls: Tls,
    config: ServerConfig,
    keys: Option<tickets::Keys>,
}

impl Prepared {
    /// For the port of this name. Must be called inside the runtime.
    pub(crate) fn acceptor(self, port: &str) -> TlsAcceptor {
        let Self { tls, mut config, keys } = self;
        if let Some(keys) = keys {
            // No user's scope is a port's.
            let scope = tls.session_scope.map_or_else(|| format!("port {port}"), |scope| format!("scope {scope}"));
            config.ticketer = SharedTickets::follow(keys, tls.ticket_lifetime, scope);
        }
        TlsAcceptor::new(config, tls.handshake_timeout, tls.max_handshakes)
    }
}
