//! Questions of the worker to the primary function: one at a time beside a bare socket, and many at once.

use std::sync::{Arc, Mutex, PoisonError};

use cluster::{Event, Message, Primary, Reply, Worker};

use super::stopwatch::Stopwatch;
use super::{bare, take_all};

#[derive(Message)]
pub(super) enum Question {
    Double {
        a: u64,
        reply: Reply<u64>,
    },
    /// From now on the primary function answers on the bare socket.
    Bare,
}

/// Of the question, and of what answers it.
const BARE_SIZE: usize = 16;
/// Questions of a worker that does not wait for one answer before it asks on.
const AT_ONCE: usize = 64;

pub(super) async fn worker(worker: Worker<Question>) -> cluster::Result {
    worker.ready();
    let mut stopwatch = Stopwatch::new("call", 16);
    while stopwatch.lap() {
        ask(&worker).await?;
    }
    worker.send(Question::Bare).await?;
    let mut stream = bare::connect().await?;
    bare::ask(&mut stream, BARE_SIZE, 1).await?;
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn pipelining_worker(worker: Worker<Question>) -> cluster::Result {
    worker.ready();
    let stopwatch = Arc::new(Mutex::new(Stopwatch::new("pipelined", 64)));
    for _ in 0..AT_ONCE {
        tokio::spawn(ask_on(worker.clone(), Arc::clone(&stopwatch)));
    }
    worker.shutdown().await;
    Ok(())
}

async fn ask_on(worker: Worker<Question>, stopwatch: Arc<Mutex<Stopwatch>>) -> cluster::Result {
    while stopwatch.lock().unwrap_or_else(PoisonError::into_inner).lap() {
        ask(&worker).await?;
    }
    Ok(())
}

async fn ask(worker: &Worker<Question>) -> cluster::Result {
    let doubled = worker.call(|reply| Question::Double { a: 21, reply }).await?;
    assert_eq!(doubled, 42);
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Question>) -> cluster::Result {
    while let Some(event) = primary.next().await {
        match event {
            Event::Message(_, Question::Double { a, reply }) => reply.send(2 * a),
            Event::Message(_, Question::Bare) => {
                let mut stream = bare::accept().await?;
                bare::answer(&mut stream, BARE_SIZE).await?;
                break;
            }
            _ => {}
        }
    }
    take_all(&mut primary).await
}
