//! Reloads and upgrades under load: all workers are replaced, and in an upgrade the primary is, too.

use std::time::{Duration, Instant};

use super::add_requests;
use super::load::{Load, Manner, Tally};
use super::options::Options;
use super::report::Report;
use super::service::Service;
use crate::results::Limit;

const WORKERS: usize = 4;
/// What a worker takes to start that loads a model or fills a cache.
const SLOW_START: Duration = Duration::from_secs(2);
/// However long the requests take that are asked for.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// What was done under load, and what became of the requests.
struct Outcome {
    done: usize,
    tally: Tally,
    /// Generations that should have answered, and did not.
    unseen: u64,
    /// Why it was not enough.
    result: Result<(), String>,
}

pub(crate) fn measure_reloads(options: &Options, report: &mut Report) -> Result<(), String> {
    let amount = options.amount;
    let slow_reloads = amount.reloads.div_ceil(10);
    let mut outcome = under_load(SLOW_START, Service::reload, |done, _| done >= slow_reloads)?;
    let slow = outcome.done;
    if outcome.result.is_ok() {
        let requests = amount.requests.saturating_sub(outcome.tally.answers());
        let is_enough = |done, load: &Load| done >= amount.reloads - slow && load.answered() >= requests;
        outcome.follow(under_load(Duration::ZERO, Service::reload, is_enough)?);
    }
    report.add("reloads", outcome.done as f64, Limit::AtLeast(amount.reloads as f64));
    report.add("of them with workers that are slow to start", slow as f64, Limit::AtLeast(slow_reloads as f64));
    let note = format!(
        "{slow} reloads of {WORKERS} workers that take {SLOW_START:?} to start, then {} of such that start at once, one after the other.",
        outcome.done - slow
    );
    outcome.add_to(report, &note, amount.requests)
}

pub(crate) fn measure_upgrades(options: &Options, report: &mut Report) -> Result<(), String> {
    let upgrades = options.amount.upgrades;
    let outcome = under_load(Duration::ZERO, Service::upgrade, |done, _| done >= upgrades)?;
    report.add("upgrades under one pid", outcome.done as f64, Limit::AtLeast(upgrades as f64));
    let note = format!("{} upgrades of a primary with {WORKERS} workers, one after the other.", outcome.done);
    outcome.add_to(report, &note, 1)
}

impl Outcome {
    fn follow(&mut self, next: Self) {
        self.done += next.done;
        self.tally.merge(next.tally);
        self.unseen += next.unseen;
        self.result = next.result;
    }

    fn add_to(self, report: &mut Report, note: &str, requests: u64) -> Result<(), String> {
        report.add("generations that never answered, at the end", self.unseen as f64, Limit::AtMost(0.0));
        add_requests(report, note, &self.tally, requests);
        self.result
    }
}

/// Changes a service under load, again and again, until it is enough.
fn under_load(
    start_delay: Duration,
    change: fn(&mut Service) -> Result<(), String>,
    is_enough: impl Fn(usize, &Load) -> bool,
) -> Result<Outcome, String> {
    let mut service = Service::start(WORKERS, start_delay)?;
    let load = Load::start(&service.target, Manner::default());
    let began = Instant::now();
    let mut done = 0;
    let result = loop {
        if is_enough(done, &load) {
            break service.wait_for_answers(WORKERS, &load);
        }
        if began.elapsed() > LONGEST {
            break Err(format!("{done} changes and {} requests in {LONGEST:?} are not enough", load.requests()));
        }
        if let Err(reason) = change(&mut service) {
            break Err(format!("change {}: {reason}", done + 1));
        }
        done += 1;
    };
    let highest = load.answerers().iter().map(|answerer| answerer.generation).max().unwrap_or_default();
    // One was there before the first change.
    let unseen = (done as u64 + 1).saturating_sub(highest);
    Ok(Outcome { done, tally: load.stop(), unseen, result })
}
