//! What becomes of the figures: a table, plots, and all of them as they were measured.

mod bars;
mod charts;
mod figure;
mod machine;
mod markdown;
mod samples;
mod svg;

use std::fs;
use std::path::Path;

pub(crate) use figure::{Beside, Fate, Figure, KEPT_OVER, Rank};
pub(crate) use samples::Samples;

use crate::options::Options;
use crate::peer::Peer;

/// Into `benches/results`, and the table to stdout, too.
pub(crate) fn write(options: &Options, installed: &[&Peer], missing: &[&Peer], samples: &Samples) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    };
    let table = markdown::document(options, installed, missing, samples);
    print!("{table}");
    write("compare.md", &table);
    write("compare.csv", &samples.to_csv());
    for (name, chart) in charts::all(installed, missing, samples) {
        write(name, &chart.to_svg());
    }
}
