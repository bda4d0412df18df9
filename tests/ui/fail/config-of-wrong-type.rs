#[cluster::main(config = 4, workers = 2)]
async fn main() -> cluster::Result {
    Ok(())
}
