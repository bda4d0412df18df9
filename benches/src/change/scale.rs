//! From one worker to eight and back, under load.

use nix::sys::signal::Signal;
use std::time::Duration;

use super::add_requests;
use super::load::{Load, Manner};
use super::options::Options;
use super::report::Report;
use super::service::Service;
use crate::results::Limit;
use crate::running::within;

const MOST: usize = 8;
/// Answers between growing and shrinking: so many that the new workers have kept connections, too, when they go.
const BETWEEN: u64 = 10_000;
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), String> {
    let service = Service::start(1, Duration::ZERO)?;
    let load = Load::start(&service.target, Manner::default());
    let mut done = 0;
    let result = (1..=options.amount.cycles).try_for_each(|number| {
        cycle(&service, &load).map_err(|reason| format!("cycle {number}: {reason}"))?;
        done = number;
        Ok(())
    });
    let tally = load.stop();
    report.add("cycles, each worker seen to answer", done as f64, Limit::AtLeast(options.amount.cycles as f64));
    add_requests(report, &format!("{done} times from 1 worker to {MOST} and back."), &tally, 1);
    result
}

fn cycle(service: &Service, load: &Load) -> Result<(), String> {
    for count in 2..=MOST {
        service.scale(Signal::SIGTTIN, count)?;
    }
    service.wait_for_answers(MOST, load)?;
    let enough = load.answered() + BETWEEN;
    if !within(LONGEST, || load.answered() >= enough) {
        return Err(format!("no {BETWEEN} answers in {LONGEST:?}"));
    }
    for count in (1..MOST).rev() {
        service.scale(Signal::SIGTTOU, count)?;
    }
    service.wait_for_workers(1).map(|_| ())
}
