//! Many messages in both directions at once.

use cluster::{Event, Primary, Worker};

use crate::count::{Ledger, expect_numbers, send_numbers};
use crate::talk::Talk;
use crate::{say, tell};

const MANY: u64 = 100_000;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let sending = async {
        for number in 0..MANY {
            worker.send(Talk::Number(number)).await?;
        }
        Ok::<_, cluster::SendError>(())
    };
    let (sent, ()) = tokio::join!(sending, expect_numbers(&worker, MANY));
    sent?;
    say(&worker, format_args!("took {MANY} in order"));
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    let mut ledger = Ledger::default();
    while let Some(event) = primary.next().await {
        match event {
            Event::Forked(id) => _ = tokio::spawn(send_numbers(primary.handle(), id, MANY)),
            Event::Message(id, Talk::Number(number)) if ledger.enter(id, number) == MANY => {
                tell(format_args!("took {MANY} of {id} in order"));
            }
            _ => {}
        }
    }
}
