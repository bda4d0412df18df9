//! The peer to beat: the same app on tokio's threads, as one writes it without this library. `TOKIO_WORKER_THREADS` is tokio's own.

mod report;

use std::{env, io, process};

use axum::{Router, routing::get};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> io::Result<()> {
    let app =
        Router::new().route("/", get(hello)).route("/who", get(who)).route("/generate-report", get(report::generate));
    let listener = TcpListener::bind(env::var("ADDR").expect("ADDR is set")).await?;
    axum::serve(listener, app).await
}

async fn hello() -> String {
    format!("hello from pid {}\n", process::id())
}

async fn who() -> String {
    process::id().to_string()
}
