//! What becomes of the figures: a table, plots, and all of them as they were measured.

pub(crate) mod bar;
mod bars;
mod charts;
mod figure;
pub(crate) mod machine;
mod markdown;
mod samples;
mod section;
mod svg;

use std::path::{Path, PathBuf};
use std::{env, fs};

pub(crate) use bar::{Bar, Limit, Measured};
pub(crate) use figure::{Beside, Fate, Figure, KEPT_OVER, Rank};
pub(crate) use markdown::brief;
pub(crate) use samples::{Quantity, Samples};
pub(crate) use section::Section;

use crate::options::Options;
use crate::peer::Peer;

/// Where results are kept: `benches/results`, or, if it was but a trial, where nothing is kept.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new(is_trial: bool) -> Self {
        let directory = if is_trial { trial() } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("results") };
        fs::create_dir_all(&directory).unwrap_or_else(|error| panic!("cannot make {}: {error}", directory.display()));
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

/// The table goes to stdout, too.
pub(crate) fn write(options: &Options, installed: &[&Peer], missing: &[&Peer], samples: &Samples<Figure>) {
    let place = Place::new(options.is_trial());
    let table = markdown::document(options, installed, missing, samples);
    print!("{table}");
    place.write("compare.md", &table);
    place.write("compare.csv", &samples.to_csv());
    for (name, chart) in charts::all(installed, missing, samples) {
        place.write(name, &chart.to_svg());
    }
    eprintln!("written to {}", place.path().display());
}

/// Beside the directory of this program, which cargo owns.
fn trial() -> PathBuf {
    let program = env::current_exe().expect("this program has a path");
    program.parent().expect("and stands in a directory").with_file_name("trial")
}
