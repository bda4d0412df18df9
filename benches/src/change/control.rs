//! Whether these eyes see: a cluster is left alone under load, and then killed whole. Nothing may fail before, and requests
//! have to afterwards.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::exchange::{Fate, Kind};
use super::load::{Load, Manner, Tally};
use super::options::Options;
use super::report::Report;
use super::service::Service;
use crate::process;
use crate::results::Limit;
use crate::running::{send, within};

const WORKERS: usize = 4;
/// Of each kind.
const CLIENTS: usize = 4;
/// So many that every client has failed several times.
const FAILURES: u64 = 1000;
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), String> {
    let service = Service::start(WORKERS, Duration::ZERO)?;
    let load = Load::start(&service.target, Manner { clients: CLIENTS, ..Manner::default() });
    let requests = options.amount.requests / 20;
    let enough = within(LONGEST, || load.requests() >= requests);
    let killed = Instant::now();
    kill_all(&service, &load);
    // Time for each client to fail at least once.
    let failing = within(LONGEST, || load.requests() >= load.answered() + FAILURES);
    let tally = load.stop();
    if !enough || !failing {
        return Err(format!("{} answers and {} failures in {LONGEST:?}", tally.answers(), tally.failures.len()));
    }
    let (after, before): (Vec<_>, Vec<_>) = tally.failures.into_iter().partition(|failure| failure.ended >= killed);
    report.add("requests answered, nothing changed", tally.answered.values().sum::<u64>() as f64, Limit::None);
    report.add("requests failed, nothing changed", before.len() as f64, Limit::AtMost(0.0));
    let after = Tally { failures: after, ..Tally::default() };
    // All but those that pause.
    let waited = Kind::ALL.map(|kind| if kind.is_kept { CLIENTS - CLIENTS / 4 } else { CLIENTS });
    let lost = [Fate::Reset, Fate::KeptReset, Fate::Cut].map(|fate| after.of(fate) as f64);
    report.add(
        "requests lost, all processes killed",
        lost.iter().sum(),
        Limit::AtLeast(waited.iter().sum::<usize>() as f64),
    );
    report.add("refused, all processes killed", after.of(Fate::Refused) as f64, Limit::AtLeast(1.0));
    Ok(())
}

/// Of a service that is dropped afterwards: while every client waits for an answer, so that none can know before it asks.
fn kill_all(service: &Service, load: &Load) {
    let workers = service.workers();
    let all = || workers.iter().copied().chain([service.primary()]);
    all().for_each(|pid| send(pid, Signal::SIGSTOP));
    within(LONGEST, || all().all(process::is_stopped) && stands_still(load));
    // The primary last: the kernel continues stopped workers when it goes, and stopped it replaces nobody.
    workers.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
    within(LONGEST, || workers.iter().all(|pid| !process::lives(*pid)));
    send(service.primary(), Signal::SIGKILL);
}

fn stands_still(load: &Load) -> bool {
    let before = load.requests();
    thread::sleep(Duration::from_millis(100));
    load.requests() == before
}
