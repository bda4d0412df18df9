use cluster::{Message, Reply};

#[derive(Message)]
enum ToPrimary {
    Total((u8, Reply<u64>)),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
