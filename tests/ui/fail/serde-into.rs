use cluster::Message;

#[derive(Message)]
#[serde(from = "String", into = "String")]
struct ToPrimary {
    path: String,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
