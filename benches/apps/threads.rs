//! The peer to beat: the same app as `examples/hello.rs` on tokio's threads, as one writes it without this library.

use axum::{Router, routing::get};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new().route("/", get(hello));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, app).await
}

async fn hello() -> String {
    format!("hello from worker {} (pid {})\n", 1, std::process::id())
}
