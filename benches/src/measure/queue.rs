//! What becomes of clients that wait in a queue when one worker is killed.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::Connection;
use crate::options::Options;
use crate::peer::Peer;
use crate::process;
use crate::results::{Figure, Samples};
use crate::running::{Running, send, within};

const WORKERS: usize = 4;
const CLIENTS: usize = 200;
/// At least, in all rounds together.
const RUNS: usize = 20;

pub(crate) fn measure(peer: &Peer, options: &Options, samples: &mut Samples) {
    if !peer.has_processes() {
        return;
    }
    for _ in 0..RUNS.div_ceil(options.rounds) {
        samples.add(Figure::Lost, peer.name, lost(peer) as f64);
    }
}

/// All workers are stopped, so that everybody waits; then one is killed and the others go on.
fn lost(peer: &Peer) -> usize {
    let running = Running::start(peer, WORKERS);
    let workers = running.workers();
    workers.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    let stopped = within(Duration::from_secs(5), || workers.iter().all(|pid| process::is_stopped(*pid)));
    let clients: Vec<io::Result<Connection>> = (0..CLIENTS).map(|_| ask(&running)).collect();
    send(workers[0], Signal::SIGKILL);
    workers[1..].iter().for_each(|pid| send(*pid, Signal::SIGCONT));
    assert!(stopped, "the workers of {} do not stop", peer.name);
    clients.into_iter().map(|client| client?.receive()).filter(io::Result::is_err).count()
}

fn ask(running: &Running) -> io::Result<Connection> {
    let mut connection = Connection::open(running.address)?;
    connection.send("/")?;
    Ok(connection)
}
