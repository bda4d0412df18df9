//! A worker that takes nothing, beside one that does.

use cluster::{Primary, Worker};
use nix::sys::signal::{Signal, kill};
use tokio::time::sleep;

use crate::blob::Blob;
use crate::process::{pid_of, two_ready};
use crate::talk::{Talk, answer};
use crate::{TICK, tell};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    if worker.slot() == 0 {
        worker.shutdown().await;
    } else {
        answer(&worker).await;
    }
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    let (deaf, other) = two_ready(&mut primary).await;
    let mut queued = 0;
    let refusal = loop {
        match primary.try_send(deaf, Talk::Bulk(0, Blob::of(1000, 0))) {
            Ok(()) => queued += 1,
            Err(refusal) => break refusal,
        }
    };
    tell(format_args!("{refusal:?} after {queued}"));
    // Nor is there room for anything smaller.
    while primary.try_send(deaf, Talk::Number(0)).is_ok() {}
    let handle = primary.handle();
    let sending = tokio::spawn(async move { handle.send(deaf, Talk::Number(1)).await });
    let handle = primary.handle();
    let calling = tokio::spawn(async move { handle.call(deaf, Talk::Count).await });
    let handle = primary.handle();
    let broadcasting = tokio::spawn(async move { handle.broadcast(Talk::Number(2)).await });
    // Its answer comes behind what was broadcast.
    tell(format_args!("{:?}", primary.call(other, |reply| Talk::Double { number: 21, reply }).await));
    // Time enough for what must not happen.
    sleep(10 * TICK).await;
    assert!(!sending.is_finished() && !calling.is_finished() && !broadcasting.is_finished());
    tell(format_args!("{:?}, and three wait", primary.try_send(deaf, Talk::Number(3))));
    kill(pid_of(&primary, deaf).expect("it lives"), Signal::SIGKILL).expect("it is ours");
    let (sent, answer, reached) = tokio::join!(sending, calling, broadcasting);
    tell(format_args!("{sent:?} {answer:?} {reached:?}"));
    primary.shutdown();
    while primary.next().await.is_some() {}
    Ok(())
}
