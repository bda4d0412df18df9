#[cluster::main(workers)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
