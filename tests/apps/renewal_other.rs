//! A fixture: what `renewal` is in a release whose messages differ.

use cluster::{Message, Primary, Worker};

#[derive(Debug, Message)]
enum ToPrimary {
    Another(u8),
}

#[cluster::main(workers = 2, primary = obey)]
async fn main(worker: Worker<ToPrimary>) -> cluster::Result {
    worker.send(ToPrimary::Another(7)).await?;
    cluster::serve(std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into()), axum::Router::new()).await
}

async fn obey(mut primary: Primary<ToPrimary>) {
    while let Some(event) = primary.next().await {
        println!("{event:?}");
    }
}
