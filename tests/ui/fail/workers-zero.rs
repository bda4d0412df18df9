#[cluster::main(workers = 0)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
