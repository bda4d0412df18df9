use cluster::Message;

#[derive(Message)]
enum ToPrimary {
    Hit(&'static str),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
