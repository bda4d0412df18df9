//! A part of a document: a heading, what it is about, and a table.

use std::fmt::Write as _;

use super::brief;
use super::samples::{Quantity, Samples};

pub(crate) struct Section<F: 'static> {
    pub(crate) title: &'static str,
    pub(crate) note: &'static str,
    pub(crate) figures: &'static [F],
    pub(crate) chart: Option<&'static str>,
}

impl<F: Quantity> Section<F> {
    /// A row for each peer.
    pub(crate) fn write(
        &self,
        text: &mut String,
        installed: &[&'static str],
        missing: &[&'static str],
        samples: &Samples<F>,
    ) {
        _ = writeln!(text, "## {}\n\n{}\n", self.title, self.note);
        let titles: Vec<String> = self.figures.iter().map(F::to_string).collect();
        _ = writeln!(text, "| | {} |\n| --- |{}", titles.join(" | "), " --- |".repeat(titles.len()));
        for peer in installed {
            let cells: Vec<String> = self.figures.iter().map(|figure| cell(samples, *figure, peer)).collect();
            _ = writeln!(text, "| {peer} | {} |", cells.join(" | "));
        }
        for peer in missing {
            _ = writeln!(text, "| {peer} |{}", " not installed |".repeat(titles.len()));
        }
        text.push('\n');
        if let Some(chart) = self.chart {
            _ = writeln!(text, "![{}]({chart})\n", self.title);
        }
    }
}

fn cell<F: Quantity>(samples: &Samples<F>, figure: F, peer: &'static str) -> String {
    let brief = if figure.is_count() { |count: f64| count.to_string() } else { brief };
    samples.summary(figure, peer).map_or("–".into(), |summary| {
        format!("{} ({}–{})", brief(summary.median), brief(summary.least), brief(summary.most))
    })
}
