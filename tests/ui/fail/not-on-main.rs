#[cluster::main]
async fn start() -> cluster::Result {
    Ok(())
}

fn main() {
    drop(start());
}
