use cluster::Worker;

struct Boxed<T>(T);

#[cluster::main]
async fn main(Boxed(worker): Boxed<Worker>) -> cluster::Result {
    drop(worker);
    Ok(())
}
