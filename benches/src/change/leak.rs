//! What is left over from many reloads in the primary.

use std::time::Duration;

use super::options::Options;
use super::report::Report;
use super::service::Service;
use crate::process;
use crate::results::Limit;

const WORKERS: usize = 2;
/// After so many everything that grows once has grown.
const FIRST: usize = 5;
/// For each that is asked for under load.
const PER_RELOAD: usize = 5;
/// A primary may not grow by more than this (MiB); a descriptor, a task or a line of a log that is kept of each reload does.
const MOST_GROWTH: f64 = 1.0;

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), String> {
    let mut service = Service::start(WORKERS, Duration::ZERO)?;
    let all = FIRST + (options.amount.reloads * PER_RELOAD).saturating_sub(FIRST);
    reload(&mut service, 1..=FIRST)?;
    let (descriptors, memory) = look(&service)?;
    reload(&mut service, FIRST + 1..=all)?;
    let (descriptors_after, memory_after) = look(&service)?;
    report.add("reloads", all as f64, Limit::AtLeast((options.amount.reloads * PER_RELOAD) as f64));
    report.add(format!("descriptors of the primary after {FIRST}"), descriptors as f64, Limit::None);
    report.add(format!("the same after {all}"), descriptors_after as f64, Limit::AtMost(descriptors as f64));
    report.add("zombies", service.zombies() as f64, Limit::AtMost(0.0));
    for (name, before, after) in [
        ("RSS", memory.resident_mib, memory_after.resident_mib),
        ("PSS", memory.proportional_mib, memory_after.proportional_mib),
    ] {
        report.add(format!("{name} of the primary after {FIRST} (MiB)"), before, Limit::None);
        report.add(format!("its growth until {all} (MiB)"), after - before, Limit::AtMost(MOST_GROWTH));
    }
    Ok(())
}

fn reload(service: &mut Service, mut numbers: std::ops::RangeInclusive<usize>) -> Result<(), String> {
    numbers.try_for_each(|number| service.reload().map_err(|reason| format!("reload {number}: {reason}")))
}

/// At the primary, once predecessors are gone.
fn look(service: &Service) -> Result<(usize, process::Memory), String> {
    service.settle(WORKERS)?;
    Ok((process::descriptors(service.primary()), process::memory(service.primary())))
}
