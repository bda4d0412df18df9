//! The README's ten lines, an axum app on one worker per core, and a health check for whatever stands in front (see `deploy/`).
//!
//! `cargo run --release --example hello`, then `curl http://127.0.0.1:3000/` a few times. `ADDR` sets another address.

use axum::http::StatusCode;
use axum::{Router, routing::get};

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let app = Router::new().route("/", get(hello)).route("/healthz", get(healthz));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    cluster::serve(address, app).await
}

async fn hello() -> String {
    format!("hello from worker {} (pid {})\n", cluster::worker().id(), std::process::id())
}

/// Whether new work should come here.
async fn healthz() -> StatusCode {
    if cluster::worker().is_healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
