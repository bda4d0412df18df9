//! Messages that cannot be read.

use cluster::{Event, Primary, Worker};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::talk::Talk;
use crate::{say, way};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let first = worker.id().get() == 1;
    // Comes when the primary function has heard that this worker is ready; until then it must not misbehave.
    if first && way().starts_with("up") {
        worker.recv().await;
    }
    match way().as_str() {
        "up-fails" if first => worker.send(Talk::Touchy(Touchy::Fails)).await?,
        "up-panics" if first => worker.send(Talk::Touchy(Touchy::Panics)).await?,
        _ => {}
    }
    while let Some(message) = worker.recv().await {
        say(&worker, format_args!("took {message:?}"));
    }
    say(&worker, format_args!("heard the end; send: {:?}", worker.send(Talk::Go).await));
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    while let Some(event) = primary.next().await {
        match event {
            Event::Ready(id) if id.get() == 1 => {
                let message = match way().as_str() {
                    "down-fails" => Talk::Touchy(Touchy::Fails),
                    "down-panics" => Talk::Touchy(Touchy::Panics),
                    _ => Talk::Go,
                };
                primary.send(id, message).await?;
            }
            _ => {}
        }
        println!("{event:?}");
    }
    Ok(())
}

/// Can be written, and not be read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Touchy {
    Fails,
    Panics,
}

impl Serialize for Touchy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(matches!(self, Self::Panics))
    }
}

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if bool::deserialize(deserializer)? {
            panic!("touched");
        }
        Err(D::Error::custom("do not touch"))
    }
}
