#[cluster::main]
async fn main(pair: (u8, u8)) -> cluster::Result {
    let _ = pair;
    Ok(())
}
