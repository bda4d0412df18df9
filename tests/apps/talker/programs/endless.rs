//! Workers that send for ever.

use std::future::pending;

use cluster::{Primary, Worker};

use crate::talk::Talk;
use crate::{say, way};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let flooder = worker.clone();
    let flooding = async move {
        for number in 0.. {
            if number == 10_000 {
                say(&flooder, "floods");
            }
            flooder.send(Talk::Number(number)).await?;
        }
        Ok(())
    };
    match way().as_str() {
        "in-main" => flooding.await,
        "in-a-task" => {
            tokio::spawn(flooding);
            pending().await
        }
        _ => tokio::select! {
            () = worker.shutdown() => Ok(()),
            end = flooding => end,
        },
    }
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    while primary.next().await.is_some() {}
}
