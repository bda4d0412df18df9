//! Messages that are sent before anybody takes any.

use cluster::{Event, Primary, Worker};
use tokio::time::sleep;

use crate::count::{Ledger, expect_numbers, send_numbers};
use crate::talk::Talk;
use crate::{TICK, say, tell};

const MANY: u64 = 1000;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    for number in 0..MANY {
        worker.send(Talk::Number(number)).await?;
    }
    worker.ready();
    // Answered late, so that all of the primary's messages wait here before the first is taken.
    worker.call(Talk::Count).await?;
    expect_numbers(&worker, MANY).await;
    say(&worker, format_args!("took {MANY} in order"));
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    // Not one event is taken before all workers are ready.
    while !(primary.workers().len() == 2
        && primary.workers().iter().all(|worker| worker.state == cluster::WorkerState::Ready))
    {
        sleep(TICK).await;
    }
    let mut ledger = Ledger::default();
    while let Some(event) = primary.next().await {
        match event {
            Event::Forked(id) => send_numbers(primary.handle(), id, MANY).await,
            Event::Message(id, Talk::Number(number)) if ledger.enter(id, number) == MANY => {
                tell(format_args!("took {MANY} of {id} in order"));
            }
            Event::Message(_, Talk::Count(reply)) => reply.send(0),
            _ => {}
        }
    }
    Ok(())
}
