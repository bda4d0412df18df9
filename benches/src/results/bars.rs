//! What `compare` promises.

use std::borrow::Cow::Borrowed;

use super::{Bar, Beside, Figure, Limit, Measured, Rank};
use crate::peer::DEFAULT;
use crate::wrk::Load;

const P99_QUIET: Figure = Figure::Light(Beside::Nobody, Rank::NinetyNine);
const P99_REPORT: Figure = Figure::Light(Beside::Report, Rank::NinetyNine);
const P99_SPINNER: Figure = Figure::Light(Beside::Spinner, Rank::NinetyNine);

pub(crate) const ALL: [Bar<Figure>; 12] = [
    Bar {
        name: Borrowed("keep-alive, CPU per request: default / tokio threads"),
        measured: Measured::Ratio((Figure::Cpu(Load::Kept), DEFAULT), (Figure::Cpu(Load::Kept), "tokio-threads")),
        limit: Limit::AtMost(1.00),
    },
    Bar {
        name: Borrowed("a connection each, CPU per request: default / tokio threads"),
        measured: Measured::Ratio((Figure::Cpu(Load::Each), DEFAULT), (Figure::Cpu(Load::Each), "tokio-threads")),
        limit: Limit::AtMost(0.95),
    },
    Bar {
        name: Borrowed("the same: default / Node's round robin"),
        measured: Measured::Ratio((Figure::Cpu(Load::Each), DEFAULT), (Figure::Cpu(Load::Each), "node-rr")),
        limit: Limit::AtMost(0.25),
    },
    Bar {
        name: Borrowed("the same: `round-robin` / Node's round robin"),
        measured: Measured::Ratio(
            (Figure::Cpu(Load::Each), "cluster-round-robin"),
            (Figure::Cpu(Load::Each), "node-rr"),
        ),
        limit: Limit::AtMost(0.35),
    },
    Bar {
        name: Borrowed("64 kept connections over 8 workers, most / mean: default"),
        measured: Measured::Median((Figure::Kept { workers: 8 }, DEFAULT)),
        limit: Limit::AtMost(1.10),
    },
    Bar {
        name: Borrowed("800 sequential connections over 8 workers, most / mean: default"),
        measured: Measured::Median((Figure::Sequential, DEFAULT)),
        limit: Limit::AtMost(1.20),
    },
    Bar {
        name: Borrowed("p99 of the light route, default: one worker of two busy / nobody busy"),
        measured: Measured::Ratio((P99_REPORT, DEFAULT), (P99_QUIET, DEFAULT)),
        limit: Limit::AtMost(3.0),
    },
    Bar {
        name: Borrowed("of it the scheduler alone: an unrelated process busy / nobody busy"),
        measured: Measured::Ratio((P99_SPINNER, DEFAULT), (P99_QUIET, DEFAULT)),
        limit: Limit::None,
    },
    Bar {
        name: Borrowed("p99 while one worker is busy: default / `kernel`"),
        measured: Measured::Ratio((P99_REPORT, DEFAULT), (P99_REPORT, "cluster-kernel")),
        limit: Limit::Below(1.0),
    },
    Bar {
        name: Borrowed("the same: default / Node's round robin"),
        measured: Measured::Ratio((P99_REPORT, DEFAULT), (P99_REPORT, "node-rr")),
        limit: Limit::Below(1.0),
    },
    Bar {
        name: Borrowed("the same: default / Node's `none`"),
        measured: Measured::Ratio((P99_REPORT, DEFAULT), (P99_REPORT, "node-none")),
        limit: Limit::Below(1.0),
    },
    Bar {
        name: Borrowed("one worker of four killed, 200 clients queued, without an answer in any run: default"),
        measured: Measured::Most((Figure::Lost, DEFAULT)),
        limit: Limit::AtMost(0.0),
    },
];
