//! What serving costs, and starting, and idling.

use super::CORES;
use crate::options::Options;
use crate::peer::Peer;
use crate::results::{Figure, Samples};
use crate::running::Running;
use crate::wrk::Load;

pub(crate) fn measure(peer: &Peer, options: &Options, samples: &mut Samples<Figure>) {
    let running = Running::start(peer, CORES);
    let mut add = |figure, value| samples.add(figure, peer.name, value);
    add(Figure::StartToServing, running.started_in.as_secs_f64() * 1e3);
    if peer.has_processes() {
        let memory = running.memory_per_worker();
        add(Figure::IdlePrivate, memory.private_mib);
        add(Figure::IdleProportional, memory.proportional_mib);
    }
    running.warm_up();
    for load in Load::ALL {
        let before = running.cpu_time();
        let served = load.run(running.address, options.span);
        let spent = running.cpu_time() - before;
        add(Figure::PerSecond(load), served.per_second);
        add(Figure::Cpu(load), spent.as_secs_f64() * 1e6 / served.requests);
    }
    if peer.has_processes() {
        let memory = running.memory_per_worker();
        add(Figure::LoadedPrivate, memory.private_mib);
        add(Figure::LoadedProportional, memory.proportional_mib);
        add(Figure::CrashToServing, running.crash_all().as_secs_f64() * 1e3);
        running.settle(CORES);
    }
}
