//! Whether a cluster that is changed under load, or loses workers, costs anybody a request: the long run.
//!
//! - `service`: the cluster under test, and what its primary says.
//! - `exchange`, `load`: clients of all kinds at once, and by what a request failed.
//! - `rolling`, `scale`, `kill`, `control`: under load. `crash`, `leak`, `idle`: without.
//! - `report`: what was found beside what is promised.

mod control;
mod crash;
mod exchange;
mod idle;
mod kill;
mod leak;
mod load;
mod options;
mod report;
mod rolling;
mod scale;
mod service;

pub(crate) use options::{Options, USAGE};

use crate::options::choose;
use crate::programs;
use crate::results::{Limit, Place};
use load::Tally;
use report::Report;

/// Adds to the report; an error says why it could not go on.
type Measurement = fn(&Options, &mut Report) -> Result<(), String>;

const ALL: [(&str, Measurement); 8] = [
    ("control", control::measure),
    ("reload", rolling::measure_reloads),
    ("upgrade", rolling::measure_upgrades),
    ("scale", scale::measure),
    ("kill", kill::measure),
    ("crash", crash::measure),
    ("leak", leak::measure),
    ("idle", idle::measure),
];

/// Whether everything is as promised.
pub(crate) fn run(options: &Options, command: &str) -> Result<bool, String> {
    let measurements = choose(&ALL, &options.measure)?;
    programs::build(&["--bin", "changing"]);
    let mut report = Report::default();
    for (name, measure) in measurements {
        eprintln!("{name}");
        report.begin(name);
        measure(options, &mut report).unwrap_or_else(|reason| report.fail(reason));
    }
    let place = Place::new(options.is_trial());
    let table = report.to_markdown(options, command);
    print!("{table}");
    place.write("change.md", &table);
    place.write("change.csv", &report.to_csv());
    eprintln!("written to {}", place.path().display());
    Ok(report.is_met())
}

/// Into the report: that there were requests enough, and what became of them.
fn add_requests(report: &mut Report, note: &str, tally: &Tally, at_least: u64) {
    report.add("requests answered", tally.answers() as f64, Limit::AtLeast(at_least as f64));
    report.add("requests failed", tally.failures.len() as f64, Limit::AtMost(0.0));
    report.add_tally(note, tally);
}
