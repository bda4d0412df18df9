#[cluster::main]
fn main() -> cluster::Result {
    Ok(())
}
