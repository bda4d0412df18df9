//! Any error type that a sync main could return.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod program {
    use std::error::Error;

    #[cluster::main(workers = 2)]
    pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
        let port: u16 = std::future::ready("3000").await.parse()?;
        if port == 0 {
            return Err("no port".into());
        }
        Ok(())
    }
}

fn main() {
    let _ = program::main;
}
