use cluster::{Message, Replies};

#[derive(Message)]
enum ToPrimary {
    Total {
        #[serde(skip)]
        reply: Replies<u64>,
    },
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
