//! A service that is reloaded, upgraded, scaled and killed while it serves, on TCP (`ADDR`) and on a Unix socket (`SOCKET`). Every
//! answer says who gives it. `START_DELAY` is how many milliseconds a worker takes before it serves.

use std::time::Duration;
use std::{env, process};

use axum::body::Bytes;
use axum::http::HeaderName;
use axum::routing::{get, post};
use axum::{Router, response::IntoResponse};

const WORKER: HeaderName = HeaderName::from_static("x-worker");

#[cluster::main]
async fn main() -> cluster::Result {
    let delay = variable("START_DELAY").parse().expect("START_DELAY is a number of milliseconds");
    tokio::time::sleep(Duration::from_millis(delay)).await;
    let app = Router::new().route("/", get(hello)).route("/echo", post(echo));
    let tcp = cluster::serve(variable("ADDR"), app.clone());
    let unix = cluster::serve(format!("unix:{}", variable("SOCKET")), app);
    tokio::try_join!(tcp, unix).map(|_| ())
}

async fn hello() -> impl IntoResponse {
    ([(WORKER, who())], format!("hello from {}\n", who()))
}

async fn echo(body: Bytes) -> impl IntoResponse {
    ([(WORKER, who())], body)
}

/// Slot, pid and generation.
fn who() -> String {
    let worker = cluster::worker();
    format!("{} {} {}", worker.slot(), process::id(), worker.generation())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is set"))
}
