#[cluster::main(start_timeout = "0s")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
