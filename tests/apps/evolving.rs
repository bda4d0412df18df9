//! A fixture: the first release of a program whose messages evolve.

use cluster::{Config, Message, Reply};
use serde::{Deserialize, Serialize};

#[path = "evolving/app.rs"]
mod app;

#[derive(Message)]
enum ToPrimary {
    Say { words: Words, reply: Reply<String> },
}

#[derive(Debug, Serialize, Deserialize)]
enum Words {
    Hello,
}

const SAYS: Words = Words::Hello;

fn main() -> cluster::Result {
    cluster::run(Config::new().workers(1).primary(app::listen), app::work)
}
