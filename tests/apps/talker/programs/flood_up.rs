//! Much more than fits anywhere, from workers to a primary function that takes nothing at first.

use cluster::{Event, Primary, Worker};

use crate::count::{Counter, Ledger, answer_counts, settled};
use crate::process::{peak, pid_of};
use crate::talk::{BULKS, Talk, bulk};
use crate::tell;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let sent = Counter::default();
    tokio::spawn(answer_counts(worker.clone(), sent.clone()));
    for index in 0..BULKS {
        worker.send(bulk(index)).await?;
        sent.set(index + 1);
    }
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    let mut ledger = Ledger::default();
    while let Some(event) = primary.next().await {
        match event {
            Event::Online(id) => {
                let sent = settled(async || primary.call(id, Talk::Count).await.expect("it answers")).await;
                tell(format_args!("stuck at {sent}"));
            }
            Event::Message(id, Talk::Bulk(index, blob)) => {
                assert!(blob.is(index), "{index} has changed");
                if ledger.enter(id, index) == BULKS {
                    tell(format_args!("took all in order; peaks {} {}", peak(None), peak(pid_of(&primary, id))));
                }
            }
            _ => {}
        }
    }
}
