//! The handle in other hands than the events.

use cluster::{Primary, Worker};

use crate::process::two_ready;
use crate::talk::{Talk, answer};
use crate::tell;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    answer(&worker).await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    let (one, two) = two_ready(&mut primary).await;
    let (in_thread, in_task, rest) = (primary.handle(), primary.handle(), primary.handle());
    let moved = tokio::spawn(async move { while primary.next().await.is_some() {} });
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let answer = runtime.block_on(in_thread.call(one, |reply| Talk::Double { number: 1, reply }));
        let sent = in_thread.try_send(one, Talk::Number(7));
        format!("in a thread: {answer:?} {sent:?} {}", in_thread.workers().len())
    });
    let task = tokio::spawn(async move {
        let answer = in_task.call(two, |reply| Talk::Double { number: 2, reply }).await;
        let reached = in_task.clone().broadcast(Talk::Number(8)).await;
        format!("in a task: {answer:?} {reached:?}")
    });
    tell(task.await.expect("it does not panic"));
    // This thread drives the lanes, so it must not wait for the other by blocking.
    let joined = tokio::task::spawn_blocking(|| thread.join()).await.expect("it does not panic");
    tell(joined.expect("it does not panic"));
    // What they answer comes behind what they heard.
    for id in [one, two] {
        rest.call(id, |reply| Talk::Double { number: 3, reply }).await?;
    }
    std::thread::spawn(move || rest.shutdown());
    moved.await.map_err(cluster::Error::other)
}
