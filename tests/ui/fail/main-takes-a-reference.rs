use cluster::Worker;

#[cluster::main]
async fn main(worker: &Worker) -> cluster::Result {
    let _ = worker;
    Ok(())
}
