//! TLS in front of an axum app: sessions that all workers share, and a certificate that a reload renews.
//!
//! A certificate for a trial: `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost
//! -keyout key.pem -out cert.pem`. Then `cargo run --release --example tls`, and `curl --insecure https://127.0.0.1:3000/`. Write new files
//! and send HUP to the primary: new clients see the new certificate, and no request fails.
//!
//! `ADDR` sets another address, `CERT` and `KEY` other files.

use axum::{Extension, Router, routing::get};
use cluster::{Address, Port, Tls, TlsInfo};

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let app = Router::new().route("/", get(hello).post(async |text: String| text));
    let tls = Tls::from_pem(variable("CERT", "cert.pem"), variable("KEY", "key.pem"));
    cluster::serve(Port::at(variable("ADDR", "127.0.0.1:3000")).tls(tls), app).await
}

async fn hello(client: Address, Extension(tls): Extension<TlsInfo>) -> String {
    let (worker, process) = (cluster::worker().id(), std::process::id());
    let how = if tls.is_resumed() { "resumed" } else { "new" };
    format!("hello {client} from worker {worker} (pid {process}), by a session that is {how}\n")
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}
