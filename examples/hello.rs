//! The README's ten lines: an axum app on one worker per core.
//!
//! `cargo run --release --example hello`, then `curl http://127.0.0.1:3000/` a few times. `ADDR` sets another address.

use axum::{Router, routing::get};

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let app = Router::new().route("/", get(hello));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    cluster::serve(address, app).await
}

async fn hello() -> String {
    format!("hello from worker {} (pid {})\n", cluster::worker().id(), std::process::id())
}
