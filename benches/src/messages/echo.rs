//! Messages from the primary that its worker sends back, some at once.

use super::figure::{AT_ONCE, Cores, Figure, Payload, Traffic};
use super::options::Options;
use super::peer::Peer;
use super::talk::Talk;
use crate::results::Samples;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    for cores in Cores::ALL {
        for payload in Payload::ALL {
            for at_once in AT_ONCE {
                of_all(Traffic::Echo(payload, at_once, cores), options, samples)?;
            }
        }
    }
    Ok(())
}

fn of_all(traffic: Traffic, options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    let Traffic::Echo(payload, at_once, cores) = traffic else { return Ok(()) };
    for peer in [Peer::Cluster, Peer::NodeJson, Peer::NodeAdvanced].into_iter().filter(|peer| peer.is_installed()) {
        let command = peer.command(&["echo", &payload.to_string(), &at_once.to_string()]);
        let talk = Talk::start(cores.place(command), options)?;
        talk.done("echo")?.add_to(samples, traffic, peer);
        if (peer, payload) == (Peer::Cluster, Payload::String) {
            talk.done("bare")?.add_to(samples, traffic, Peer::Bare);
        }
    }
    Ok(())
}
