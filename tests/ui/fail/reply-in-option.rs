use cluster::{Message, Reply};

#[derive(Message)]
enum ToPrimary {
    Total(Option<Reply<u64>>),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
