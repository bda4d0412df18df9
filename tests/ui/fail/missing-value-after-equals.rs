#[cluster::main(workers = , threads = 2)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
