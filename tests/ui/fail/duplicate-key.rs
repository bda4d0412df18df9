#[cluster::main(workers = 4, threads = 2, workers = 8)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
