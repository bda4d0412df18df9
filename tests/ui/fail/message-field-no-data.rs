use cluster::Message;

struct Color(u8);

#[derive(Message)]
enum ToPrimary {
    Paint { size: u64, color: Color },
}

fn main() {}
