//! Plain TCP on a shared port: a server that says every line back, and goodbye when its worker ends.
//!
//! `cargo run --release --example tcp`, then `nc 127.0.0.1 3000`, a few lines, and Ctrl-C in the first terminal. `ADDR` sets
//! another address.

use std::io;

use cluster::Stream;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio_util::task::TaskTracker;

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = cluster::listen(address).await?;
    let clients = TaskTracker::new();
    // It fails when the worker drains, after the last connection that waited.
    while let Ok((stream, peer)) = listener.accept().await {
        clients.spawn(async move {
            if let Err(error) = echo(stream).await {
                println!("{peer}: {error}");
            }
        });
    }
    // What `main` leaves running is cut when it returns.
    clients.close();
    clients.wait().await;
    Ok(())
}

async fn echo(stream: Stream) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    stream.write_all(format!("hello from worker {}\n", cluster::worker().id()).as_bytes()).await?;
    let mut shutdown = Box::pin(cluster::worker().shutdown());
    let mut line = Vec::new();
    loop {
        stream.flush().await?;
        tokio::select! {
            // First, so that a line that has come is answered before the goodbye.
            biased;
            read = stream.read_until(b'\n', &mut line) => match read? {
                0 => return Ok(()),
                _ => {
                    stream.write_all(&line).await?;
                    line.clear();
                }
            },
            () = &mut shutdown => {
                stream.write_all(b"goodbye\n").await?;
                return stream.shutdown().await;
            }
        }
    }
}
