use cluster::Message;

#[derive(Message)]
#[serde(untagged)]
enum ToPrimary {
    Hit(String),
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
