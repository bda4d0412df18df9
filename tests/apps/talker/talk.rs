//! What most programs say to each other, and who answers it.

use cluster::{Message, Reply, Worker};

use crate::blob::Blob;
use crate::programs::touchy::Touchy;
use crate::say;

/// What is said in most programs, in both directions.
#[derive(Debug, Message)]
pub(crate) enum Talk {
    Go,
    Number(u64),
    Bulk(u64, Blob),
    /// How much was sent so far.
    Count(Reply<u64>),
    Double {
        number: u64,
        reply: Reply<u64>,
    },
    /// Not answered.
    Hold(Reply<u64>),
    Touchy(Touchy),
}

/// How many blobs of [`BULK`] bytes are a flood of 110 MB.
pub(crate) const BULKS: u64 = 1100;
pub(crate) const BULK: usize = 100_000;

pub(crate) fn bulk(index: u64) -> Talk {
    Talk::Bulk(index, Blob::of(BULK, index))
}

/// Answers what can be asked, until the worker is to end.
pub(crate) async fn answer(worker: &Worker<Talk, Talk>) {
    while let Some(message) = worker.recv().await {
        match message {
            Talk::Number(number) => say(worker, format_args!("heard {number}")),
            Talk::Bulk(index, blob) => say(worker, format_args!("bulk {index} of {}", blob.0.len())),
            Talk::Double { number, reply } => reply.send(2 * number),
            Talk::Go | Talk::Touchy(_) | Talk::Count(_) | Talk::Hold(_) => {}
        }
    }
}
