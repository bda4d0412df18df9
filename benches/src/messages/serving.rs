//! What a message for each request adds to a service.

use std::net::SocketAddr;
use std::process::Command;

use super::figure::{Figure, Service};
use super::options::Options;
use super::peer::{Peer, node, script};
use crate::results::Samples;
use crate::running::Running;
use crate::wrk::{self, Load};

const WORKERS: usize = 2;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    if wrk::version().is_none() {
        eprintln!("wrk makes the load and is missing; benches/install-peers installs it");
        return Ok(());
    }
    for service in Service::ALL {
        for peer in [Peer::Cluster, Peer::NodeJson].into_iter().filter(|peer| peer.is_installed()) {
            let running = Running::spawn(WORKERS, |address, _| command(peer, service, address));
            running.warm_up();
            let before = running.cpu_time();
            let served = Load::Kept.run(running.address, options.serving_span());
            let spent = running.cpu_time() - before;
            samples.add(Figure::RequestsPerSecond(service), peer.name(), served.per_second);
            samples.add(Figure::RequestCpu(service), peer.name(), spent.as_secs_f64() * 1e6 / served.requests);
        }
    }
    Ok(())
}

fn command(peer: Peer, service: Service, address: SocketAddr) -> Command {
    let mut command = match peer {
        Peer::Cluster => peer.command(&["serve", &service.to_string()]),
        _ => {
            let mut node = node();
            node.arg(script("node-counting.js")).env("COUNTS", u8::from(service == Service::Counter).to_string());
            node
        }
    };
    command.env("ADDR", address.to_string());
    command
}
