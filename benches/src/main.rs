//! Side-by-side figures: `cargo run --release -p benches -- compare`.
//!
//! Peers run in turn, round after round, on the same machine in one run; what is reported is the median of the rounds. Beside
//! requests per second stands the CPU time of the peer's whole process tree, because the machine is shared with the client.

mod client;
mod compare;
mod measure;
mod options;
mod peer;
mod process;
mod results;
mod running;
mod spinner;
mod wrk;

use std::env;
use std::process::ExitCode;

use options::{Options, USAGE};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("compare") => Options::parse(arguments).and_then(|options| compare::run(&options)),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
