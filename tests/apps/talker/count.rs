//! How much was sent and how much came: numbers in order, and who counts them.

use cluster::{PrimaryHandle, Worker, WorkerId};
use tokio::time::sleep;

use crate::TICK;
use crate::talk::Talk;

pub(crate) async fn send_numbers(primary: PrimaryHandle<Talk, Talk>, id: WorkerId, many: u64) {
    for number in 0..many {
        primary.send(id, Talk::Number(number)).await.expect("the worker lives");
    }
}

pub(crate) async fn expect_numbers(worker: &Worker<Talk, Talk>, many: u64) {
    for expected in 0..many {
        match worker.recv().await {
            Some(Talk::Number(number)) => assert_eq!(number, expected),
            other => panic!("{other:?} in place of {expected}"),
        }
    }
}

/// What came from each worker so far.
#[derive(Default)]
pub(crate) struct Ledger(std::collections::HashMap<WorkerId, u64>);

impl Ledger {
    /// Counts a message that must be the next of this worker; how many that makes.
    pub(crate) fn enter(&mut self, worker: WorkerId, number: u64) -> u64 {
        let count = self.0.entry(worker).or_default();
        assert_eq!(number, *count, "from worker {worker}");
        *count += 1;
        *count
    }
}

/// What was sent so far.
#[derive(Clone, Default)]
pub(crate) struct Counter(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, std::sync::atomic::Ordering::Relaxed);
    }
}

pub(crate) async fn answer_counts(worker: Worker<Talk, Talk>, sent: Counter) {
    while let Some(message) = worker.recv().await {
        if let Talk::Count(reply) = message {
            reply.send(sent.get());
        }
    }
}

/// Asks until the answer has stayed the same for a while.
pub(crate) async fn settled(ask: impl AsyncFn() -> u64) -> u64 {
    let (mut last, mut same) = (0, 0);
    while same < 10 || last == 0 {
        sleep(TICK).await;
        let now = ask().await;
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}
