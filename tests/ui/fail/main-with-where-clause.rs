#[cluster::main]
async fn main() -> cluster::Result
where
    u8: Copy,
{
    Ok(())
}
