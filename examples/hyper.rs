//! hyper without a framework: HTTP/1 with settings of one's own, limits for slow clients, and a drain that finishes what runs.
//!
//! `cargo run --release --example hyper`, then `curl http://127.0.0.1:3000/` and `curl --data hi http://127.0.0.1:3000/`.
//! `ADDR` sets another address.

use std::time::Duration;

use cluster::Address;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::time::timeout;

/// How long a client may take for a head, idling before it included, and for a body.
const HEAD: Duration = Duration::from_secs(60);
const BODY: Duration = Duration::from_secs(120);
/// How long nothing may come or go at all, as when the client takes nothing of its answer.
const PATIENCE: Duration = Duration::from_secs(75);
/// More is not kept in memory.
const LONGEST_BODY: usize = 2 << 20;

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = cluster::listen(address).await?;
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 << 10);
    let connections = GracefulShutdown::new();
    // It fails when the worker drains, after the last connection that waited.
    while let Ok((mut stream, client)) = listener.accept().await {
        stream.set_timeout(PATIENCE);
        let service = service_fn({
            let client = client.clone();
            move |request| answer(client.clone(), request)
        });
        let connection = connections.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                println!("{client}: {error}");
            }
        });
    }
    // Main must not return before: it takes the runtime, and with it every task, along.
    connections.shutdown().await;
    Ok(())
}

/// What is sent comes back; who sends nothing is greeted.
async fn answer(client: Address, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let body = match *request.method() {
        Method::POST => match timeout(BODY, Limited::new(request.into_body(), LONGEST_BODY).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_too_long_or_gone)) => return Ok(refuse(StatusCode::PAYLOAD_TOO_LARGE)),
            Err(_too_slow) => return Ok(refuse(StatusCode::REQUEST_TIMEOUT)),
        },
        _ => format!("hello {client} from worker {} (pid {})\n", cluster::worker().id(), std::process::id()).into(),
    };
    Ok(Response::new(Full::new(body)))
}

fn refuse(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
