#[cluster::main(workers = 2, primary = count)]
async fn main() -> cluster::Result {
    Ok(())
}

fn count(_: u32) {}
