//! How much is asked for.

use std::time::Duration;

use crate::options::positive;

pub(crate) const USAGE: &str =
    "usage: cargo run --release -p benches -- messages [--measure NAME,NAME] [--rounds N] [--trial]";

#[derive(Debug)]
pub(crate) struct Options {
    /// What to measure, by name; everything, if empty.
    pub(crate) measure: Vec<String>,
    /// Everybody takes part in each.
    pub(crate) rounds: usize,
    /// One round in little time, with the peers that are there.
    pub(crate) in_short: bool,
}

const ROUNDS_TO_JUDGE: usize = 5;

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { measure: Vec::new(), rounds: ROUNDS_TO_JUDGE, in_short: false };
        while let Some(key) = arguments.next() {
            if key == "--trial" {
                (options.rounds, options.in_short) = (1, true);
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{key} needs a value\n{USAGE}"))?;
            match key.as_str() {
                "--measure" => options.measure = value.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = positive(&key, &value)?,
                _ => return Err(format!("{key} is not known\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// Less than what is to be judged, or a part of it.
    pub(crate) fn is_trial(&self) -> bool {
        self.in_short || self.rounds < ROUNDS_TO_JUDGE || !self.measure.is_empty()
    }

    /// How long one conversation counts in one round.
    pub(crate) fn span(&self) -> Duration {
        Duration::from_millis(if self.in_short { 100 } else { 1000 })
    }

    /// How long one service is under load in one round; wrk counts in seconds.
    pub(crate) fn serving_span(&self) -> Duration {
        Duration::from_secs(if self.in_short { 1 } else { 3 })
    }

    /// How many workers of each kind are told to end in one round.
    pub(crate) fn drains(&self) -> usize {
        if self.in_short { 2 } else { 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn only_a_whole_run_is_no_trial() {
        assert!(parse("").is_ok_and(|options| !options.is_trial()));
        assert!(parse("--rounds 7").is_ok_and(|options| !options.is_trial()));
        for less in ["--trial", "--rounds 4", "--measure echo", "--trial --rounds 9"] {
            assert!(parse(less).is_ok_and(|options| options.is_trial()), "{less}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for nonsense in ["--rounds", "--rounds 0", "--rounds many", "--speed 3"] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
