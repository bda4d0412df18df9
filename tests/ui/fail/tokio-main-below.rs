#[cluster::main]
#[tokio::main]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
