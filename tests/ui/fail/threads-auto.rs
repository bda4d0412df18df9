#[cluster::main(threads = "auto")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
