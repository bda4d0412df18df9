#[cluster::main]
async unsafe fn main() -> cluster::Result {
    Ok(())
}
