use cluster::Message;

#[derive(Message)]
struct ToPrimary {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
