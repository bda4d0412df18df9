//! How evenly connections are spread over workers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use std::{io, thread};

use crate::client::{Connection, ask_once};
use crate::options::Options;
use crate::peer::Peer;
use crate::results::{Figure, KEPT_OVER, Samples};
use crate::running::Running;

/// So many clients keep a connection each.
const KEPT: usize = 64;
/// So many connections follow each other, over as many workers as the most that kept ones are spread over.
const SEQUENTIAL: usize = 800;
/// At least, in all rounds together: few say little where chance decides.
const TRIALS: usize = 20;
/// For a peer to notice that the clients of the last trial have left.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn measure(peer: &Peer, options: &Options, samples: &mut Samples<Figure>) {
    if !peer.tells_who() {
        return;
    }
    for workers in KEPT_OVER {
        let running = Running::start(peer, workers);
        for _ in 0..TRIALS.div_ceil(options.rounds) {
            let answers = kept(running.address).expect("the peer answers");
            samples.add(Figure::Kept { workers }, peer.name, spread(&answers, workers));
            thread::sleep(PAUSE);
        }
        if Some(&workers) == KEPT_OVER.last() {
            let answers = sequential(running.address).expect("the peer answers");
            samples.add(Figure::Sequential, peer.name, spread(&answers, workers));
        }
    }
}

/// All connections are there before the first request is, as when clients come back after a break.
fn kept(address: SocketAddr) -> io::Result<Vec<String>> {
    let mut connections = (0..KEPT).map(|_| Connection::open(address)).collect::<io::Result<Vec<_>>>()?;
    connections.iter_mut().map(|connection| connection.ask("/who")).collect()
}

fn sequential(address: SocketAddr) -> io::Result<Vec<String>> {
    (0..SEQUENTIAL).map(|_| ask_once(address, "/who")).collect()
}

/// Connections of the worker that has most, by the mean of all workers; 1 is even.
fn spread(answers: &[String], workers: usize) -> f64 {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for worker in answers {
        *counts.entry(worker).or_default() += 1;
    }
    let most = counts.into_values().max().unwrap_or_default();
    (most * workers) as f64 / answers.len() as f64
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_worker_without_connections_counts() {
        let answers = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        assert_eq!(spread(&answers("a b a b"), 2), 1.0);
        assert_eq!(spread(&answers("a b a b"), 4), 2.0);
        assert_eq!(spread(&answers("a a a b"), 2), 1.5);
    }
}
