//! How much is asked for.

use crate::options::positive;

pub(crate) const USAGE: &str = "usage: cargo run --release -p benches -- change [--measure NAME,NAME] [--requests N] [--reloads N] \
                                [--upgrades N] [--cycles N] [--kills N] [--crashes N] [--idle WORKERS] [--trial]";

#[derive(Clone, PartialEq)]
pub(crate) struct Options {
    /// What to measure, by name; everything, if empty.
    pub(crate) measure: Vec<String>,
    pub(crate) amount: Amount,
}

/// At least so many of each; what is judged has all of them.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Amount {
    /// During the reloads.
    pub(crate) requests: u64,
    /// Under load; a tenth of them with workers that take long to start. Five times as many without load, for the leaks.
    pub(crate) reloads: usize,
    pub(crate) upgrades: usize,
    /// From one worker to many and back.
    pub(crate) cycles: usize,
    /// Under load.
    pub(crate) kills: usize,
    /// Without, to see how long the replacement takes.
    pub(crate) crashes: usize,
    /// Workers that idle.
    pub(crate) idle: usize,
}

impl Amount {
    const TO_JUDGE: Self =
        Self { requests: 1_000_000, reloads: 100, upgrades: 20, cycles: 20, kills: 100, crashes: 200, idle: 64 };
    const FOR_TRIAL: Self =
        Self { requests: 20_000, reloads: 10, upgrades: 2, cycles: 2, kills: 5, crashes: 8, idle: 8 };

    fn suffices(&self) -> bool {
        let Self { requests, reloads, upgrades, cycles, kills, crashes, idle } = Self::TO_JUDGE;
        self.requests >= requests
            && self.reloads >= reloads
            && self.upgrades >= upgrades
            && self.cycles >= cycles
            && self.kills >= kills
            && self.crashes >= crashes
            && self.idle >= idle
    }
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { measure: Vec::new(), amount: Amount::TO_JUDGE };
        while let Some(key) = arguments.next() {
            if key == "--trial" {
                options.amount = Amount::FOR_TRIAL;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{key} needs a value\n{USAGE}"))?;
            let number = || positive(&key, &value);
            let amount = &mut options.amount;
            match key.as_str() {
                "--measure" => options.measure = value.split(',').map(str::to_owned).collect(),
                "--requests" => amount.requests = number()? as u64,
                "--reloads" => amount.reloads = number()?,
                "--upgrades" => amount.upgrades = number()?,
                "--cycles" => amount.cycles = number()?,
                "--kills" => amount.kills = number()?,
                "--crashes" => amount.crashes = number()?,
                "--idle" => amount.idle = number()?,
                _ => return Err(format!("{key} is not known\n{USAGE}")),
            }
        }
        Ok(options)
    }

    /// Less than what is to be proved, or a part of it.
    pub(crate) fn is_trial(&self) -> bool {
        !self.measure.is_empty() || !self.amount.suffices()
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
        assert!(parse("--requests 2000000 --reloads 100").is_ok_and(|options| !options.is_trial()));
        for less in ["--trial", "--requests 999999", "--reloads 99", "--crashes 199", "--measure reload"] {
            assert!(parse(less).is_ok_and(|options| options.is_trial()), "{less}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for nonsense in ["--requests", "--requests 0", "--requests many", "--speed 3"] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
