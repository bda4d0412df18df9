//! The run: every peer, every measurement, round after round.

use crate::options::{self, Options};
use crate::peer::{self, Peer};
use crate::results::{self, Samples};
use crate::{measure, programs, wrk};

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let peers = peer::select(&options.only)?;
    let measurements = options::choose(&measure::ALL, &options.measure)?;
    if wrk::version().is_none() {
        return Err(
            "wrk makes the load and is missing; benches/install-peers installs it (Debian: apt-get install wrk)".into(),
        );
    }
    programs::build(&["--bins"]);
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
