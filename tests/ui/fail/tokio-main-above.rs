#[tokio::main]
#[cluster::main]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
