//! Each key of the attribute, beside the runtime's own words for the same.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod program {
    use std::time::Duration;

    use cluster::{Config, Primary, Setup, Worker};

    /// The program.
    #[cluster::main(
        workers = "auto",
        threads = 2,
        primary = watch::<u8>,
        dispatch = "round-robin",
        restart = "on-failure",
        start_timeout = "1m 30s",
        grace = "0s",
        drain_delay = "5s",
        drain_spread = "10s",
        surge = 2,
        watchdog = "off",
        max_requests = 100_000,
        max_age = "12h",
        max_memory = "512MiB",
        max_message = "1MiB",
        max_expansion = 40,
        setup = Setup::new().nice(5),
        config = Config::new().grace(Duration::from_secs(5)),
        crate = "::cluster",
    )]
    pub(crate) async fn main(worker: Worker) -> cluster::Result {
        while let Some(message) = worker.recv().await {
            let _: cluster::NoMessages = message;
        }
        Ok(())
    }

    async fn watch<T>(mut primary: Primary) -> cluster::Result {
        while primary.next().await.is_some() {}
        drop(None::<T>);
        Ok(())
    }
}

fn main() {
    let _ = program::main;
}
