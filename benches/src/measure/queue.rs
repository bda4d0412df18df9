//! What becomes of clients that wait in a queue when one worker is killed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::Connection;
use crate::options::Options;
use crate::peer::Peer;
use crate::process;
use crate::results::{Fate, Figure, Samples};
use crate::running::{Running, send, within};

const WORKERS: usize = 4;
const CLIENTS: usize = 200;
/// At least, in all rounds together.
const RUNS: usize = 20;

pub(crate) fn measure(peer: &Peer, options: &Options, samples: &mut Samples<Figure>) {
    if !peer.has_processes() {
        return;
    }
    for _ in 0..RUNS.div_ceil(options.rounds) {
        let answers = kill_one(peer);
        let mut add = |figure, count| samples.add(figure, peer.name, count as f64);
        add(Figure::Lost, answers.iter().filter(|answer| answer.is_err()).count());
        for fate in Fate::ALL {
            add(Figure::LostTo(fate), answers.iter().filter(|answer| fate_of(answer) == Some(fate)).count());
        }
    }
}

/// All workers are stopped, so that everybody waits; then one is killed and the others go on.
fn kill_one(peer: &Peer) -> Vec<io::Result<String>> {
    let running = Running::start(peer, WORKERS);
    let workers = running.workers();
    workers.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    let stopped = within(Duration::from_secs(5), || workers.iter().all(|pid| process::is_stopped(*pid)));
    let clients: Vec<io::Result<Connection>> = (0..CLIENTS).map(|_| ask(running.address)).collect();
    send(workers[0], Signal::SIGKILL);
    workers[1..].iter().for_each(|pid| send(*pid, Signal::SIGCONT));
    assert!(stopped, "the workers of {} do not stop", peer.name);
    let answers = clients.into_iter().map(|client| client?.receive()).collect();
    // There is a replacement; some peers complain if they have to end before it is ready.
    running.settle(WORKERS);
    answers
}

fn ask(address: SocketAddr) -> io::Result<Connection> {
    let mut connection = Connection::open(address)?;
    connection.send("/")?;
    Ok(connection)
}

/// None, if there was an answer.
fn fate_of(answer: &io::Result<String>) -> Option<Fate> {
    let error = answer.as_ref().err()?;
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => Fate::Refused,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fate::Unanswered,
        _ => Fate::Reset,
    })
}
