//! A fixture: the release after `evolving_reads`, which says that word.

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
    Goodbye,
}

const SAYS: Words = Words::Goodbye;

fn main() -> cluster::Result {
    cluster::run(Config::new().workers(1).primary(app::listen), app::work)
}
