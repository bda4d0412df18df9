//! Side-by-side figures, `cargo run --release -p benches -- compare`, the long run that shows what changes cost, `… -- change`, and what
//! messages cost, `… -- messages`.
//!
//! In `compare`, peers run in turn, round after round, on the same machine in one run; what is reported is the median of the rounds. Beside
//! requests per second stands the CPU time of the peer's whole process tree, because the machine is shared with the client.

mod change;
mod client;
mod compare;
mod lines;
mod measure;
mod messages;
mod options;
mod peer;
mod process;
mod programs;
mod results;
mod running;
mod spinner;
mod wrk;

use std::env;
use std::process::ExitCode;

use options::{Options, USAGE};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let rest = arguments.iter().skip(1).cloned();
    let result = match arguments.first().map(String::as_str) {
        Some("compare") => Options::parse(rest).and_then(|options| compare::run(&options)).map(|()| true),
        Some("change") => {
            let command = format!("cargo run --release -p benches -- {}", arguments.join(" "));
            change::Options::parse(rest).and_then(|options| change::run(&options, &command))
        }
        Some("messages") => messages::Options::parse(rest).and_then(|options| messages::run(&options)),
        _ => Err(format!("{USAGE}\n{}\n{}", change::USAGE, messages::USAGE)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
