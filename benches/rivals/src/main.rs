//! The conversations of `talking` as other crates have them, between this process and one that it starts: the first argument chooses,
//! and the second, where there is one, is where the started process finds the first.

mod ipc_channel_flood;
#[path = "../../apps/talking/stopwatch.rs"]
mod stopwatch;
mod tarpc_calls;

use std::env;
use std::process::{Child, Command};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["one-way-up"] => ipc_channel_flood::take(),
        ["one-way-up", name] => ipc_channel_flood::flood(name.to_owned()),
        [call @ ("call" | "call-pipelined")] => tarpc_calls::serve(call),
        ["call", path] => tarpc_calls::ask_one_by_one(path),
        ["call-pipelined", path] => tarpc_calls::ask_many(path),
        _ => panic!("there is no program {arguments:?}"),
    }
}

/// This program once more, told where to find this process.
fn start_other(program: &str, place: &str) -> Child {
    let this = env::current_exe().expect("this program has a path");
    Command::new(this).args([program, place]).spawn().expect("this program starts")
}
