//! Workers are killed at random under load. What a killed worker had accepted may fail, and nothing else.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::add_requests;
use super::exchange::Fate;
use super::load::{Failure, Load, Manner, Tally, roll};
use super::options::Options;
use super::report::Report;
use super::service::Service;
use crate::process;
use crate::results::Limit;
use crate::running::{send, within};

const WORKERS: usize = 8;
/// Between two kills, in the mean: so long that most replacements have been there for a while, and not all, and that pauses after
/// several ends of one slot stay short.
const PAUSE: Duration = Duration::from_millis(1200);

/// One kill, and when it was over.
struct Kill {
    pid: u32,
    sent: Instant,
    /// The process had closed everything by then.
    gone: Instant,
}

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<(), String> {
    let service = Service::start(WORKERS, Duration::ZERO)?;
    let load = Load::start(&service.target, Manner::default());
    service.wait_for_answers(WORKERS, &load)?;
    let (mut kills, mut dice) = (Vec::new(), 1);
    for _ in 0..options.amount.kills {
        dice = roll(dice);
        thread::sleep(PAUSE / 2 + PAUSE.mul_f64(dice as f64 / u64::MAX as f64));
        kills.extend(kill_one(&service.workers(), dice));
    }
    let replaced = service.wait_for_answers(WORKERS, &load);
    let tally = load.stop();
    let (excused, failures): (Vec<Failure>, Vec<Failure>) =
        tally.failures.into_iter().partition(|failure| is_excused(failure, &kills));
    report.add("workers killed", kills.len() as f64, Limit::AtLeast(options.amount.kills as f64));
    report.add("requests excused, which the killed may have had", excused.len() as f64, Limit::None);
    let note = format!(
        "{} of {WORKERS} workers killed, one at a time, {PAUSE:?} apart in the mean. Excused, and not among the failures: requests \
         on a connection of a killed worker, and the first of a connection if a worker was killed meanwhile; but never a refused one.",
        kills.len()
    );
    add_requests(report, &note, &Tally { failures, ..tally }, 1);
    replaced
}

/// None, if there is nobody to kill.
fn kill_one(workers: &BTreeSet<u32>, dice: u64) -> Option<Kill> {
    let pid = *workers.iter().nth(dice as usize % workers.len().max(1))?;
    let sent = Instant::now();
    send(pid, Signal::SIGKILL);
    within(Duration::from_secs(10), || !process::lives(pid)).then(|| Kill { pid, sent, gone: Instant::now() })
}

/// Whether a killed worker may have had this request.
fn is_excused(failure: &Failure, kills: &[Kill]) -> bool {
    let may_have_had = |kill: &Kill| match failure.of {
        Some(answerer) => kill.pid == answerer.pid && kill.sent <= failure.ended,
        None => kill.sent <= failure.ended && failure.began <= kill.gone,
    };
    failure.failed.fate != Fate::Refused && kills.iter().any(may_have_had)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::exchange::{Answerer, Failed, Kind};

    fn failure(of: Option<u32>, fate: Fate, began: Instant, ended: Instant) -> Failure {
        let failed = Failed { fate, text: String::new() };
        let of = of.map(|pid| Answerer { slot: 0, pid, generation: 1 });
        Failure { kind: Kind::ALL[0], failed, of, began, ended }
    }

    #[test]
    fn only_what_a_killed_worker_may_have_had_is_excused() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let kills = [Kill { pid: 7, sent: at(10), gone: at(20) }];
        let is_excused = |of, fate, began, ended| is_excused(&failure(of, fate, at(began), at(ended)), &kills);
        assert!(is_excused(None, Fate::Reset, 5, 15));
        assert!(is_excused(None, Fate::Cut, 15, 30), "begun while it was dying");
        assert!(!is_excused(None, Fate::Reset, 5, 9), "over before the kill");
        assert!(!is_excused(None, Fate::Reset, 21, 30), "begun after its end");
        assert!(!is_excused(None, Fate::Refused, 5, 15), "refused");
        assert!(is_excused(Some(7), Fate::KeptReset, 30, 31), "its connection");
        assert!(!is_excused(Some(8), Fate::KeptReset, 5, 15), "somebody else's connection");
    }
}
