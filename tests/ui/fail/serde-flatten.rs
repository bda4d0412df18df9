use cluster::Message;

#[derive(Message)]
struct ToPrimary {
    #[serde(flatten)]
    inner: (),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
