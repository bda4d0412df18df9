use cluster::Message;

#[derive(Message)]
enum ToPrimary<'a> {
    Hit { path: &'a str },
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary<'static>>();
}
