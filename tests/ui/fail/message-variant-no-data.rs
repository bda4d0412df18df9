use cluster::Message;

struct Color(u8);

#[derive(Message)]
enum ToPrimary {
    Clear,
    Paint(u64, Color),
}

fn main() {}
