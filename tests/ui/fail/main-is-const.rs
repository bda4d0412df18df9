#[cluster::main]
const async fn main() -> cluster::Result {
    Ok(())
}
