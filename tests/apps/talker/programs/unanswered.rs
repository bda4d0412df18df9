//! Questions that the other side drops; the lanes go on.

use cluster::{Event, Primary, Worker};

use crate::talk::{Talk, answer};
use crate::{say, tell};

pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    say(&worker, format_args!("{:?}", worker.call(Talk::Hold).await));
    say(&worker, format_args!("{:?}", worker.call(|reply| Talk::Double { number: 4, reply }).await));
    answer(&worker).await;
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
    while let Some(event) = primary.next().await {
        match event {
            Event::Message(_, Talk::Hold(reply)) => drop(reply),
            Event::Message(id, Talk::Double { number, reply }) => {
                reply.send(2 * number);
                let unanswered = primary.call(id, Talk::Hold).await;
                let answered = primary.call(id, |reply| Talk::Double { number: 5, reply }).await;
                tell(format_args!("{unanswered:?} {answered:?}"));
            }
            _ => {}
        }
    }
}
