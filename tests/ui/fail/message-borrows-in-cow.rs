use cluster::Message;

#[derive(Message)]
struct ToPrimary<'a>(std::borrow::Cow<'a, str>);

fn main() {
    fn is_message<M: Message>() {}
    is_message::<ToPrimary<'static>>();
}
