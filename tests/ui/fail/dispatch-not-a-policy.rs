#[cluster::main(dispatch = 3)]
async fn main() -> cluster::Result {
    std::future::ready(()).await;
    Ok(())
}
