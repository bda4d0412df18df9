//! A configuration that is known only at run time, and nothing else.
#![deny(warnings, missing_docs, unused, nonstandard_style, future_incompatible, rust_2018_idioms, unreachable_pub)]
#![deny(unused_qualifications, unused_results, unused_lifetimes, single_use_lifetimes, let_underscore_drop)]
#![deny(clippy::all, clippy::pedantic)]

mod program {
    use cluster::{Config, Restart};

    #[cluster::main(config = configured("never"))]
    pub(crate) async fn main() {}

    fn configured(restart: &str) -> Config {
        let restart = if restart == "never" { Restart::Never } else { Restart::Always };
        Config::new().workers(std::env::args().count()).restart(restart)
    }
}

fn main() {
    let _ = program::main;
}
