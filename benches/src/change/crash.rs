//! How long it takes from the end of a worker until its replacement answers.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::options::Options;
use super::report::{Bar, Report};
use super::service::Service;
use crate::client;
use crate::results::Rank;
use crate::running::send;

/// Each is killed once in a round.
const WORKERS: usize = 16;
/// Between two rounds: who was ready for ten seconds is replaced at once, however often.
const TO_BE_TRUSTED: Duration = Duration::from_millis(10_500);
const LONGEST: Duration = Duration::from_secs(30);

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), String> {
    let service = Service::start(WORKERS, Duration::ZERO)?;
    let mut ready = Instant::now();
    let mut spans = Vec::new();
    while spans.len() < options.amount.crashes {
        thread::sleep(TO_BE_TRUSTED.saturating_sub(ready.elapsed()));
        let workers = meet_all(&service)?;
        for (slot, pid) in workers.into_iter().take(options.amount.crashes - spans.len()) {
            spans.push(kill(&service, slot, pid)?);
        }
        ready = Instant::now();
    }
    spans.sort_unstable();
    let ms = |rank: Rank| rank.of(&spans).as_secs_f64() * 1e3;
    report.add("workers killed", spans.len() as f64, Bar::AtLeast(options.amount.crashes as f64));
    report.add("kill to an answer of the replacement, median (ms)", ms(Rank::Half), Bar::AtMost(20.0));
    report.add("the same, p99 (ms)", ms(Rank::NinetyNine), Bar::AtMost(100.0));
    report.add("the same, most (ms)", ms(Rank::Last), Bar::None);
    Ok(())
}

/// Who answers in each slot.
fn meet_all(service: &Service) -> Result<BTreeMap<usize, u32>, String> {
    let since = Instant::now();
    let mut known = BTreeMap::new();
    while known.len() < WORKERS {
        if since.elapsed() > LONGEST {
            return Err(format!("only {} of {WORKERS} slots answer", known.len()));
        }
        known.extend(ask(service));
    }
    Ok(known)
}

/// Kills a worker and asks until somebody else of its slot answers. It is found by chance, in one of sixteen attempts: the
/// time that this takes is counted, too.
fn kill(service: &Service, slot: usize, pid: u32) -> Result<Duration, String> {
    let sent = Instant::now();
    send(pid, Signal::SIGKILL);
    loop {
        if ask(service).is_some_and(|(answering, other)| answering == slot && other != pid) {
            return Ok(sent.elapsed());
        }
        if sent.elapsed() > LONGEST {
            return Err(format!("nobody answers in slot {slot} {LONGEST:?} after a kill"));
        }
    }
}

/// Slot and pid of whoever answers, on a connection of its own.
fn ask(service: &Service) -> Option<(usize, u32)> {
    let answer = client::ask_once(service.target.tcp, "/").ok()?;
    let mut parts = answer.strip_prefix("hello from ")?.split(' ');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
