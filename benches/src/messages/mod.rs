//! What messages cost, beside Node's, beside other crates, and beside a bare socket.
//!
//! - `peer`, `talk`: who talks, in programs that measure themselves; the CPU time of their processes is taken here.
//! - `one_way`, `serving`, `calls`, `echo`, `bulk`, `counter`, `memory`, `drain`: a measurement each.
//! - `figure`, `bars`, `report`: what was found beside what is promised.

mod bars;
mod bulk;
mod calls;
mod counter;
mod drain;
mod echo;
mod figure;
mod memory;
mod one_way;
mod options;
mod peer;
mod report;
mod serving;
mod talk;

pub(crate) use options::{Options, USAGE};

use crate::options::choose;
use crate::programs;
use crate::results::{Place, Samples};
use figure::Figure;
use peer::Peer;

/// Adds a round's figures of all peers that are installed; an error says why it could not go on.
type Measurement = fn(&Options, &mut Samples<Figure>) -> Result<(), String>;

const ALL: [(&str, Measurement); 8] = [
    ("one-way", one_way::measure),
    ("serving", serving::measure),
    ("calls", calls::measure),
    ("echo", echo::measure),
    ("bulk", bulk::measure),
    ("counter", counter::measure),
    ("memory", memory::measure),
    ("drain", drain::measure),
];

/// Whether everything could be measured.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let measurements = choose(&ALL, &options.measure)?;
    programs::build(&["--bin", "talking"]);
    if !options.in_short {
        peer::build_rivals();
    }
    for missing in Peer::ALL.into_iter().filter(|peer| !peer.is_installed()) {
        eprintln!("{} is missing; CONTRIBUTING.md, \"Figures\", says what installs it", missing.name());
    }
    let mut samples = Samples::default();
    let mut failures = Vec::new();
    for round in 1..=options.rounds {
        for (name, measure) in &measurements {
            eprintln!("round {round} of {}: {name}", options.rounds);
            if let Err(reason) = measure(options, &mut samples) {
                eprintln!("  FAILED: {reason}");
                failures.push(format!("{name} in round {round}: {reason}"));
            }
        }
    }
    let place = Place::new(options.is_trial());
    let table = report::document(options, &samples, &failures);
    print!("{table}");
    place.write("messages.md", &table);
    place.write("messages.csv", &samples.to_csv());
    eprintln!("written to {}", place.path().display());
    Ok(failures.is_empty())
}
