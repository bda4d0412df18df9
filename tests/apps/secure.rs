//! A fixture: a service behind TLS. `CERT` and `KEY` name its files, `ADDR` where it listens. The rest of the environment says what is
//! other than usual: see `work` and `tls`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Extension, Router};
use cluster::rustls::crypto::ring;
use cluster::rustls::pki_types::pem::PemObject as _;
use cluster::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use cluster::rustls::server::WebPkiClientVerifier;
use cluster::rustls::{RootCertStore, ServerConfig};
use cluster::{Address, Config, Http, HttpClosed, Port, Setup, Tls, TlsClosed, TlsInfo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

fn main() -> cluster::Result {
    let mut config = Config::new().workers(2);
    if let Some(user) = variable("DROP_TO") {
        config = config.setup(Setup::new().user(user));
    }
    cluster::run(config, work)
}

async fn work() -> cluster::Result {
    let address = variable("ADDR").unwrap_or_else(|| "127.0.0.1:0".into());
    match variable("SERVER").as_deref() {
        Some("listen") => cluster::listen(Port::at(address).tls(tls())).await.map(drop)?,
        Some("udp") => cluster::udp(Port::at(address).tls(tls())).await.map(drop)?,
        Some("echo") => echo(address).await?,
        _ => http().serve(Port::at(address).tls(tls()), app()).await?,
    }
    Ok(())
}

fn tls() -> Tls {
    let (certificate, key) = (variable("CERT").unwrap(), variable("KEY").unwrap());
    let mut tls = match variable("LET_IN") {
        Some(path) => Tls::from(mutual(&certificate, &key, &path).unwrap()),
        None => Tls::from_pem(certificate, key),
    };
    if let Some(time) = time("HANDSHAKE_MS") {
        tls = tls.handshake_timeout(time);
    }
    if let Some(time) = time("LIFETIME_MS") {
        tls = tls.ticket_lifetime(time);
    }
    if let Some(most) = variable("MOST_HANDSHAKES") {
        tls = tls.max_handshakes(most.parse().unwrap());
    }
    // In a file, so that the workers of a reload may have another one.
    if let Some(path) = variable("SCOPE_FILE") {
        tls = tls.session_scope(std::fs::read_to_string(path).unwrap());
    }
    tls
}

/// A server that lets the client in whose certificate is there.
fn mutual(certificate: &str, key: &str, client: &str) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(client)?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let (certificate, key) = (CertificateDer::from_pem_file(certificate)?, PrivateKeyDer::from_pem_file(key)?);
    Ok(config.with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key)?)
}

fn http() -> Http {
    let mut http = Http::new();
    if let Some(time) = time("LIMITS_MS") {
        http = http.header_timeout(time).idle_timeout(time).body_timeout(time).write_timeout(time);
    }
    http
}

fn app() -> Router {
    Router::new()
        .route("/", get(hello))
        .route("/slow/{ms}", get(slow))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/much", get(async || Body::from(vec![b'x'; 64 << 20])))
        .route("/closed", get(closed))
}

async fn hello(client: Address, Extension(tls): Extension<TlsInfo>) -> String {
    let (worker, process) = (cluster::worker().id(), std::process::id());
    let alpn = tls.alpn().map(String::from_utf8_lossy);
    let (name, version, is_resumed) = (tls.server_name(), tls.version(), tls.is_resumed());
    let shown = tls.peer_certificates().len();
    format!(
        "hello {client} from worker {worker} (pid {process}): {alpn:?} {name:?} {version:?} certificates={shown} \
         resumed={is_resumed}"
    )
}

async fn slow(Path(ms): Path<u64>) -> String {
    println!("slow request begins");
    sleep(Duration::from_millis(ms)).await;
    format!("slept {ms}")
}

/// How often connections were ended, by reason.
async fn closed() -> String {
    let tls = TlsClosed::ALL.iter().map(|why| why.counter());
    let http = HttpClosed::ALL.iter().map(|why| why.counter());
    tls.chain(http).map(|counter| format!("{} {}\n", counter.name(), counter.total())).collect()
}

/// A protocol of its own over TLS: every byte comes back, until the client or the worker ends.
async fn echo(address: String) -> cluster::Result {
    let tls = tls().alpn(["echo"]).acceptor().await?;
    let listener = cluster::listen(address).await?;
    let mut clients = tokio::task::JoinSet::new();
    while let Ok((stream, _client)) = listener.accept().await {
        let tls = tls.clone();
        clients.spawn(async move {
            let mut stream = tls.accept(stream).await?;
            let mut shutdown = std::pin::pin!(cluster::worker().shutdown());
            let mut buffer = [0; 1024];
            loop {
                tokio::select! {
                    read = stream.read(&mut buffer) => match read? {
                        0 => break,
                        length => stream.write_all(&buffer[..length]).await?,
                    },
                    () = &mut shutdown => break,
                }
            }
            stream.shutdown().await
        });
    }
    while clients.join_next().await.is_some() {}
    Ok(())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn time(name: &str) -> Option<Duration> {
    Some(Duration::from_millis(variable(name)?.parse().unwrap()))
}
