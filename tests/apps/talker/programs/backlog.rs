//! The primary function calls a worker and leaves unread what that worker sends.

use cluster::{Event, Primary, Worker};

use crate::blob::Blob;
use crate::count::{Counter, Ledger, answer_counts, settled};
use crate::talk::Talk;
use crate::tell;

const MANY: u64 = 30_000;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let sent = Counter::default();
    tokio::spawn(answer_counts(worker.clone(), sent.clone()));
    for number in 0..MANY {
        worker.send(Talk::Bulk(number, Blob::of(100, 0))).await?;
        sent.set(number + 1);
    }
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    let mut ledger = Ledger::default();
    while let Some(event) = primary.next().await {
        match event {
            Event::Online(id) => {
                let waiting = settled(async || primary.call(id, Talk::Count).await.expect("it answers")).await;
                assert!((5000..MANY).contains(&waiting), "{waiting} wait unread");
                tell(format_args!("called {id} while its messages waited"));
            }
            Event::Message(id, Talk::Bulk(number, _)) if ledger.enter(id, number) == MANY => {
                tell(format_args!("took {MANY} of {id} in order"));
            }
            _ => {}
        }
    }
    Ok(())
}
