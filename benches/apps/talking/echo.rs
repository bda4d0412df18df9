//! The primary sends a number of messages to its worker, which sends each back; once all have come back, it begins anew. The second
//! argument says what is sent, the third how many at once. Texts go on a bare socket once more.

use cluster::{Event, Message, Primary, Worker};

use super::stopwatch::Stopwatch;
use super::{argument, bare, online, take_all};

#[derive(Clone, Message)]
pub(super) enum Talk {
    Text(String),
    Object {
        action: String,
        level: u32,
    },
    /// From now on the worker answers on the bare socket.
    Bare,
}

const TEXT: &str = "twelve chars";

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    while let Some(message) = worker.recv().await {
        if let Talk::Bare = message {
            bare::answer(&mut bare::connect().await?, TEXT.len() * at_once()).await?;
        } else {
            worker.send(message).await?;
        }
    }
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    let message = match argument(2).as_str() {
        "string" => Talk::Text(TEXT.into()),
        "object" => Talk::Object { action: "increment".into(), level: 9000 },
        other => panic!("there is no payload {other:?}"),
    };
    let worker = online(&mut primary).await;
    let at_once = at_once();
    let mut stopwatch = Stopwatch::new("echo", at_once as u64);
    'rounds: loop {
        for _ in 0..at_once {
            primary.send(worker, message.clone()).await?;
        }
        for _ in 0..at_once {
            take(&mut primary).await;
            if !stopwatch.lap() {
                break 'rounds;
            }
        }
    }
    if let Talk::Text(_) = message {
        primary.send(worker, Talk::Bare).await?;
        bare::ask(&mut bare::accept().await?, TEXT.len(), at_once).await?;
    }
    take_all(&mut primary).await
}

fn at_once() -> usize {
    argument(3).parse().expect("the third argument is a number")
}

async fn take(primary: &mut Primary<Talk, Talk>) {
    while !matches!(primary.next().await, Some(Event::Message(..))) {}
}
