use cluster::Message;

#[derive(Message)]
#[serde(tag = "kind", content = "value")]
enum ToPrimary {
    Hit(String),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
