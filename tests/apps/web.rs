//! A fixture: an HTTP service whose routes do what goes wrong in real ones. `ADDR` says where it listens.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, State};
use axum::routing::{get, post};
use cluster::{Event, Message, Primary, Reply, Worker};
use tokio::time::sleep;

#[derive(Debug, Message)]
enum ToPrimary {
    Hit,
    Total(Reply<u64>),
}

#[cluster::main(workers = 2, primary = watch)]
async fn main(worker: Worker<ToPrimary>) -> cluster::Result {
    let app = Router::new()
        .route("/who", get(who))
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/hit", get(hit))
        .route("/total", get(total))
        .route("/slow/{ms}", get(slow))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/endless", get(endless))
        .route("/events/together", get(|worker| events(worker, false)))
        .route("/events/spread", get(|worker| events(worker, true)))
        .route("/health", get(|State(worker): State<Worker<ToPrimary>>| async move { worker.is_healthy().to_string() }))
        .route("/health/at-drain", get(health_at_drain))
        .route("/spin", get(spin))
        .route("/abort", get(abort))
        .route("/overflow", get(overflow))
        .route("/panic", get(panics))
        .route("/exit/{code}", get(exits))
        .route("/disconnect", get(disconnect))
        .with_state(worker);
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    cluster::serve(address, app).await
}

/// Prints what happens, so that a test can wait for it.
async fn watch(mut primary: Primary<ToPrimary>) {
    let mut total = 0;
    while let Some(event) = primary.next().await {
        match event {
            Event::Message(_, ToPrimary::Hit) => total += 1,
            Event::Message(_, ToPrimary::Total(reply)) => reply.send(total),
            event => println!("{event:?}"),
        }
    }
    println!("the primary function returns");
}

async fn who(State(worker): State<Worker<ToPrimary>>) -> String {
    format!("{} {} {} {}", worker.id(), worker.slot(), worker.generation(), std::process::id())
}

async fn hit(State(worker): State<Worker<ToPrimary>>) -> String {
    worker.send(ToPrimary::Hit).await.expect("the primary lives");
    worker.id().to_string()
}

async fn total(State(worker): State<Worker<ToPrimary>>) -> String {
    worker.call(ToPrimary::Total).await.expect("the primary lives").to_string()
}

async fn slow(Path(ms): Path<u64>) -> String {
    println!("slow request begins");
    sleep(Duration::from_millis(ms)).await;
    format!("slept {ms}")
}

/// A body that never ends, one chunk at a time.
async fn endless() -> Body {
    let (mut writer, reader) = tokio::io::duplex(64);
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while writer.write_all(b"more").await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    Body::from_stream(tokio_util::io::ReaderStream::new(reader))
}

/// Server-sent events, until the worker drains or it is this connection's turn.
async fn events(State(worker): State<Worker<ToPrimary>>, spread: bool) -> Body {
    let (mut writer, reader) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        _ = writer.write_all(b"data: hello\n\n").await;
        if spread {
            worker.shutdown_spread().await;
        } else {
            worker.shutdown().await;
        }
        _ = writer.write_all(b"data: goodbye\n\n").await;
    });
    Body::from_stream(tokio_util::io::ReaderStream::new(reader))
}

/// Answers when the drain begins.
async fn health_at_drain(State(worker): State<Worker<ToPrimary>>) -> String {
    println!("waits for the drain");
    worker.shutdown().await;
    worker.is_healthy().to_string()
}

#[expect(clippy::infinite_loop, reason = "it is meant to keep the worker busy for ever")]
async fn spin() {
    println!("spinning");
    loop {
        std::hint::spin_loop();
    }
}

async fn abort() {
    std::process::abort();
}

async fn overflow() -> String {
    fn deeper(depth: u64) -> u64 {
        let here = std::hint::black_box([depth; 1024]);
        if depth == u64::MAX { 0 } else { deeper(depth + 1) + here[0] }
    }
    deeper(0).to_string()
}

async fn panics() {
    panic!("in a handler");
}

async fn exits(Path(code): Path<i32>) {
    std::process::exit(code);
}

async fn disconnect(State(worker): State<Worker<ToPrimary>>) -> String {
    worker.disconnect();
    worker.id().to_string()
}
