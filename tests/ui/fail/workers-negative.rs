#[cluster::main(workers = -1)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
