//! A fixture: programs whose processes talk; the first argument chooses one, the second its way. What happens is
//! printed; what must not happen panics, and so changes the exit code.

mod blob;
mod count;
mod process;
mod programs;
mod talk;

use std::fmt;
use std::time::Duration;

use cluster::CurrentWorker;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a program looks at what nothing announces.
const TICK: Duration = Duration::from_millis(10);

fn main() -> cluster::Result {
    if cluster::is_worker() {
        match (argument(1).as_str(), way().as_str()) {
            ("life", "stillborn") => std::process::exit(7),
            // Until the primary function continues it, the process exists and has not said hello.
            ("stages", _) => kill(Pid::this(), Signal::SIGSTOP).expect("a process may stop itself"),
            _ => {}
        }
    }
    programs::run(&argument(1))
}

fn argument(index: usize) -> String {
    std::env::args().nth(index).unwrap_or_default()
}

fn way() -> String {
    argument(2)
}

fn say(worker: &CurrentWorker, what: impl fmt::Display) {
    println!("worker {}: {what}", worker.id());
}

fn tell(what: impl fmt::Display) {
    println!("primary: {what}");
}
