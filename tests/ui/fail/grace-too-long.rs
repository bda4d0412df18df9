#[cluster::main(grace = "2days")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
