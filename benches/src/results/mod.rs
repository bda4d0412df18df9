//! What becomes of the figures: a table, plots, and all of them as they were measured.

mod bars;
mod charts;
mod figure;
mod machine;
mod markdown;
mod samples;
mod svg;

use std::path::{Path, PathBuf};
use std::{env, fs};

pub(crate) use figure::{Beside, Fate, Figure, KEPT_OVER, Rank};
pub(crate) use samples::Samples;

use crate::options::Options;
use crate::peer::Peer;

/// Into `benches/results`, or, if it was but a trial, where nothing is kept; and the table to stdout, too.
pub(crate) fn write(options: &Options, installed: &[&Peer], missing: &[&Peer], samples: &Samples) {
    let directory = if options.is_trial() { trial() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("results") };
    fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("cannot make {}: {error}", directory.display()));
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
    eprintln!("written to {}", directory.display());
}

/// Beside the directory of this program, which cargo owns.
fn trial() -> PathBuf {
    let program = env::current_exe().expect("this program has a path");
    program.parent().expect("and stands in a directory").with_file_name("trial")
}
