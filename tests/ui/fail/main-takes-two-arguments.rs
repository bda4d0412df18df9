use cluster::Worker;

#[cluster::main]
async fn main(worker: Worker, port: u16) -> cluster::Result {
    drop((worker, port));
    Ok(())
}
