//! Which figures are plotted, and how.

use super::svg::{Chart, Row, Scale};
use super::{Beside, Figure, KEPT_OVER, Rank, Samples};
use crate::peer::Peer;
use crate::wrk::Load;

/// With the names of their files.
pub(crate) fn all(installed: &[&Peer], missing: &[&Peer], samples: &Samples<Figure>) -> [(&'static str, Chart); 3] {
    let plot = |title, unit, scale, figures: &[Figure]| Chart {
        title,
        unit,
        scale,
        series: figures.iter().map(|figure| label(*figure)).collect(),
        rows: rows(installed, missing, samples, figures),
    };
    let cpu = plot(
        "CPU time per request",
        "µs, user and system, whole process tree; median",
        Scale::Linear,
        &Load::ALL.map(Figure::Cpu),
    );
    let balance = plot(
        "Balance of connections",
        "connections of the worker with most, by the mean; 1 is even; median",
        Scale::Linear,
        &[KEPT_OVER.map(|workers| Figure::Kept { workers }).as_slice(), &[Figure::Sequential]].concat(),
    );
    let tail = plot(
        "99th percentile of the light route",
        "ms, logarithmic; median of the rounds",
        Scale::Logarithmic,
        &Beside::ALL.map(|beside| Figure::Light(beside, Rank::NinetyNine)),
    );
    [("cpu.svg", cpu), ("balance.svg", balance), ("tail.svg", tail)]
}

/// Peers of which nothing of the kind can be measured are left out; those that are missing are not.
fn rows(installed: &[&Peer], missing: &[&Peer], samples: &Samples<Figure>, figures: &[Figure]) -> Vec<Row> {
    let measured = installed.iter().map(|peer| Row {
        name: peer.name,
        values: figures.iter().filter_map(|figure| Some(samples.summary(*figure, peer.name)?.median)).collect(),
        note: "",
    });
    let missing = missing.iter().map(|peer| Row { name: peer.name, values: Vec::new(), note: "not installed" });
    measured.filter(|row| !row.values.is_empty()).chain(missing).collect()
}

/// What the title of the chart does not say already.
fn label(figure: Figure) -> String {
    match figure {
        Figure::Cpu(load) => load.to_string(),
        Figure::Light(beside, _) => beside.to_string(),
        Figure::Kept { workers } => format!("64 kept over {workers}"),
        Figure::Sequential => "800 sequential over 8".into(),
        other => other.to_string(),
    }
}
