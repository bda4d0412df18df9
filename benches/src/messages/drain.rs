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
    let (mut idle, mut flooding) = (None, None);
    // They come in any order.
    let [idle, flooding] = talk.lines.find("idles, and floods", PATIENCE, |line| {
        idle = idle.or_else(|| number_after(IDLES, line));
        flooding = flooding.or_else(|| number_after(FLOODS, line));
        Some(Ok([idle?, flooding?]))
    })?;
    if is_idle_first {
        Ok([order(&talk, idle, IDLES)?, order(&talk, flooding, FLOODS)?])
    } else {
        let flooding = order(&talk, flooding, FLOODS)?;
        Ok([order(&talk, idle, IDLES)?, flooding])
    }
}

/// What a worker says once it is at work, before its process id.
const IDLES: &str = "idles ";
const FLOODS: &str = "floods ";

/// Tells a worker to end, hears from it when it knew, and waits until its replacement is at work, which may be sooner.
fn order(talk: &Talk, pid: u64, work: &str) -> Result<Duration, String> {
    let told = format!("told {pid} ");
    let (mut known, mut successor) = (None, None);
    let sent = now();
    send(u32::try_from(pid).expect("it is a process id"), Signal::SIGTERM);
    let known = talk.lines.find(&told, PATIENCE, |line| {
        known = known.or_else(|| number_after(&told, line));
        successor = successor.or_else(|| number_after(work, line));
        successor.and(known).map(Ok)
    })?;
    Ok(Duration::from_nanos(known).saturating_sub(sent))
}

fn number_after(words: &str, line: &str) -> Option<u64> {
    line.strip_prefix(words)?.parse().ok()
}

/// By the clock that all processes share.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a clock").into()
}
