use cluster::Message;

#[derive(Message)]
struct ToPrimary {
    #[serde(skip)]
    cell: std::rc::Rc<u8>,
}

fn main() {}
