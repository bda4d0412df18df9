//! Workers that flood the primary and are told to end.

use cluster::{Event, Primary, PrimaryHandle, TrySendError, Worker, WorkerId};
use nix::sys::signal::{Signal, kill};
use tokio::time::sleep;

use crate::count::{Counter, answer_counts, settled};
use crate::process::{pid_of, two_ready};
use crate::talk::Talk;
use crate::{TICK, say, tell, way};

/// More than a window and all buffers hold, so that taking is what keeps the flood going.
const UNDER_WAY: u64 = 200_000;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let sent = Counter::default();
    tokio::spawn(answer_counts(worker.clone(), sent.clone()));
    tokio::spawn(flood(worker.clone(), sent.clone()));
    worker.shutdown().await;
    if way() == "unread" {
        assert!(matches!(worker.try_send(Talk::Go), Err(TrySendError::Full)));
        say(&worker, "told while it waits for room");
    } else {
        let before = sent.get();
        while sent.get() == before {
            sleep(TICK).await;
        }
        say(&worker, "told amid the flood");
    }
    Ok(())
}

async fn flood(worker: Worker<Talk, Talk>, sent: Counter) {
    while worker.send(Talk::Number(sent.get())).await.is_ok() {
        sent.set(sent.get() + 1);
    }
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    let (one, two) = two_ready(&mut primary).await;
    if way() == "unread" {
        for id in [one, two] {
            settled(async || primary.call(id, Talk::Count).await.expect("it answers")).await;
        }
        order(&primary, one, two).await;
        while [one, two].into_iter().any(|id| pid_of(&primary, id).is_some()) {
            sleep(TICK).await;
        }
        tell("both have ended, and nothing was read");
    } else {
        let mut latest = [0, 0];
        while latest.into_iter().any(|number| number < UNDER_WAY) {
            if let Event::Message(id, Talk::Number(number)) = primary.next().await.expect("the cluster runs") {
                latest[usize::from(id == two)] = number;
            }
        }
        order(&primary, one, two).await;
    }
    while primary.next().await.is_some() {}
}

/// In both ways in which a single worker can be told to end.
async fn order(primary: &PrimaryHandle<Talk, Talk>, one: WorkerId, two: WorkerId) {
    primary.disconnect(one).await.expect("it lives");
    kill(pid_of(primary, two).expect("it lives"), Signal::SIGTERM).expect("it can be signalled");
}
