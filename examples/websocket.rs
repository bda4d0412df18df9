//! WebSockets that are told when their worker leaves: a close frame (1001, going away), upon which clients connect to another.
//!
//! `cargo run --release --example websocket`, then `npx wscat --connect ws://127.0.0.1:3000`, a few lines, and Ctrl-C in the
//! first terminal. `ADDR` sets another address; with `CLUSTER_DRAIN_SPREAD=5s` not all clients are told at one moment.

use std::time::Duration;

use cluster::Stream;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tokio_websockets::{CloseCode, Error, Message, ServerBuilder, WebSocketStream};

/// How long a client may take to ask for a WebSocket, and to take its leave: one that is gone without a word does neither.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a silent client is asked whether it is there, and how long nothing at all may come or go.
const ASK: Duration = Duration::from_secs(25);
const SILENCE: Duration = Duration::from_secs(75);

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = cluster::listen(address).await?;
    let clients = TaskTracker::new();
    // It fails when the worker drains, after the last connection that waited.
    while let Ok((mut stream, peer)) = listener.accept().await {
        stream.set_timeout(SILENCE);
        clients.spawn(async move {
            if let Err(error) = serve(stream).await {
                println!("{peer}: {error}");
            }
        });
    }
    // What `main` leaves running is cut when it returns.
    clients.close();
    clients.wait().await;
    Ok(())
}

async fn serve(stream: Stream) -> Result<(), Error> {
    let Ok(accepted) = timeout(PATIENCE, ServerBuilder::new().accept(stream)).await else { return Ok(()) };
    let (_request, mut socket) = accepted?;
    socket.send(Message::text(format!("hello from worker {}", cluster::worker().id()))).await?;
    let mut shutdown = Box::pin(cluster::worker().shutdown_spread());
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            // First, so that a message that has come is answered before the goodbye.
            biased;
            message = timeout(ASK, socket.next()) => match message {
                Ok(Some(message)) => {
                    heard = Instant::now();
                    let message = message?;
                    if message.is_text() || message.is_binary() {
                        socket.send(message).await?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(_silent) if heard.elapsed() > SILENCE => return Ok(()),
                // Its PONG is a message, too.
                Err(_silent) => socket.send(Message::ping("")).await?,
            },
            () = &mut shutdown => return goodbye(socket).await,
        }
    }
}

/// The connection is closed when the client has said goodbye, too; else its answer would meet a closed port and be reset.
async fn goodbye(mut socket: WebSocketStream<Stream>) -> Result<(), Error> {
    socket.send(Message::close(Some(CloseCode::GOING_AWAY), "this worker leaves")).await?;
    let farewell = async { while let Some(Ok(_)) = socket.next().await {} };
    _ = timeout(PATIENCE, farewell).await;
    Ok(())
}
