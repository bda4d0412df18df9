//! A primary function that hears nothing (any more).

use cluster::{Primary, Worker};
use tokio::time::sleep;

use crate::blob::Blob;
use crate::talk::Talk;
use crate::{TICK, say, tell, way};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    say(&worker, format_args!("call: {:?}", worker.call(Talk::Count).await));
    for index in 0..5000 {
        worker.send(Talk::Bulk(index, Blob::of(1000, 0))).await?;
    }
    say(&worker, format_args!("sent all; call: {:?}", worker.call(Talk::Count).await));
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(primary: Primary<Talk, Talk>) -> cluster::Result {
    if way() == "drops" {
        let handle = primary.handle();
        drop(primary);
        while handle.workers().is_empty() {
            sleep(TICK).await;
        }
        while !handle.workers().is_empty() {
            sleep(TICK).await;
        }
        tell("all workers are gone");
    }
    Ok(())
}
