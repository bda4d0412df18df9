use cluster::Message;

#[derive(Message)]
#[message(name = "hit")]
struct ToPrimary {
    path: String,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary>();
}
