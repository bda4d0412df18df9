//! Messages of a megabyte, beside a bare socket.

use super::figure::{Figure, Traffic};
use super::options::Options;
use super::peer::Peer;
use super::talk::Talk;
use crate::results::Samples;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    for (peer, program) in [(Peer::Cluster, "bulk"), (Peer::Bare, "bulk-bare")] {
        let talk = Talk::start(peer.command(&[program]), options)?;
        talk.done("bulk")?.add_to(samples, Traffic::Bulk, peer);
    }
    Ok(())
}
