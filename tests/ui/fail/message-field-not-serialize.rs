use cluster::Message;

#[derive(serde::Deserialize)]
struct Color(u8);

#[derive(Message)]
struct ToPrimary {
    size: u64,
    color: Color,
}

fn main() {}
