//! Workers whose primary is killed in the middle of everything.

use std::future::pending;

use cluster::{Event, Primary, Worker};

use crate::talk::{Talk, bulk};
use crate::{say, tell};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let shutdown = worker.shutdown();
    let calling = async { say(&worker, format_args!("call: {:?}", worker.call(Talk::Hold).await)) };
    let sending = async {
        let end = loop {
            if let Err(error) = worker.send(bulk(0)).await {
                break error;
            }
        };
        say(&worker, format_args!("send: {end:?}"));
    };
    let receiving = async { say(&worker, format_args!("recv: {:?}", worker.recv().await)) };
    tokio::join!(calling, sending, receiving);
    say(&worker, format_args!("later: {:?} {:?}", worker.send(Talk::Go).await, worker.call(Talk::Count).await));
    shutdown.await;
    Ok(())
}

/// Takes until all have asked, and then nothing any more.
pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    let mut held = Vec::new();
    while held.len() < 2 {
        if let Some(Event::Message(_, Talk::Hold(reply))) = primary.next().await {
            held.push(reply);
        }
    }
    tell("all have asked");
    pending::<()>().await;
}
