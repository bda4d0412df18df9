#[cluster::main(workers = "4")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
