use cluster::{Message, Replies};

#[derive(Message)]
enum ToPrimary {
    Total(Replies),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
