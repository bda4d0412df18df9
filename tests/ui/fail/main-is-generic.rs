#[cluster::main]
async fn main<T: Default>() -> cluster::Result {
    let _ = T::default();
    Ok(())
}
