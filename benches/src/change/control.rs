//! Whether these eyes see: a cluster is left alone under load, and then killed whole. Nothing may fail before, and requests
//! have to afterwards.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::exchange::Fate;
use super::load::{Load, Manner, Tally};
use super::options::Options;
use super::report::{Bar, Report};
use super::service::Service;
use crate::process;
use crate::running::{send, within};

const WORKERS: usize = 4;
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), String> {
    let service = Service::start(WORKERS, Duration::ZERO)?;
    let load = Load::start(&service.target, Manner::default());
    let requests = options.amount.requests / 20;
    let enough = within(LONGEST, || load.requests() >= requests);
    let killed = Instant::now();
    kill_all(&service);
    // Each client fails at least once.
    thread::sleep(Duration::from_secs(1));
    let tally = load.stop();
    if !enough {
        return Err(format!("{} requests in {LONGEST:?}", tally.answers()));
    }
    let (after, before): (Vec<_>, Vec<_>) = tally.failures.into_iter().partition(|failure| failure.ended >= killed);
    report.add("requests answered, nothing changed", tally.answered.values().sum::<u64>() as f64, Bar::None);
    report.add("requests failed, nothing changed", before.len() as f64, Bar::AtMost(0.0));
    let after = Tally { failures: after, ..Tally::default() };
    for fate in [Fate::Refused, Fate::KeptReset] {
        report.add(format!("{fate}, all processes killed"), after.of(fate) as f64, Bar::AtLeast(1.0));
    }
    Ok(())
}

/// Of a service that is dropped afterwards.
fn kill_all(service: &Service) {
    let workers = service.workers();
    for pid in workers.iter().copied().chain([service.primary()]) {
        send(pid, Signal::SIGSTOP);
    }
    // The primary first, or there were replacements.
    send(service.primary(), Signal::SIGKILL);
    workers.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
    within(LONGEST, || workers.iter().all(|pid| !process::lives(*pid)));
}
