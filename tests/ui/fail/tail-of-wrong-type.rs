#[cluster::main]
async fn main() -> cluster::Result {
    std::future::ready(4).await
}
