use cluster::{Message, Replies};

#[derive(Message)]
enum ToPrimary {
    Total(Option<Replies<u64>>),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
