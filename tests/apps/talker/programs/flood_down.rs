//! Much more than fits anywhere, from the primary function to a worker that takes nothing at first.

use cluster::{Event, Primary, Worker};

use crate::count::{Counter, settled};
use crate::process::{peak, pid_of};
use crate::talk::{BULKS, Talk, bulk};
use crate::{say, tell};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let sent = settled(async || worker.call(Talk::Count).await.expect("it answers")).await;
    say(&worker, format_args!("stuck at {sent}"));
    for expected in 0..BULKS {
        let Some(Talk::Bulk(index, blob)) = worker.recv().await else { panic!("a bulk is missing") };
        assert!(index == expected && blob.is(index), "{index} instead of {expected}");
    }
    say(&worker, "took all in order");
    worker.send(Talk::Go).await?;
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    let sent = Counter::default();
    while let Some(event) = primary.next().await {
        match event {
            Event::Forked(id) => {
                let (primary, sent) = (primary.handle(), sent.clone());
                tokio::spawn(async move {
                    for index in 0..BULKS {
                        primary.send(id, bulk(index)).await.expect("it lives");
                        sent.set(index + 1);
                    }
                });
            }
            Event::Message(_, Talk::Count(reply)) => reply.send(sent.get()),
            Event::Message(id, Talk::Go) => {
                tell(format_args!("peaks {} {}", peak(None), peak(pid_of(&primary, id))));
            }
            _ => {}
        }
    }
}
