use cluster::Message;

#[derive(Message)]
enum ToPrimary {
    #[serde(skip)]
    Hidden,
    Hit,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
