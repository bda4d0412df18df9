//! How soon a worker hears that it is to end: one that floods the primary function, and one beside it that idles.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use super::figure::{Figure, Primary, Worker};
use super::options::Options;
use super::peer::Peer;
use super::talk::{PATIENCE, Talk};
use crate::results::{Rank, Samples};
use crate::running::send;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    for primary in Primary::ALL {
        let mut spans = [Vec::new(), Vec::new()];
        for number in 0..options.drains() {
            let [idle, flooding] = drain_both(options, primary, number % 2 == 0)?;
            spans[0].push(idle);
            spans[1].push(flooding);
        }
        for (worker, mut spans) in [Worker::Idle, Worker::Flooding].into_iter().zip(spans) {
            spans.sort_unstable();
            let half = Rank::Half.of(&spans).as_secs_f64() * 1e3;
            samples.add(Figure::Told(worker, primary), Peer::Cluster.name(), half);
        }
    }
    Ok(())
}

/// Of a cluster with one worker of each kind: what the order takes to reach the idle one and the flooding one. The second gets its
/// order once the first one's replacement is at work.
fn drain_both(options: &Options, primary: Primary, is_idle_first: bool) -> Result<[Duration; 2], String> {
    let way = match primary {
        Primary::Reads => "reads",
        Primary::NeverReads => "never-reads",
    };
    let talk = Talk::start(Peer::Cluster.command(&["drain", way]), options)?;
    let [idle, flooding] = both_at_work(&talk)?;
    if is_idle_first {
        let idle = order(&talk, idle)?;
        at_work(&talk, "idles")?;
        Ok([idle, order(&talk, flooding)?])
    } else {
        let flooding = order(&talk, flooding)?;
        at_work(&talk, "floods")?;
        Ok([order(&talk, idle)?, flooding])
    }
}

/// The process ids of the idle and the flooding one, who come in any order.
fn both_at_work(talk: &Talk) -> Result<[u32; 2], String> {
    let (mut idle, mut flooding) = (None, None);
    talk.lines.find("idles, and floods", PATIENCE, |line| {
        idle = idle.or_else(|| pid_after("idles", line));
        flooding = flooding.or_else(|| pid_after("floods", line));
        Some(Ok([idle?, flooding?]))
    })
}

fn at_work(talk: &Talk, word: &str) -> Result<u32, String> {
    talk.lines.find(word, PATIENCE, |line| pid_after(word, line).map(Ok))
}

fn pid_after(word: &str, line: &str) -> Option<u32> {
    line.strip_prefix(word)?.trim().parse().ok()
}

/// Tells a worker to end, and hears from it when it knew.
fn order(talk: &Talk, pid: u32) -> Result<Duration, String> {
    let sent = now();
    send(pid, Signal::SIGTERM);
    let known = talk.lines.find(&format!("told {pid}"), PATIENCE, |line| {
        let nanoseconds = line.strip_prefix(&format!("told {pid} "))?.parse().ok()?;
        Some(Ok(Duration::from_nanos(nanoseconds)))
    })?;
    Ok(known.saturating_sub(sent))
}

/// By the clock that all processes share.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a clock").into()
}
