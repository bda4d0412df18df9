//! Connections that change hands: chat rooms, each in the memory of one worker. Whichever worker accepts a client reads the name of
//! its room, and hands the connection to the worker where that room is.
//!
//! `cargo run --release --example handover`, then `nc 127.0.0.1 3000` in several terminals: the first line names the room, all others
//! are shown to everybody in it. `ADDR` sets another address.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::TcpStream;

use cluster::{Fd, Message, NoMessages, Stream, Worker};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::task::TaskTracker;

#[derive(Message)]
enum ToWorker {
    Join { room: String, client: Fd<TcpStream> },
}

/// As many as there are workers.
const SLOTS: usize = 4;

#[cluster::main(workers = 4)]
async fn main(worker: Worker<NoMessages, ToWorker>) -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = cluster::listen(address).await?;
    let clients = TaskTracker::new();
    tokio::spawn(host(worker.clone(), clients.clone()));
    while let Ok((stream, peer)) = listener.accept().await {
        let worker = worker.clone();
        clients.spawn(async move {
            if let Err(error) = show_in(&worker, stream).await {
                println!("{peer}: {error}");
            }
        });
    }
    // A connection that came in a message is this program's own: the drain does not know of it.
    clients.close();
    clients.wait().await;
    Ok(())
}

/// Reads the name of the room, and no byte more: what follows is for whoever gets the connection.
async fn show_in(worker: &Worker<NoMessages, ToWorker>, mut stream: Stream) -> cluster::Result {
    let mut room = String::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            _ if room.len() > 100 => return Err("the name of the room is too long".into()),
            byte => room.push(byte.into()),
        }
    }
    let mut hasher = DefaultHasher::new();
    room.hash(&mut hasher);
    // A worker's own slot is a slot like any other.
    let slot = hasher.finish() as usize % SLOTS;
    let client = Fd::new(stream.into_fd()?.into());
    Ok(worker.peer(slot).send(ToWorker::Join { room, client }).await?)
}

/// Takes the clients in whose rooms are here.
async fn host(worker: Worker<NoMessages, ToWorker>, clients: TaskTracker) {
    let mut rooms = HashMap::new();
    while let Some(ToWorker::Join { room, client }) = worker.recv().await {
        let lines = rooms.entry(room).or_insert_with(|| broadcast::Sender::new(100)).clone();
        clients.spawn(async move {
            if let Err(error) = chat(client, lines).await {
                println!("a client left: {error}");
            }
        });
    }
}

async fn chat(client: Fd<TcpStream>, lines: broadcast::Sender<String>) -> io::Result<()> {
    let (reader, mut writer) = tokio::net::TcpStream::from_std(client.into_inner()?)?.into_split();
    let mut shown = lines.subscribe();
    writer.write_all(format!("hosted by worker {}\n", cluster::worker().id()).as_bytes()).await?;
    let mut said = BufReader::new(reader).lines();
    let mut shutdown = Box::pin(cluster::worker().shutdown());
    loop {
        tokio::select! {
            line = said.next_line() => match line? {
                // Who says it hears it, too.
                Some(line) => _ = lines.send(line + "\n"),
                None => return Ok(()),
            },
            line = shown.recv() => match line {
                Ok(line) => writer.write_all(line.as_bytes()).await?,
                Err(RecvError::Lagged(missed)) => writer.write_all(format!("({missed} lines missed)\n").as_bytes()).await?,
                Err(RecvError::Closed) => return Ok(()),
            },
            () = &mut shutdown => return writer.write_all(b"goodbye\n").await,
        }
    }
}
