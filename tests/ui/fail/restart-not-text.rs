#[cluster::main(restart = true)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
