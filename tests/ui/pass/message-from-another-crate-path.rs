//! The crate under another path, and the names of the prelude taken by the user.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod engine {
    pub(crate) mod deep {
        pub(crate) use cluster::Message;
        pub(crate) use cluster::{__private, Reply};
    }
}

#[derive(engine::deep::Message)]
#[message(crate = "engine::deep")]
enum Message {
    Result(engine::deep::Reply<Result>),
    Wire(Wire),
    Plain(Reply),
}

/// Takes the names that the expansion needs.
type Result = std::result::Result<u8, String>;
/// Not a handle: it has no answer's type.
type Reply = u8;
type Wire = u8;

const fn is_message<M: engine::deep::Message>() {}

fn main() {
    is_message::<Message>();
}
