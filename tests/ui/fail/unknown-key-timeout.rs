#[cluster::main(timeout = "30s")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
