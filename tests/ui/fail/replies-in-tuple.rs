use cluster::{Message, Replies};

#[derive(Message)]
enum ToPrimary {
    Total((u8, Replies<u64>)),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
