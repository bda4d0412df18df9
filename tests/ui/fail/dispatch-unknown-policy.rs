#[cluster::main(dispatch = "fair")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
