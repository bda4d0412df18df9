#[cluster::main(primary = "count")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
