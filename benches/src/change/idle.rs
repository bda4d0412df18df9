//! Whether anything wakes up where there is nothing to do.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use super::options::Options;
use super::report::Report;
use super::service::Service;
use crate::process;
use crate::results::Limit;

const SPAN: Duration = Duration::from_secs(10);

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), String> {
    let count = options.amount.idle;
    let service = Service::start(count, Duration::ZERO)?;
    service.settle(count)?;
    let before = switches(&service);
    thread::sleep(SPAN);
    let after = switches(&service);
    if before.keys().ne(after.keys()) {
        return Err("workers came or went while they should have idled".into());
    }
    // Less than before tells of a thread that has ended, and woke up for it.
    let woken: BTreeMap<u32, u64> = before.iter().map(|(pid, count)| (*pid, after[pid].abs_diff(*count))).collect();
    let primary = woken[&service.primary()];
    let workers: u64 = woken.values().sum::<u64>() - primary;
    report.add("workers", (woken.len() - 1) as f64, Limit::AtLeast(count as f64));
    // What is periodic wakes up at least once in so long a time.
    report.add(format!("times that the primary wakes up in {SPAN:?}"), primary as f64, Limit::AtMost(0.0));
    report.add(format!("times that workers wake up in {SPAN:?}, all together"), workers as f64, Limit::AtMost(0.0));
    Ok(())
}

fn switches(service: &Service) -> BTreeMap<u32, u64> {
    let all = service.workers().into_iter().chain([service.primary()]);
    all.map(|pid| (pid, process::voluntary_switches(pid))).collect()
}
