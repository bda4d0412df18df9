//! What all releases of `evolving` have in common: a worker says what its release says, and the primary repeats what it has understood.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use cluster::{Event, Primary, Worker};

use crate::{SAYS, ToPrimary};

pub(crate) async fn work(worker: Worker<ToPrimary>) -> cluster::Result {
    let app = Router::new().route("/say", get(say)).with_state(worker);
    cluster::serve("127.0.0.1:0", app).await
}

async fn say(State(worker): State<Worker<ToPrimary>>) -> String {
    let answer = worker.call(|reply| ToPrimary::Say { words: SAYS, reply }).await;
    answer.unwrap_or_else(|error| format!("no answer: {error}"))
}

pub(crate) async fn listen(mut primary: Primary<ToPrimary>) {
    while let Some(event) = primary.next().await {
        if let Event::Message(_, ToPrimary::Say { words, reply }) = event {
            reply.send(format!("{words:?}"));
        }
    }
}
