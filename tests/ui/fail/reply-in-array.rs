use cluster::{Message, Reply};

#[derive(Message)]
struct ToPrimary([Reply<u64>; 2]);

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
