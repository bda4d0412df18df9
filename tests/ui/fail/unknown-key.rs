#[cluster::main(colour = "red")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
