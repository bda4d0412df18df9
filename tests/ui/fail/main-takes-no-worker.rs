#[cluster::main]
async fn main(port: u16) -> cluster::Result {
    let _ = port;
    Ok(())
}
