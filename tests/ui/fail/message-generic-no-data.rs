use cluster::Message;

#[derive(Message)]
enum ToPrimary<T: Send + 'static> {
    Paint { color: T },
}

fn main() {}
