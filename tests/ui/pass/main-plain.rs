//! The smallest program: no arguments, no return value.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod program {
    #[cluster::main]
    pub(crate) async fn main() {}
}

fn main() {
    let _ = program::main;
}
