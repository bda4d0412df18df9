//! TLS in front of an axum app, with session tickets that all workers share: who comes back to another worker resumes there.
//!
//! The primary makes the certificate and the ticket keys, and workers ask it for them. It rolls the keys every hour, or every
//! `ROLL` seconds; a ticket is good for at least that long, and for less than twice as long.
//!
//! `cargo run --release --example tls`, then `curl --insecure --http1.1 --header 'connection: close' 'https://127.0.0.1:3000/?[1-9]'`:
//! one full handshake and eight that resume it. `ADDR` sets another address.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router, routing::get};
use cluster::{Address, Event, Message, Primary, Reply, Stream, Worker};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, interval_at, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::server::ProducesTickets;
use tokio_rustls::rustls::{HandshakeKind, ServerConfig};

#[derive(Message)]
enum ToPrimary {
    Identity(Reply<Identity>),
    TicketKeys(Reply<TicketKeys>),
}

#[derive(Message)]
enum ToWorker {
    /// There are new ticket keys to ask for.
    Rolled,
}

/// What clients know this server by: a certificate and its key.
#[derive(Clone, Serialize, Deserialize)]
struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct TicketKeys {
    /// Seals new tickets.
    current: [u8; 32],
    /// Still opens old ones.
    previous: [u8; 32],
}

#[cluster::main(workers = "auto", primary = keep_secrets)]
async fn main(worker: Worker<ToPrimary, ToWorker>) -> cluster::Result {
    let Identity { certificate, key } = worker.call(ToPrimary::Identity).await?;
    let tickets = Arc::new(SharedTickets::new(worker.call(ToPrimary::TicketKeys).await?));
    let config = ServerConfig::builder().with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(key).into();
    let mut config = config.with_single_cert(vec![certificate.into()], key).map_err(cluster::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Arc::clone(&tickets) as _;
    tokio::spawn(follow(worker, tickets));
    serve(TlsAcceptor::from(Arc::new(config))).await
}

async fn serve(tls: TlsAcceptor) -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = cluster::listen(address).await?;
    let app = Router::new().route("/", get(hello).post(echo));
    let connections = GracefulShutdown::new();
    // It fails when the worker drains, after the last connection that waited.
    while let Ok((stream, client)) = listener.accept().await {
        // The handshake too is the task's: nobody waits for a client that dawdles.
        tokio::spawn(serve_one(tls.clone(), stream, client, app.clone(), connections.watcher()));
    }
    connections.shutdown().await;
    Ok(())
}

async fn serve_one(tls: TlsAcceptor, stream: Stream, client: Address, app: Router, watcher: Watcher) {
    let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await else { return };
    let handshake = stream.get_ref().1.handshake_kind().expect("the handshake is done");
    // Nobody else tells the handlers: hyper sees the inside of TLS only.
    let app = app.layer(Extension(ConnectInfo(client.clone()))).layer(Extension(handshake));
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    if let Err(error) = watcher.watch(connection).await {
        println!("{client}: {error}");
    }
}

async fn hello(ConnectInfo(client): ConnectInfo<Address>, Extension(handshake): Extension<HandshakeKind>) -> String {
    let (worker, process) = (cluster::worker().id(), std::process::id());
    format!("hello {client} from worker {worker} (pid {process}), by a handshake of kind {handshake:?}\n")
}

async fn echo(text: String) -> String {
    text
}

/// Takes over new ticket keys whenever there are any.
async fn follow(worker: Worker<ToPrimary, ToWorker>, tickets: Arc<SharedTickets>) {
    while let Some(ToWorker::Rolled) = worker.recv().await {
        // It fails when the primary is gone; then this worker is about to end.
        if let Ok(keys) = worker.call(ToPrimary::TicketKeys).await {
            tickets.replace(keys);
        }
    }
}

/// Runs in the primary.
async fn keep_secrets(mut primary: Primary<ToPrimary, ToWorker>) -> cluster::Result {
    // A server for the world loads these from files.
    let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()]);
    let made = made.map_err(cluster::Error::other)?;
    let identity = Identity { certificate: made.cert.der().to_vec(), key: made.signing_key.serialize_der() };
    let mut keys = TicketKeys { current: random(), previous: random() };
    let mut roll = interval_at(Instant::now() + lifetime(), lifetime());
    loop {
        tokio::select! {
            event = primary.next() => match event {
                Some(Event::Message(_, ToPrimary::Identity(reply))) => reply.send(identity.clone()),
                Some(Event::Message(_, ToPrimary::TicketKeys(reply))) => reply.send(keys),
                Some(_) => {}
                None => return Ok(()),
            },
            _ = roll.tick() => {
                keys = TicketKeys { current: random(), previous: keys.current };
                primary.broadcast(ToWorker::Rolled).await?;
            }
        }
    }
}

/// rustls's own ticketer makes its own keys, which no other worker has.
#[derive(Debug)]
struct SharedTickets {
    /// The current one first.
    keys: RwLock<[LessSafeKey; 2]>,
}

impl SharedTickets {
    fn new(keys: TicketKeys) -> Self {
        Self { keys: RwLock::new(prepare(keys)) }
    }

    fn replace(&self, keys: TicketKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = prepare(keys);
    }
}

/// A ticket is a nonce and what was sealed with it. The nonce is random, as workers that share a key share no counter; a key
/// that is rolled long before it has sealed 2³² tickets may take it.
impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        lifetime().as_secs().try_into().unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = random();
        let [current, _] = &*self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let mut sealed = plain.to_vec();
        current.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        let open = |key: &LessSafeKey| {
            let mut sealed = sealed.to_vec();
            let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed);
            plain.ok().map(|plain| plain.to_vec())
        };
        self.keys.read().unwrap_or_else(PoisonError::into_inner).iter().find_map(open)
    }
}

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The least time that a ticket is good for, and the time from one roll of the keys to the next.
fn lifetime() -> Duration {
    let seconds = std::env::var("ROLL").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60 * 60))
}

fn prepare(keys: TicketKeys) -> [LessSafeKey; 2] {
    let prepare = |key| UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key of this algorithm has 32 bytes");
    [&keys.current, &keys.previous].map(|key| LessSafeKey::new(prepare(key)))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel has random bytes");
    bytes
}
