//! Plain TCP on a shared port: a server that says every line back, and goodbye when its worker ends. A client that is silent, takes
//! nothing or never ends its line is let go.
//!
//! `cargo run --release --example tcp`, then `nc 127.0.0.1 3000`, a few lines, and Ctrl-C in the first terminal. `ADDR` sets
//! another address.

use std::io;
use std::time::Duration;

use cluster::Stream;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio_util::task::TaskTracker;

/// How long a client may neither send nor take anything.
const PATIENCE: Duration = Duration::from_secs(75);
/// A line that is longer is no line, and would fill the memory.
const LONGEST_LINE: u64 = 64 << 10;

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = cluster::listen(address).await?;
    let clients = TaskTracker::new();
    // It fails when the worker drains, after the last connection that waited.
    while let Ok((mut stream, peer)) = listener.accept().await {
        stream.set_timeout(PATIENCE);
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
            read = read_line(&mut stream, &mut line) => match read? {
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

/// What was read before it was cancelled stays in `line`.
async fn read_line(stream: &mut BufStream<Stream>, line: &mut Vec<u8>) -> io::Result<usize> {
    let room = LONGEST_LINE - line.len() as u64;
    stream.take(room).read_until(b'\n', line).await?;
    match line.len() as u64 {
        LONGEST_LINE if !line.ends_with(b"\n") => Err(io::Error::new(io::ErrorKind::InvalidData, "too long a line")),
        length => Ok(length as usize),
    }
}
