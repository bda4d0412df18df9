#[cluster::main]
#[cluster::main(workers = 2)]
async fn main() -> cluster::Result {
    Ok(())
}
