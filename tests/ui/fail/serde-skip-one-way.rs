use cluster::Message;

#[derive(Message)]
struct ToPrimary {
    #[serde(skip_serializing)]
    path: String,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
