//! Questions and answers: one at a time, beside a bare socket between the same two processes, and many at once.

use super::figure::{Cores, Figure, Traffic};
use super::options::Options;
use super::peer::Peer;
use super::talk::{Done, Talk};
use crate::results::Samples;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    for peer in [Peer::Cluster, Peer::Tarpc].into_iter().filter(|peer| peer.is_installed()) {
        let talk = Talk::start(peer.command(&["call-pipelined"]), options)?;
        talk.done("pipelined")?.add_to(samples, Traffic::Pipelined, peer);
    }
    for cores in Cores::ALL {
        for peer in [Peer::Cluster, Peer::Tarpc].into_iter().filter(|peer| peer.is_installed()) {
            let talk = Talk::start(cores.place(peer.command(&["call"])), options)?;
            add(samples, &talk.done("call")?, peer, cores);
            if peer == Peer::Cluster {
                add(samples, &talk.done("bare")?, Peer::Bare, cores);
            }
        }
    }
    Ok(())
}

fn add(samples: &mut Samples<Figure>, done: &Done, peer: Peer, cores: Cores) {
    samples.add(Figure::RoundTrip(cores), peer.name(), done.each());
    done.add_to(samples, Traffic::Call(cores), peer);
}
