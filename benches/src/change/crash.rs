//! How long it takes from the end of a worker until its replacement answers.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::options::Options;
use super::report::Report;
use super::service::Service;
use crate::client::{self, Connection};
use crate::results::{Limit, Rank};
use crate::running::send;

/// Each is killed once in a round.
const WORKERS: usize = 16;
/// Between two rounds: who was ready for ten seconds is replaced at once, however often.
const TO_BE_TRUSTED: Duration = Duration::from_millis(10_500);
/// That each worker has while one is killed, so that a replacement, which has none, gets whatever comes as soon as it serves.
const CONNECTIONS: usize = 8;
const LONGEST: Duration = Duration::from_secs(30);

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), String> {
    let service = Service::start(WORKERS, Duration::ZERO)?;
    let mut spans = Vec::new();
    while spans.len() < options.amount.crashes {
        thread::sleep(TO_BE_TRUSTED);
        // Anew in each round: who asks nothing for a minute is closed.
        let mut company = Vec::new();
        let workers = open(&service, WORKERS * CONNECTIONS, &mut company)?;
        if workers.len() < WORKERS {
            return Err(format!("only {} of {WORKERS} slots answer", workers.len()));
        }
        for (slot, pid) in workers.into_iter().take(options.amount.crashes - spans.len()) {
            spans.push(kill(&service, slot, pid)?);
            open(&service, CONNECTIONS, &mut company)?;
        }
    }
    spans.sort_unstable();
    let ms = |rank: Rank| rank.of(&spans).as_secs_f64() * 1e3;
    report.add("workers killed", spans.len() as f64, Limit::AtLeast(options.amount.crashes as f64));
    // A trial is no measurement, and runs on whatever is busy with something else.
    let at_most = |bar| if options.is_trial() { Limit::None } else { Limit::AtMost(bar) };
    report.add("kill to an answer of the replacement, median (ms)", ms(Rank::Half), at_most(20.0));
    report.add("the same, p99 (ms)", ms(Rank::NinetyNine), at_most(100.0));
    report.add("the same, most (ms)", ms(Rank::Last), Limit::None);
    Ok(())
}

/// Opens connections that stay, and tells who answered in each slot.
fn open(service: &Service, count: usize, company: &mut Vec<Connection>) -> Result<BTreeMap<usize, u32>, String> {
    let mut known = BTreeMap::new();
    for _ in 0..count {
        let mut connection = Connection::open(service.target.tcp).map_err(|error| error.to_string())?;
        known.extend(connection.ask("/").ok().as_deref().and_then(who));
        company.push(connection);
    }
    Ok(known)
}

/// Kills a worker and asks, on a connection each, until somebody else of its slot answers.
fn kill(service: &Service, slot: usize, pid: u32) -> Result<Duration, String> {
    let sent = Instant::now();
    send(pid, Signal::SIGKILL);
    loop {
        let answer = client::ask_once(service.target.tcp, "/");
        if answer.ok().as_deref().and_then(who).is_some_and(|(answering, other)| answering == slot && other != pid) {
            return Ok(sent.elapsed());
        }
        if sent.elapsed() > LONGEST {
            return Err(format!("nobody answers in slot {slot} {LONGEST:?} after a kill"));
        }
    }
}

/// Slot and pid of whoever gave this answer.
fn who(answer: &str) -> Option<(usize, u32)> {
    let mut parts = answer.strip_prefix("hello from ")?.split(' ');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
