use cluster::Message;

#[derive(Message)]
struct ToPrimary<'a> {
    bytes: Option<u8>,
    rest: &'a [u8],
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary<'static>>();
}
