//! One message to all, and how many it was sent to.

use cluster::{Event, Primary, Worker};

use crate::talk::Talk;
use crate::{say, tell};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    while let Some(message) = worker.recv().await {
        match message {
            Talk::Number(number) => say(&worker, format_args!("heard {number}")),
            _ => std::process::abort(),
        }
    }
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
    let mut ready = 0;
    while let Some(event) = primary.next().await {
        match event {
            Event::Ready(id) => {
                ready += 1;
                if ready == 3 {
                    tell(format_args!("1 sent to {}", primary.broadcast(Talk::Number(1)).await?));
                    primary.send(id, Talk::Go).await?;
                }
            }
            Event::Exited(id, _) if ready == 3 => {
                ready = 0;
                tell(format_args!("{id} is gone, 2 sent to {}", primary.broadcast(Talk::Number(2)).await?));
            }
            _ => {}
        }
    }
    tell(format_args!("none is left, 3 sent to {}", primary.broadcast(Talk::Number(3)).await?));
    Ok(())
}
