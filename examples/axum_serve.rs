//! An axum app under axum's own server: for what `cluster::serve` has no word for, such as a `tap_io` on the listener. axum has no
//! time limits, so the connections get one; `cluster::serve` has better ones, which tell a slow client from a slow handler.
//!
//! `cargo run --release --example axum_serve`, then `curl http://127.0.0.1:3000/` and
//! `curl --data 'be heard' http://127.0.0.1:3000/shout`. `ADDR` sets another address.

use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use cluster::Address;

/// How long nothing may come or go, whatever the reason: longer than any handler takes.
const PATIENCE: Duration = Duration::from_secs(75);

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let app = Router::new().route("/", get(hello)).route("/shout", post(shout));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = cluster::listen(address).await?.tap_io(|stream| {
        // Small answers need not wait for the client's acknowledgement. A socket that refuses is already dead.
        _ = stream.tcp().map(|tcp| tcp.set_nodelay(true));
        // A client that is silent, sends half a request or takes nothing of an answer is let go.
        stream.set_timeout(PATIENCE);
    });
    let app = app.into_make_service_with_connect_info::<Address>();
    axum::serve(listener, app).with_graceful_shutdown(cluster::worker().shutdown()).await?;
    Ok(())
}

async fn hello(ConnectInfo(client): ConnectInfo<Address>) -> String {
    format!("hello {client} from worker {} (pid {})\n", cluster::worker().id(), std::process::id())
}

async fn shout(text: String) -> String {
    text.to_uppercase()
}
