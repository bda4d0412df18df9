//! What was found, beside what is promised: as a table, and as the numbers alone.

use std::fmt::Write as _;

use super::exchange::{Fate, Kind};
use super::load::Tally;
use super::options::Options;
use crate::results::{Limit, brief, machine};

/// Everything found so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// The details, as Markdown.
    sections: String,
    /// What is being measured.
    measure: &'static str,
}

struct Row {
    measure: &'static str,
    figure: String,
    /// Or why there is none.
    measured: Result<f64, String>,
    limit: Limit,
}

impl Report {
    pub(crate) fn begin(&mut self, measure: &'static str) {
        self.measure = measure;
    }

    pub(crate) fn add(&mut self, figure: impl Into<String>, measured: f64, limit: Limit) {
        let row = Row { measure: self.measure, figure: figure.into(), measured: Ok(measured), limit };
        eprintln!("  {}: {}", row.figure, row.measured());
        self.rows.push(row);
    }

    /// What was asked for could not be measured, or not to the end.
    pub(crate) fn fail(&mut self, reason: String) {
        eprintln!("  FAILED: {reason}");
        let figure = "measured to the end".to_owned();
        self.rows.push(Row { measure: self.measure, figure, measured: Err(reason), limit: Limit::None });
    }

    /// What became of the requests of this measure, in detail.
    pub(crate) fn add_tally(&mut self, note: &str, tally: &Tally) {
        const EXAMPLES: usize = 5;
        let titles: Vec<String> = Fate::ALL.iter().map(Fate::to_string).collect();
        let text = &mut self.sections;
        _ = writeln!(text, "## {}\n\n{note}\n", self.measure);
        _ = writeln!(text, "| | answered | {} |", titles.join(" | "));
        _ = writeln!(text, "| --- | --- |{}", " --- |".repeat(titles.len()));
        for kind in Kind::ALL {
            let answered = tally.answered.get(&kind).copied().unwrap_or_default();
            let cells: Vec<String> = Fate::ALL.iter().map(|fate| tally.count(kind, *fate).to_string()).collect();
            _ = writeln!(text, "| {kind} | {answered} | {} |", cells.join(" | "));
        }
        _ = writeln!(
            text,
            "\nKept connections that ended as they should: {} with an answer that said so, {} while they idled.\n",
            tally.told_to_close, tally.closed_idle
        );
        for failure in tally.failures.iter().take(EXAMPLES) {
            let of = failure.of.map_or("nobody yet".into(), |of| format!("{of:?}"));
            let after = failure.ended.duration_since(failure.began);
            let (kind, fate, what) = (failure.kind, failure.failed.fate, &failure.failed.text);
            _ = writeln!(text, "- {kind}: {fate} after {after:?} ({what}); the connection was of {of}");
        }
        if !tally.failures.is_empty() {
            text.push('\n');
        }
    }

    /// Whether everything that has a bar meets it, and everything was measured.
    pub(crate) fn is_met(&self) -> bool {
        self.rows.iter().all(|row| row.is_met() != Some(false))
    }

    pub(crate) fn to_markdown(&self, options: &Options, command: &str) -> String {
        let mut text = format!("# Changes under load\n\n`{command}`\n\n");
        if options.is_trial() {
            text.push_str("**Less than what is to be proved: a trial, and no measurement.**\n\n");
        }
        _ = writeln!(text, "Machine: {}.\n", machine::describe());
        text.push_str("| | figure | measured | bar | |\n| --- | --- | --- | --- | --- |\n");
        for row in &self.rows {
            let verdict = match row.is_met() {
                Some(true) => "met",
                Some(false) => "**not met**",
                None => "",
            };
            _ = writeln!(text, "| {} | {} | {} | {} | {verdict} |", row.measure, row.figure, row.measured(), row.limit);
        }
        text.push('\n');
        text + &self.sections
    }

    pub(crate) fn to_csv(&self) -> String {
        let mut text = String::from("measure,figure,value,bar,met\n");
        for row in &self.rows {
            let value = row.measured.as_ref().map_or(String::new(), |value| format!("{value:.4}"));
            let met = row.is_met().map_or(String::new(), |met| met.to_string());
            _ = writeln!(text, "{},\"{}\",{value},\"{}\",{met}", row.measure, row.figure, row.limit);
        }
        text
    }
}

impl Row {
    fn measured(&self) -> String {
        match &self.measured {
            Ok(value) if value.fract() == 0.0 => format!("{value}"),
            Ok(value) => brief(*value),
            Err(reason) => reason.replace('|', "\\|"),
        }
    }

    /// None, if there is nothing to meet.
    fn is_met(&self) -> Option<bool> {
        match &self.measured {
            Err(_) => Some(false),
            Ok(value) => self.limit.is_met(*value),
        }
    }
}
