//! Workers that send as much as they may to a primary function that never takes anything. The second argument is how many bytes a
//! message has. They begin when a line comes on stdin.

use std::io;
use std::time::Duration;

use cluster::{Message, Primary, Worker, WorkerState};

use super::{argument, stdin_closed};

pub(super) const WORKERS: usize = 8;

#[derive(Message)]
pub(super) enum Bytes {
    Some(Vec<u8>),
}

#[derive(Clone, Message)]
pub(super) enum Order {
    Begin,
}

pub(super) async fn worker(worker: Worker<Bytes, Order>) -> cluster::Result {
    worker.ready();
    let size = argument(2).parse().expect("the second argument is a number");
    if let Some(Order::Begin) = worker.recv().await {
        println!("begins");
        let flooder = worker.clone();
        tokio::spawn(async move { while flooder.send(Bytes::Some(vec![7; size])).await.is_ok() {} });
    }
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(primary: Primary<Bytes, Order>) -> cluster::Result {
    while primary.workers().iter().filter(|worker| worker.state == WorkerState::Ready).count() < WORKERS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("waiting");
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    primary.broadcast(Order::Begin).await?;
    stdin_closed().await?;
    Ok(())
}
