//! Prints every event, and what the list of workers says that contradicts it.

use cluster::{Event, Primary, Worker, WorkerId};

use crate::talk::Talk;
use crate::way;

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    println!("in a worker: worker={} primary={}", cluster::is_worker(), cluster::is_primary());
    let first = worker.id().get() == 1;
    match way().as_str() {
        "fails" => return Err("on purpose".into()),
        "is-brief" => {
            worker.ready();
            return Ok(());
        }
        _ => {}
    }
    let _one = cluster::listen("127.0.0.1:0").await?;
    let _two = if way() == "two-ports" { Some(cluster::listen("127.0.0.1:0").await?) } else { None };
    let shutdown = worker.shutdown();
    // Comes when the primary function has heard that this worker is ready.
    worker.recv().await;
    match way().as_str() {
        "exits" if first => std::process::exit(42),
        "leaves" if first => worker.disconnect(),
        _ => {}
    }
    shutdown.await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    println!("in the primary: worker={} primary={}", cluster::is_worker(), cluster::is_primary());
    let mut ready = 0;
    while let Some(event) = primary.next().await {
        println!("{event:?}");
        check(&primary, &event);
        if let Event::Ready(id) = event {
            _ = primary.send(id, Talk::Go).await;
            ready += 1;
            if way() == "stops-itself" && ready == 3 {
                primary.shutdown();
                primary.shutdown();
            }
        }
    }
    println!("None, and again {:?}, with {} workers", primary.next().await, primary.workers().len());
    Ok(())
}

/// The list is never behind the events; it may be ahead of them.
fn check(primary: &Primary<Talk, Talk>, event: &Event<Talk>) {
    let info = |id: &WorkerId| primary.workers().into_iter().find(|info| info.id == *id);
    match event {
        Event::Online(id) => {
            if let Some(info) = info(id)
                && !info.connected
            {
                println!("CONTRADICTION: {event:?} and {info:?}");
            }
        }
        Event::Ready(id) => {
            if let Some(info) = info(id)
                && info.state == cluster::WorkerState::Starting
            {
                println!("CONTRADICTION: {event:?} and {info:?}");
            }
        }
        Event::Exited(id, _) => {
            if let Some(info) = info(id) {
                println!("CONTRADICTION: {event:?} and {info:?}");
            }
        }
        // A worker that was just forked may be gone already, but not while none has exited at all.
        Event::Forked(id) if way() == "two-ports" && info(id).is_none() => {
            println!("CONTRADICTION: {event:?} and it is not in the list");
        }
        _ => {}
    }
}
