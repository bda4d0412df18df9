//! gRPC with tonic: the health service that load balancers and Kubernetes ask, which hears first that a worker leaves.
//!
//! `cargo run --release --example grpc`, then `grpcurl -plaintext -proto health.proto 127.0.0.1:3000 grpc.health.v1.Health/Watch`
//! with [health.proto](https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto), and Ctrl-C in the first
//! terminal. `ADDR` sets another address.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::server::{HealthReporter, health_reporter};

/// After so long without a frame a client is asked whether it is there, and has as long to answer.
const ASK: Duration = Duration::from_secs(20);
/// How long nothing may come or go at all: who does not finish its handshake, or takes nothing, is let go.
const PATIENCE: Duration = Duration::from_secs(75);
/// A client that stays for ever is told to come anew, and what it has left open is cut some time later.
const LONGEST: Duration = Duration::from_secs(3600);

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = cluster::listen(address).await?;
    let (reporter, health) = health_reporter();
    tokio::spawn(end_watches(reporter));
    // Services of your own come beside it, by `add_service`. The signal is the end of the connections, and not `shutdown()`, so
    // that those which still wait when the cluster stops are served. Either way tonic sends GOAWAY and finishes what runs.
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(ASK))
        .http2_keepalive_timeout(Some(ASK))
        .max_connection_age(LONGEST)
        .max_connection_age_grace(PATIENCE);
    let server = server.add_service(health);
    server.serve_with_incoming_shutdown(connections(listener), pending()).await.map_err(cluster::Error::other)
}

/// A call that streams for as long as its client likes must be ended when the worker is to end, or it will be cut.
async fn end_watches(mut reporter: HealthReporter) {
    cluster::worker().shutdown().await;
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    reporter.clear_service_status("").await;
}

/// Ends when the worker drains, after the last connection that waited.
fn connections(listener: cluster::Listener) -> impl Stream<Item = io::Result<Connection>> {
    unfold(listener, async |listener| {
        let (mut stream, client) = listener.accept().await.ok()?;
        stream.set_timeout(PATIENCE);
        Some((Ok(Connection { stream, client }), listener))
    })
}

/// A stream that tells tonic whose it is. Handlers find the address in their request's extensions.
struct Connection {
    stream: cluster::Stream,
    client: cluster::Address,
}

impl Connected for Connection {
    type ConnectInfo = cluster::Address;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.client.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
