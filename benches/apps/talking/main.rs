//! What `messages` measures: programs whose processes talk. The first argument chooses one; each is a module with the worker's
//! side and the primary's. Where two sides of a ratio are to be of the same two processes, one program is both.

mod bare;
mod bulk;
mod call;
mod counter;
mod drain;
mod echo;
mod flood;
mod one_way;
mod serving;
mod stopwatch;

use std::{env, io};

use cluster::{Config, Event, Message, Primary};

fn main() -> cluster::Result {
    let config = Config::new().workers(1).quiet(true);
    match argument(1).as_str() {
        "bulk" => cluster::run(config.primary(bulk::primary), bulk::worker),
        "bulk-bare" => cluster::run(config.primary(bulk::bare_primary), bulk::bare_worker),
        "call" => cluster::run(config.primary(call::primary), call::worker),
        "call-pipelined" => cluster::run(config.primary(call::primary), call::pipelining_worker),
        "counter" => cluster::run(config, counter::worker),
        "drain" => cluster::run(config.workers(2).primary(drain::primary), drain::worker),
        "echo" => cluster::run(config.primary(echo::primary), echo::worker),
        "flood" => cluster::run(config.workers(flood::WORKERS).primary(flood::primary), flood::worker),
        "one-way-up" => cluster::run(config.primary(one_way::taking_primary), one_way::flooding_worker),
        "one-way-down" => cluster::run(config.primary(one_way::flooding_primary), one_way::taking_worker),
        "serve" => cluster::run(config.workers(2).primary(serving::primary), serving::worker),
        other => panic!("there is no program {other:?}"),
    }
}

fn argument(index: usize) -> String {
    env::args().nth(index).unwrap_or_default()
}

/// Waits until the bench has measured enough, for a primary function that hears nothing from its cluster.
async fn stdin_closed() -> io::Result<()> {
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    Ok(())
}

/// Until the cluster ends.
async fn take_all<Up: Message, Down: Message>(primary: &mut Primary<Up, Down>) -> cluster::Result {
    while primary.next().await.is_some() {}
    Ok(())
}

/// Waits for the one worker, and gives its id.
async fn online<Up: Message, Down: Message>(primary: &mut Primary<Up, Down>) -> cluster::WorkerId {
    loop {
        match primary.next().await {
            Some(Event::Online(id)) => return id,
            Some(_) => {}
            None => panic!("the cluster ends before its worker is there"),
        }
    }
}
