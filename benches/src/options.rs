//! What the command line asks for.

use std::time::Duration;

pub(crate) const USAGE: &str = "usage: cargo run --release -p benches -- compare [--rounds N] [--span SECONDS] [--only PEER,PEER] [--measure NAME,NAME]";

/// How much is measured.
pub(crate) struct Options {
    /// Every peer takes part in each.
    pub(crate) rounds: usize,
    /// How long one peer is under one load in one round.
    pub(crate) span: Duration,
    /// The peers to measure, by name; all, if empty.
    pub(crate) only: Vec<String>,
    /// What to measure of them, by name; everything, if empty.
    pub(crate) measure: Vec<String>,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { rounds: 7, span: Duration::from_secs(3), only: Vec::new(), measure: Vec::new() };
        while let Some(key) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{key} needs a value\n{USAGE}"))?;
            match key.as_str() {
                "--rounds" => options.rounds = positive(&key, &value)?,
                "--span" => options.span = Duration::from_secs(positive(&key, &value)? as u64),
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--measure" => options.measure = value.split(',').map(str::to_owned).collect(),
                _ => return Err(format!("{key} is not known\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// Fewer rounds, peers or measurements show that the bench works, and are no measurement.
    pub(crate) fn is_trial(&self) -> bool {
        const ROUNDS_TO_JUDGE: usize = 5;
        self.rounds < ROUNDS_TO_JUDGE || !self.only.is_empty() || !self.measure.is_empty()
    }
}

/// Those that were asked for by name, or all.
pub(crate) fn choose<T: Copy>(all: &[(&'static str, T)], asked: &[String]) -> Result<Vec<(&'static str, T)>, String> {
    if let Some(stranger) = asked.iter().find(|name| all.iter().all(|(known, _)| known != name)) {
        let known: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        return Err(format!("--measure {stranger}: there are {}", known.join(", ")));
    }
    Ok(all.iter().copied().filter(|(known, _)| asked.is_empty() || asked.iter().any(|name| name == known)).collect())
}

/// A number that makes sense as an amount.
pub(crate) fn positive(key: &str, value: &str) -> Result<usize, String> {
    value.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("{key} {value}: not a positive whole number"))
}
