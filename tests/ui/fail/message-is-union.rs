use cluster::Message;

#[derive(Message)]
union ToPrimary {
    number: u64,
    bytes: [u8; 8],
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
