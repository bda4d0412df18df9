#[cluster::main(workers = 0, thread = 2, restart = "sometimes", grace = "30s")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
