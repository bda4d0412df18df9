//! A fixture for the suites of others: says what it has understood of each request, and echoes WebSockets. With `SHORT`, a client has
//! that many seconds for whatever it does.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{Method, Uri};
use axum::response::Response;
use axum::routing::{any, get};
use cluster::Http;
use tokio::time::timeout;

/// How long a client may take to take its leave.
const PATIENCE: Duration = Duration::from_secs(5);

#[cluster::main(workers = 2)]
async fn main() -> cluster::Result {
    // One for all, as this is about what the connections take.
    let large = Bytes::from(vec![b'x'; 16 << 20]);
    let app =
        Router::new().route("/ws", any(upgrade)).route("/large", get(async move || large.clone())).fallback(understood);
    let http = match std::env::var("SHORT").ok().and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs) {
        Some(short) => Http::new().header_timeout(short).body_timeout(short).write_timeout(short),
        None => Http::new(),
    };
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    http.serve(address, app).await
}

/// Method, target and how long the body was, as they came to the application.
async fn understood(method: Method, uri: Uri, body: Bytes) -> String {
    format!("{method} {uri} {}\n", body.len())
}

async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(2 << 20).on_upgrade(echo)
}

async fn echo(mut socket: WebSocket) {
    let mut shutdown = Box::pin(cluster::worker().shutdown());
    loop {
        tokio::select! {
            biased;
            message = socket.recv() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                // It answers these by itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
                Some(Err(_)) | None => return,
            },
            () = &mut shutdown => return say_goodbye(socket).await,
        }
    }
}

/// The connection is closed when the client has said goodbye, too; else its answer would meet a closed port and be reset.
async fn say_goodbye(mut socket: WebSocket) {
    let frame = CloseFrame { code: close_code::AWAY, reason: "this worker leaves".into() };
    if socket.send(Message::Close(Some(frame))).await.is_ok() {
        let farewell = async { while let Some(Ok(_)) = socket.recv().await {} };
        _ = timeout(PATIENCE, farewell).await;
    }
}
