use cluster::{Message, Replies, Reply};

#[derive(Message)]
enum ToPrimary {
    Totals(Replies<Reply<u64>>),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
