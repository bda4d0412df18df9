use cluster::{Message, Primary, Worker};

#[derive(Message)]
enum ToPrimary {
    Hit,
}

#[derive(Message)]
enum ToWorker {
    Stop,
}

#[cluster::main(primary = count)]
async fn main(worker: Worker<ToPrimary, ToWorker>) -> cluster::Result {
    drop(worker);
    Ok(())
}

async fn count(_: Primary<ToWorker, ToPrimary>) -> cluster::Result {
    Ok(())
}
