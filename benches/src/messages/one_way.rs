//! Small messages in one direction, as fast as they go.

use super::figure::{Figure, Traffic};
use super::options::Options;
use super::peer::Peer;
use super::talk::Talk;
use crate::results::Samples;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    let both = [Peer::Cluster, Peer::NodeJson, Peer::NodeAdvanced];
    let up = both.into_iter().chain([Peer::IpcChannel]).map(|peer| (peer, Traffic::Up, "up"));
    let down = both.into_iter().map(|peer| (peer, Traffic::Down, "down"));
    for (peer, traffic, way) in up.chain(down).filter(|(peer, ..)| peer.is_installed()) {
        let talk = Talk::start(peer.command(&[&format!("one-way-{way}")]), options)?;
        talk.done(way)?.add_to(samples, traffic, peer);
    }
    Ok(())
}
