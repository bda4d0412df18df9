#[cluster::main]
async fn main() -> u32 {
    4
}
