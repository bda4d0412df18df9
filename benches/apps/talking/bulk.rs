//! Messages of a megabyte from the worker to the primary function; and the same on a bare socket, by plain blocking writes and reads.

use std::io::{Read as _, Write as _};

use cluster::{Event, Message, Primary, Worker};

use super::stopwatch::Stopwatch;
use super::{bare, take_all};

#[derive(Message)]
pub(super) enum Bulk {
    Chunk(Vec<u8>),
}

const SIZE: usize = 1 << 20;

pub(super) async fn worker(worker: Worker<Bulk>) -> cluster::Result {
    worker.ready();
    let flooder = worker.clone();
    tokio::spawn(async move {
        let chunk = vec![7; SIZE];
        while flooder.send(Bulk::Chunk(chunk.clone())).await.is_ok() {}
    });
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Bulk>) -> cluster::Result {
    let mut stopwatch = Stopwatch::new("bulk", 1);
    while let Some(event) = primary.next().await {
        if let Event::Message(_, Bulk::Chunk(chunk)) = event {
            assert_eq!((chunk.len(), chunk.last()), (SIZE, Some(&7)));
            if !stopwatch.lap() {
                break;
            }
        }
    }
    take_all(&mut primary).await
}

pub(super) async fn bare_worker(worker: Worker) -> cluster::Result {
    worker.ready();
    let mut stream = bare::connect().await?.into_std()?;
    stream.set_nonblocking(false)?;
    let chunk = vec![7; SIZE];
    // Until the other end has had enough and closes.
    while stream.write_all(&chunk).is_ok() {}
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn bare_primary(mut primary: Primary) -> cluster::Result {
    let mut stream = bare::accept().await?.into_std()?;
    stream.set_nonblocking(false)?;
    let mut stopwatch = Stopwatch::new("bulk", 1);
    let mut chunk = vec![0; SIZE];
    loop {
        stream.read_exact(&mut chunk)?;
        assert_eq!(chunk.last(), Some(&7));
        if !stopwatch.lap() {
            break;
        }
    }
    drop(stream);
    take_all(&mut primary).await
}
