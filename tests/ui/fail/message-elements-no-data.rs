use cluster::Message;

struct Color(u8);

#[derive(Message)]
enum ToPrimary {
    Paint { colors: Vec<Option<Color>> },
}

fn main() {}
