//! A route that keeps a core busy beside a light one: while one worker computes, the others answer.
//!
//! `cargo run --release --example report`, then `curl http://127.0.0.1:3000/generate-report` in one terminal and
//! `curl http://127.0.0.1:3000/` in another. `ADDR` sets another address.

use std::time::{Duration, Instant};

use axum::{Router, routing::get};

/// How long a report takes.
const EFFORT: Duration = Duration::from_millis(200);

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let app = Router::new().route("/", get(light)).route("/generate-report", get(generate_report));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    cluster::serve(address, app).await
}

async fn light() -> String {
    format!("hello from worker {} (pid {})\n", cluster::worker().id(), std::process::id())
}

/// Computes without a pause, as code that nobody made asynchronous does: this worker's other requests wait meanwhile.
async fn generate_report() -> String {
    let started = Instant::now();
    let primes = (2_u64..).take_while(|_| started.elapsed() < EFFORT).filter(|n| is_prime(*n)).count();
    format!("report by worker {}: the first {primes} primes\n", cluster::worker().id())
}

fn is_prime(number: u64) -> bool {
    (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}
