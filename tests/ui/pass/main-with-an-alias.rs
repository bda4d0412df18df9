//! The worker's type under another name, and an argument without a name.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod program {
    type Own = cluster::Worker<cluster::NoMessages, cluster::NoMessages>;

    #[cluster::main]
    pub(crate) async fn main(_: Own) -> cluster::Result {
        std::future::ready(Ok(())).await
    }
}

fn main() {
    let _ = program::main;
}
