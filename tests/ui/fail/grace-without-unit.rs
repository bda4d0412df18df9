#[cluster::main(grace = "30")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
