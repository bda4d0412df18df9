//! This library's side of the comparison. `CLUSTER_WORKERS` and `CLUSTER_DISPATCH` say how it runs, `ADDR` where it listens.

mod report;

use std::{env, process};

use axum::{Router, routing::get};

#[cluster::main]
async fn main() -> cluster::Result {
    let app =
        Router::new().route("/", get(hello)).route("/who", get(who)).route("/generate-report", get(report::generate));
    cluster::serve(env::var("ADDR").expect("ADDR is set"), app).await
}

async fn hello() -> String {
    format!("hello from pid {}\n", process::id())
}

async fn who() -> String {
    process::id().to_string()
}
