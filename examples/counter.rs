//! Node's counting example grown up, in two ways: each worker tells the primary of every request, and the primary knows the total;
//! or all add to one counter, which needs no message.
//!
//! `cargo run --release --example counter`, then `curl http://127.0.0.1:3000/` a few times and
//! `curl http://127.0.0.1:3000/total` or `/counter`. `ADDR` sets another address.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Router, routing::get};
use cluster::{Event, Message, Primary, Reply, Worker};

/// The way without messages.
static HITS: cluster::Counter = cluster::counter!("hits", "requests served");

/// The way with messages: what a worker says to the primary.
#[derive(Message)]
enum ToPrimary {
    Hit,
    /// A request, because of the reply in it.
    Total(Reply<u64>),
}

#[cluster::main(workers = "auto", primary = count)]
async fn main(worker: Worker<ToPrimary>) -> cluster::Result {
    let app = Router::new()
        .route("/", get(hello))
        .route("/total", get(total))
        .route("/counter", get(async || HITS.total().to_string()))
        .with_state(worker);
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    cluster::serve(address, app).await
}

async fn hello(State(worker): State<Worker<ToPrimary>>) -> Result<String, StatusCode> {
    HITS.add(1);
    worker.send(ToPrimary::Hit).await.map_err(|_gone| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(format!("hello from worker {} (pid {})\n", worker.id(), std::process::id()))
}

async fn total(State(worker): State<Worker<ToPrimary>>) -> Result<String, StatusCode> {
    let total = worker.call(ToPrimary::Total).await.map_err(|_gone| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(total.to_string())
}

/// Runs in the primary.
async fn count(mut primary: Primary<ToPrimary>) -> cluster::Result {
    // After an upgrade of the primary it goes on from where it was.
    let mut total = primary.carried()?.unwrap_or_default();
    let mut printed = total;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            event = primary.next() => match event {
                Some(Event::Message(_, ToPrimary::Hit)) => total += 1,
                Some(Event::Message(_, ToPrimary::Total(reply))) => reply.send(total),
                Some(Event::Upgrading) => primary.carry(&total)?,
                Some(_) => {}
                None => break,
            },
            _ = second.tick(), if total != printed => {
                println!("{total} requests");
                printed = total;
            }
        }
    }
    println!("{total} requests in all");
    Ok(())
}
