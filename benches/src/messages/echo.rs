//! Messages from the primary that its worker sends back, some at once.

use super::figure::{AT_ONCE, Figure, Payload, Traffic};
use super::options::Options;
use super::peer::Peer;
use super::talk::Talk;
use crate::results::Samples;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    for payload in Payload::ALL {
        for at_once in AT_ONCE {
            let traffic = Traffic::Echo(payload, at_once);
            for peer in [Peer::Cluster, Peer::NodeJson, Peer::NodeAdvanced] {
                if !peer.is_installed() {
                    continue;
                }
                let arguments = ["echo", &payload.to_string(), &at_once.to_string()];
                let talk = Talk::start(peer.command(&arguments), options)?;
                talk.done("echo")?.add_to(samples, traffic, peer);
                // A socket knows no payload, so once is enough.
                if (peer, payload, at_once) == (Peer::Cluster, Payload::String, 1) {
                    talk.done("bare")?.add_to(samples, traffic, Peer::Bare);
                }
            }
        }
    }
    Ok(())
}
