#[cluster::main(workers = 1025)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
