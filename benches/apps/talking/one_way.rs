//! Small messages in one direction, as fast as the receiver takes them.

use cluster::{Event, Message, NoMessages, Primary, Worker};

use super::stopwatch::Stopwatch;
use super::{online, take_all};

/// Sixteen bytes of fields, and what says which.
#[derive(Message)]
pub(super) enum Small {
    Hit { a: u64, b: u64 },
    Miss { a: u64 },
}

const STRIDE: u64 = 1024;

pub(super) async fn flooding_worker(worker: Worker<Small>) -> cluster::Result {
    worker.ready();
    let flooder = worker.clone();
    tokio::spawn(async move {
        let mut a = 0;
        while flooder.send(Small::Hit { a, b: 7 }).await.is_ok() {
            a += 1;
        }
    });
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn taking_primary(mut primary: Primary<Small>) -> cluster::Result {
    let mut stopwatch = Stopwatch::new("up", STRIDE);
    let mut sum = 0;
    while let Some(event) = primary.next().await {
        if let Event::Message(_, message) = event {
            sum = add(sum, &message);
            if !stopwatch.lap() {
                break;
            }
        }
    }
    std::hint::black_box(sum);
    take_all(&mut primary).await
}

pub(super) async fn flooding_primary(mut primary: Primary<NoMessages, Small>) -> cluster::Result {
    let id = online(&mut primary).await;
    let flooder = primary.handle();
    tokio::spawn(async move {
        let mut a = 0;
        while flooder.send(id, Small::Hit { a, b: 7 }).await.is_ok() {
            a += 1;
        }
    });
    take_all(&mut primary).await
}

pub(super) async fn taking_worker(worker: Worker<NoMessages, Small>) -> cluster::Result {
    worker.ready();
    let mut stopwatch = Stopwatch::new("down", STRIDE);
    let mut sum = 0;
    while let Some(message) = worker.recv().await {
        sum = add(sum, &message);
        if !stopwatch.lap() {
            break;
        }
    }
    std::hint::black_box(sum);
    tokio::select! {
        () = worker.shutdown() => {}
        () = async { while worker.recv().await.is_some() {} } => {}
    }
    Ok(())
}

/// As somebody does who uses what comes.
fn add(sum: u64, message: &Small) -> u64 {
    match message {
        Small::Hit { a, b } => sum.wrapping_add(a ^ b),
        Small::Miss { a } => sum.wrapping_sub(*a),
    }
}
