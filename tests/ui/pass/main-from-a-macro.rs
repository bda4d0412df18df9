//! Values that come out of a `macro_rules!` macro.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

macro_rules! program {
    ($workers:expr, $grace:literal, $primary:path, $worker:ty) => {
        mod program {
            #[cluster::main(workers = $workers, grace = $grace, primary = $primary)]
            pub(crate) async fn main(worker: $worker) -> cluster::Result {
                worker.shutdown().await;
                Ok(())
            }
        }
    };
}

program!(4, "30s", super::watch, cluster::Worker);

async fn watch(mut primary: cluster::Primary) -> cluster::Result {
    while primary.next().await.is_some() {}
    Ok(())
}

fn main() {
    let _ = program::main;
}
