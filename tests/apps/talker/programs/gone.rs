//! A worker that dies with questions open.

use cluster::{Event, Primary, PrimaryHandle, Worker, WorkerId};

use crate::process::{kill_oneself, two_ready};
use crate::talk::Talk;
use crate::tell;

const MANY: u64 = 100;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let mut held = Vec::new();
    while let Some(Talk::Hold(reply)) = worker.recv().await {
        held.push(reply);
        if held.len() as u64 == MANY {
            kill_oneself();
        }
    }
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    let (victim, _) = two_ready(&mut primary).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..MANY {
        let primary = primary.handle();
        calls.spawn(async move { primary.call(victim, Talk::Hold).await });
    }
    let answers = calls.join_all().await;
    let gone = answers.iter().filter(|answer| **answer == Err(cluster::CallError::Gone)).count();
    tell(format_args!("{gone} of {MANY} calls: Gone"));
    // Dead or reaped makes no difference.
    tell(format_args!("dead: {}", try_all(&primary, victim).await));
    while let Some(event) = primary.next().await {
        if matches!(event, Event::Exited(id, _) if id == victim) {
            tell(format_args!("reaped: {}", try_all(&primary, victim).await));
        }
    }
    Ok(())
}

async fn try_all(primary: &PrimaryHandle<Talk, Talk>, id: WorkerId) -> String {
    let sent = primary.send(id, Talk::Go).await;
    let tried = primary.try_send(id, Talk::Go);
    let called = primary.call(id, Talk::Count).await;
    format!("{sent:?} {tried:?} {called:?}")
}
