#[cluster::main(threads = 99999999999999999999999)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
