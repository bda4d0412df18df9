//! Many questions at once, answered last first.

use cluster::{Event, Primary, PrimaryHandle, Reply, Worker, WorkerId};

use crate::talk::Talk;
use crate::{say, tell};

const MANY: u64 = 500;

type Asked = Vec<(u64, Reply<u64>)>;

/// Answers when all have asked.
fn hold(asked: &mut Asked, number: u64, reply: Reply<u64>) {
    asked.push((number, reply));
    if asked.len() as u64 == MANY {
        asked.drain(..).rev().for_each(|(number, reply)| reply.send(2 * number));
    }
}

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..MANY {
        let worker = worker.clone();
        calls.spawn(async move { (number, worker.call(|reply| Talk::Double { number, reply }).await) });
    }
    let receiver = worker.clone();
    tokio::spawn(async move {
        let mut asked = Asked::new();
        while let Some(Talk::Double { number, reply }) = receiver.recv().await {
            hold(&mut asked, number, reply);
        }
    });
    for (number, answer) in calls.join_all().await {
        assert_eq!(answer, Ok(2 * number));
    }
    say(&worker, format_args!("{MANY} answers are right"));
    worker.shutdown().await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    let mut asked = std::collections::HashMap::<WorkerId, Asked>::new();
    while let Some(event) = primary.next().await {
        match event {
            Event::Forked(id) => _ = tokio::spawn(ask(primary.handle(), id)),
            Event::Message(id, Talk::Double { number, reply }) => hold(asked.entry(id).or_default(), number, reply),
            _ => {}
        }
    }
}

async fn ask(primary: PrimaryHandle<Talk, Talk>, id: WorkerId) {
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..MANY {
        let primary = primary.clone();
        calls.spawn(async move { (number, primary.call(id, |reply| Talk::Double { number, reply }).await) });
    }
    for (number, answer) in calls.join_all().await {
        assert_eq!(answer, Ok(2 * number));
    }
    tell(format_args!("{MANY} answers of {id} are right"));
}
