//! The run: every peer, every measurement, round after round.

use std::process::Command;

use crate::options::Options;
use crate::peer::{self, Peer};
use crate::results::{self, Samples};
use crate::{measure, wrk};

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let peers = peer::select(&options.only)?;
    let measurements = measure::select(&options.measure)?;
    if wrk::version().is_none() {
        return Err(
            "wrk makes the load and is missing; benches/install-peers installs it (Debian: apt-get install wrk)".into(),
        );
    }
    build_peers();
    let (installed, missing): (Vec<&Peer>, Vec<&Peer>) =
        peers.into_iter().partition(|peer| peer.executable().is_some());
    for peer in &missing {
        eprintln!("{} is not installed; benches/install-peers installs it", peer.name);
    }
    let mut samples = Samples::default();
    for round in 1..=options.rounds {
        for (name, measurement) in &measurements {
            eprintln!("round {round} of {}: {name}", options.rounds);
            installed.iter().for_each(|peer| measurement(peer, options, &mut samples));
        }
    }
    results::write(options, &installed, &missing, &samples);
    Ok(())
}

/// `cargo run` builds this program only.
fn build_peers() {
    let built = Command::new(env!("CARGO")).args(["build", "--release", "--package", "benches", "--bins"]).status();
    assert!(built.is_ok_and(|status| status.success()), "the peers do not build");
}
