#[cluster::main]
async fn main(self) -> cluster::Result {
    Ok(())
}
