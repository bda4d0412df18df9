#[cluster::main(grace = "soon")]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
