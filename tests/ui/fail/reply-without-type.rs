use cluster::{Message, Reply};

#[derive(Message)]
enum ToPrimary {
    Total(Reply),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
