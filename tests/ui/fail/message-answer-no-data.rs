use cluster::{Message, Reply};

struct Color(u8);

#[derive(Message)]
enum ToPrimary {
    Paint { size: u64 },
    Color(Reply<Color>),
}

fn main() {}
