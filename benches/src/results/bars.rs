//! What this library promises of itself, beside what was measured.

use super::samples::Summary;
use super::{Beside, Figure, Rank, Samples};
use crate::peer::DEFAULT;
use crate::wrk::Load;

/// One promise, or something to know beside it.
pub(crate) struct Bar {
    pub(crate) name: &'static str,
    measured: Measured,
    pub(crate) limit: Limit,
}

enum Measured {
    /// One median by another.
    Ratio(Of, Of),
    Median(Of),
    /// The worst, because no case is to be excused.
    Most(Of),
}

type Of = (Figure, &'static str);

pub(crate) enum Limit {
    AtMost(f64),
    Below(f64),
    /// To compare with.
    None,
}

const P99_QUIET: Figure = Figure::Light(Beside::Nobody, Rank::NinetyNine);
const P99_REPORT: Figure = Figure::Light(Beside::Report, Rank::NinetyNine);
const P99_SPINNER: Figure = Figure::Light(Beside::Spinner, Rank::NinetyNine);

pub(crate) const ALL: [Bar; 12] = [
    Bar {
        name: "keep-alive, CPU per request: default / tokio threads",
        measured: Measured::Ratio((Figure::Cpu(Load::Kept), DEFAULT), (Figure::Cpu(Load::Kept), "tokio-threads")),
        limit: Limit::AtMost(1.00),
    },
    Bar {
        name: "a connection each, CPU per request: default / tokio threads",
        measured: Measured::Ratio((Figure::Cpu(Load::Each), DEFAULT), (Figure::Cpu(Load::Each), "tokio-threads")),
        limit: Limit::AtMost(0.95),
    },
    Bar {
        name: "the same: default / Node's round robin",
        measured: Measured::Ratio((Figure::Cpu(Load::Each), DEFAULT), (Figure::Cpu(Load::Each), "node-rr")),
        limit: Limit::AtMost(0.25),
    },
    Bar {
        name: "the same: `round-robin` / Node's round robin",
        measured: Measured::Ratio(
            (Figure::Cpu(Load::Each), "cluster-round-robin"),
            (Figure::Cpu(Load::Each), "node-rr"),
        ),
        limit: Limit::AtMost(0.35),
    },
    Bar {
        name: "64 kept connections over 8 workers, most / mean: default",
        measured: Measured::Median((Figure::Kept { workers: 8 }, DEFAULT)),
        limit: Limit::AtMost(1.10),
    },
    Bar {
        name: "800 sequential connections over 8 workers, most / mean: default",
        measured: Measured::Median((Figure::Sequential, DEFAULT)),
        limit: Limit::AtMost(1.20),
    },
    Bar {
        name: "p99 of the light route, default: one worker of two busy / nobody busy",
        measured: Measured::Ratio((P99_REPORT, DEFAULT), (P99_QUIET, DEFAULT)),
        limit: Limit::AtMost(3.0),
    },
    Bar {
        name: "of it the scheduler alone: an unrelated process busy / nobody busy",
        measured: Measured::Ratio((P99_SPINNER, DEFAULT), (P99_QUIET, DEFAULT)),
        limit: Limit::None,
    },
    Bar {
        name: "p99 while one worker is busy: default / `kernel`",
        measured: Measured::Ratio((P99_REPORT, DEFAULT), (P99_REPORT, "cluster-kernel")),
        limit: Limit::Below(1.0),
    },
    Bar {
        name: "the same: default / Node's round robin",
        measured: Measured::Ratio((P99_REPORT, DEFAULT), (P99_REPORT, "node-rr")),
        limit: Limit::Below(1.0),
    },
    Bar {
        name: "the same: default / Node's `none`",
        measured: Measured::Ratio((P99_REPORT, DEFAULT), (P99_REPORT, "node-none")),
        limit: Limit::Below(1.0),
    },
    Bar {
        name: "one worker of four killed, 200 clients queued, without an answer in any run: default",
        measured: Measured::Most((Figure::Lost, DEFAULT)),
        limit: Limit::AtMost(0.0),
    },
];

impl Bar {
    /// None, if a peer is missing. Where one median is divided by another, the range is that of the rounds' own ratios.
    pub(crate) fn value(&self, samples: &Samples) -> Option<Summary> {
        match self.measured {
            Measured::Ratio(over, under) => {
                let rounds = samples.of(over.0, over.1).iter().zip(samples.of(under.0, under.1));
                let ratios = Summary::of(rounds.map(|(over, under)| over / under))?;
                let median = samples.summary(over.0, over.1)?.median / samples.summary(under.0, under.1)?.median;
                Some(Summary { median, ..ratios })
            }
            Measured::Median((figure, peer)) => samples.summary(figure, peer),
            Measured::Most((figure, peer)) => {
                samples.summary(figure, peer).map(|summary| Summary { median: summary.most, ..summary })
            }
        }
    }
}

impl Limit {
    /// None, if there is nothing to meet.
    pub(crate) fn is_met(&self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= *limit),
            Self::Below(limit) => Some(value < *limit),
            Self::None => None,
        }
    }
}
