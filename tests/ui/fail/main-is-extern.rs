#[cluster::main]
async extern "C" fn main() -> cluster::Result {
    Ok(())
}
