//! A fixed number of workers, and another path to the crate.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod program {
    mod engine {
        pub(crate) use cluster::{Config, run};
    }

    #[cluster::main(workers = 4, crate = engine)]
    pub(crate) async fn main() -> cluster::Result {
        println!("nothing to wait for");
        Ok(())
    }
}

fn main() {
    let _ = program::main;
}
