//! A worker's last messages, whatever way it ends.

use cluster::{Event, Primary, Worker};

use crate::count::Ledger;
use crate::process::kill_oneself;
use crate::talk::Talk;
use crate::{tell, way};

const MANY: u64 = 10_000;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    worker.recv().await;
    if worker.id().get() > 1 {
        worker.shutdown().await;
        return Ok(());
    }
    for number in 0..MANY {
        worker.send(Talk::Number(number)).await?;
    }
    match way().as_str() {
        "returns" => return Ok(()),
        "fails" => return Err("on purpose".into()),
        _ => worker.flush().await,
    }
    match way().as_str() {
        "aborts" => std::process::abort(),
        "exits" => std::process::exit(7),
        _ => kill_oneself(),
    }
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    let mut ledger = Ledger::default();
    while let Some(event) = primary.next().await {
        match event {
            // It may be gone already.
            Event::Ready(id) => _ = primary.send(id, Talk::Go).await,
            Event::Message(id, Talk::Number(number)) => {
                if ledger.enter(id, number) == MANY {
                    tell(format_args!("took {MANY} of {id} in order"));
                }
            }
            event => println!("{event:?}"),
        }
    }
    Ok(())
}
