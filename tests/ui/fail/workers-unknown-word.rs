#[cluster::main(workers = "many")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
