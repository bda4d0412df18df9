//! Reloads and upgrades under load: all workers are replaced, and in an upgrade the primary is, too.

use std::time::{Duration, Instant};

use super::add_requests;
use super::load::{Load, Manner, Tally};
use super::options::Options;
use super::report::{Bar, Report};
use super::service::Service;

const WORKERS: usize = 4;
/// What a worker takes to start that loads a model or fills a cache.
const SLOW_START: Duration = Duration::from_secs(2);
/// However long the requests take that are asked for.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// What was done under load, and what became of the requests.
struct Outcome {
    done: usize,
    tally: Tally,
    /// The highest generation that answered.
    generation: u64,
}

pub(crate) fn measure_reloads(options: &Options, report: &mut Report) -> Result<(), String> {
    let amount = options.amount;
    let slow_reloads = amount.reloads.div_ceil(10);
    let slow = under_load(SLOW_START, |service, _| service.reload(), |done, _| done >= slow_reloads)?;
    let (reloads, requests) = (amount.reloads - slow_reloads, amount.requests.saturating_sub(slow.tally.answers()));
    let quick = under_load(
        Duration::ZERO,
        |service, _| service.reload(),
        |done, load| done >= reloads && load.answered() >= requests,
    )?;
    let note = format!(
        "{} reloads of {WORKERS} workers that take {SLOW_START:?} to start, then {} of such that start at once, one after the other.",
        slow.done, quick.done
    );
    report.add("reloads", (slow.done + quick.done) as f64, Bar::AtLeast(amount.reloads as f64));
    report.add("of them with workers that are slow to start", slow.done as f64, Bar::AtLeast(slow_reloads as f64));
    // The first generation was there before the first reload.
    let unseen = [&slow, &quick].map(|outcome| (outcome.done as u64 + 1).saturating_sub(outcome.generation));
    report.add("generations short of the last that answered", unseen.iter().sum::<u64>() as f64, Bar::AtMost(0.0));
    let mut tally = slow.tally;
    tally.merge(quick.tally);
    add_requests(report, &note, &tally, amount.requests);
    Ok(())
}

pub(crate) fn measure_upgrades(options: &Options, report: &mut Report) -> Result<(), String> {
    let upgrades = options.amount.upgrades;
    let outcome = under_load(Duration::ZERO, |service, _| service.upgrade(), |done, _| done >= upgrades)?;
    let note = format!("{} upgrades of a primary with {WORKERS} workers, one after the other.", outcome.done);
    report.add("upgrades under one pid", outcome.done as f64, Bar::AtLeast(upgrades as f64));
    let unseen = (outcome.done as u64 + 1).saturating_sub(outcome.generation);
    report.add("generations short of the last that answered", unseen as f64, Bar::AtMost(0.0));
    add_requests(report, &note, &outcome.tally, 1);
    Ok(())
}

/// Changes a service under load, again and again, until it is enough.
fn under_load(
    start_delay: Duration,
    mut change: impl FnMut(&mut Service, &Load) -> Result<(), String>,
    is_enough: impl Fn(usize, &Load) -> bool,
) -> Result<Outcome, String> {
    let mut service = Service::start(WORKERS, start_delay)?;
    let load = Load::start(&service.target, Manner::default());
    let began = Instant::now();
    let mut done = 0;
    let changed = loop {
        if is_enough(done, &load) {
            break service.wait_for_answers(WORKERS, &load);
        }
        if began.elapsed() > LONGEST {
            break Err(format!("too slow: {done} changes and {} requests in {LONGEST:?}", load.requests()));
        }
        if let Err(reason) = change(&mut service, &load) {
            break Err(format!("change {}: {reason}", done + 1));
        }
        done += 1;
    };
    let generation = load.answerers().iter().map(|answerer| answerer.generation).max().unwrap_or_default();
    let tally = load.stop();
    changed.map_err(|reason| {
        format!("{reason} ({} answered, {} failed until then)", tally.answers(), tally.failures.len())
    })?;
    Ok(Outcome { done, tally, generation })
}
