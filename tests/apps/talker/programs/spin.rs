//! A primary function that never lets go of its thread.

use cluster::{Primary, Worker};

use crate::process::two_ready;
use crate::talk::{Talk, bulk};
use crate::tell;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    loop {
        tokio::select! {
            () = worker.shutdown() => return Ok(()),
            sent = worker.send(bulk(0)) => sent?,
        }
    }
}

#[expect(clippy::infinite_loop, reason = "it is meant to block for ever")]
pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    two_ready(&mut primary).await;
    tell("spins");
    loop {
        std::hint::spin_loop();
    }
}
