#[cluster::main(restart = "sometimes")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
