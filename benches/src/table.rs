//! Figures by peer, and their medians as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    CpuKeepAlive,
    CpuConnection,
    StartToServing,
    CrashToServing,
    WorkerPrivate,
    WorkerShare,
}

impl Figure {
    const ALL: [Self; 6] = [
        Self::CpuKeepAlive,
        Self::CpuConnection,
        Self::StartToServing,
        Self::CrashToServing,
        Self::WorkerPrivate,
        Self::WorkerShare,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::CpuKeepAlive => "CPU per request, 64 kept connections (µs, whole tree)",
            Self::CpuConnection => "CPU per request, a connection each (µs, whole tree)",
            Self::StartToServing => "start to first answer (ms)",
            Self::CrashToServing => "every worker killed to next answer (ms)",
            Self::WorkerPrivate => "memory of a worker after load, private (MiB)",
            Self::WorkerShare => "memory of a worker after load, with its share of common pages (MiB)",
        }
    }
}

/// All rounds of all peers.
pub(crate) struct Table {
    peers: Vec<&'static str>,
    rounds: BTreeMap<(Figure, &'static str), Vec<f64>>,
}

impl Table {
    pub(crate) fn new(peers: impl Iterator<Item = &'static str>) -> Self {
        Self { peers: peers.collect(), rounds: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, peer: &'static str, figure: Figure, value: f64) {
        self.rounds.entry((figure, peer)).or_default().push(value);
    }

    /// One row for each figure; a cell is the median and, in parentheses, the least and the most.
    pub(crate) fn to_markdown(&self, rounds: usize) -> String {
        let mut text =
            format!("Medians of {rounds} interleaved rounds (least–most); 2 cores, shared with the client.\n\n");
        _ = writeln!(text, "| | {} |", self.peers.join(" | "));
        _ = writeln!(text, "| --- |{}", " --- |".repeat(self.peers.len()));
        for figure in Figure::ALL {
            let cells: Vec<String> = self.peers.iter().map(|peer| self.cell(figure, peer)).collect();
            _ = writeln!(text, "| {} | {} |", figure.title(), cells.join(" | "));
        }
        text
    }

    fn cell(&self, figure: Figure, peer: &'static str) -> String {
        let Some(values) = self.rounds.get(&(figure, peer)) else { return "–".into() };
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        let (least, median, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
        format!("{median:.1} ({least:.1}–{most:.1})")
    }
}
