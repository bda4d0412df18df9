//! A service on `ADDR` whose workers tell the primary function of each request, or do not; nothing else is different. The second
//! argument says which.

use std::env;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use cluster::{Event, Message, Primary, Worker};

use super::argument;

#[derive(Message)]
pub(super) enum Count {
    Hit,
}

pub(super) async fn worker(worker: Worker<Count>) -> cluster::Result {
    let route = match argument(2).as_str() {
        "hello" => get(hello),
        "counter" => get(counter),
        other => panic!("there is no service {other:?}"),
    };
    let app = Router::new().route("/", route).with_state(worker);
    cluster::serve(env::var("ADDR").expect("ADDR is set"), app).await
}

async fn hello(State(worker): State<Worker<Count>>) -> Result<String, StatusCode> {
    Ok(text(&worker))
}

async fn counter(State(worker): State<Worker<Count>>) -> Result<String, StatusCode> {
    worker.send(Count::Hit).await.map_err(|_gone| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(text(&worker))
}

fn text(worker: &Worker<Count>) -> String {
    format!("hello from worker {}\n", worker.id())
}

pub(super) async fn primary(mut primary: Primary<Count>) -> cluster::Result {
    let mut hits = 0u64;
    while let Some(event) = primary.next().await {
        if let Event::Message(_, Count::Hit) = event {
            hits += 1;
        }
    }
    std::hint::black_box(hits);
    Ok(())
}
