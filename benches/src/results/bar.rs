//! What a run promises of itself, beside what was measured.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter, Write as _};

use super::samples::{Quantity, Samples, Summary};

/// One promise, or something to know beside it.
pub(crate) struct Bar<F> {
    pub(crate) name: Cow<'static, str>,
    pub(crate) measured: Measured<F>,
    pub(crate) limit: Limit,
}

#[derive(Clone, Copy)]
pub(crate) enum Measured<F> {
    /// One median by another.
    Ratio(Of<F>, Of<F>),
    /// One median less another.
    Difference(Of<F>, Of<F>),
    Median(Of<F>),
    /// The worst, because no case is to be excused.
    Most(Of<F>),
}

/// Of whom which figure.
pub(crate) type Of<F> = (F, &'static str);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
    Above(f64),
    /// To compare with.
    None,
}

impl<F: Quantity> Bar<F> {
    /// None, if a peer is missing. Where two medians make one value, the range is that of what the rounds' own make.
    pub(crate) fn value(&self, samples: &Samples<F>) -> Option<Summary> {
        match self.measured {
            Measured::Ratio(over, under) => of_two(samples, over, under, |over, under| over / under),
            Measured::Difference(from, less) => of_two(samples, from, less, |from, less| from - less),
            Measured::Median((figure, peer)) => samples.summary(figure, peer),
            Measured::Most((figure, peer)) => {
                samples.summary(figure, peer).map(|summary| Summary { median: summary.most, ..summary })
            }
        }
    }
}

/// All of them as a table.
pub(crate) fn table<F: Quantity>(bars: &[Bar<F>], samples: &Samples<F>) -> String {
    let mut text = String::from("## Bars\n\n| | measured | bar | |\n| --- | --- | --- | --- |\n");
    for bar in bars {
        let (measured, verdict) = judge(bar, samples);
        _ = writeln!(text, "| {} | {measured} | {} | {verdict} |", bar.name, bar.limit);
    }
    text.push('\n');
    text
}

fn judge<F: Quantity>(bar: &Bar<F>, samples: &Samples<F>) -> (String, &'static str) {
    let Some(value) = bar.value(samples) else { return ("–".into(), "not measured") };
    let verdict = match bar.limit.is_met(value.median) {
        Some(true) => "met",
        Some(false) => "**not met**",
        None => "",
    };
    (format!("{:.2} ({:.2}–{:.2})", value.median, value.least, value.most), verdict)
}

fn of_two<F: Quantity>(
    samples: &Samples<F>,
    first: Of<F>,
    second: Of<F>,
    combine: impl Fn(f64, f64) -> f64,
) -> Option<Summary> {
    let rounds = samples.of(first.0, first.1).iter().zip(samples.of(second.0, second.1));
    let each = Summary::of(rounds.map(|(first, second)| combine(*first, *second)))?;
    let median = |of: Of<F>| samples.summary(of.0, of.1).map(|summary| summary.median);
    Some(Summary { median: combine(median(first)?, median(second)?), ..each })
}

impl Limit {
    /// None, if there is nothing to meet.
    pub(crate) fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= limit),
            Self::AtLeast(limit) => Some(value >= limit),
            Self::Below(limit) => Some(value < limit),
            Self::Above(limit) => Some(value > limit),
            Self::None => None,
        }
    }
}

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::Below(limit) => write!(f, "< {limit}"),
            Self::Above(limit) => write!(f, "> {limit}"),
            Self::None => f.write_str("–"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Figure;

    const FIGURE: Figure = Figure::Sequential;

    fn value(measured: Measured<Figure>) -> Option<Summary> {
        let mut samples = Samples::default();
        [6.0, 2.0, 9.0].into_iter().for_each(|value| samples.add(FIGURE, "us", value));
        [3.0, 2.0, 3.0].into_iter().for_each(|value| samples.add(FIGURE, "them", value));
        Bar { name: "".into(), measured, limit: Limit::None }.value(&samples)
    }

    #[test]
    fn two_medians_make_a_value_and_the_rounds_its_range() {
        let (us, them) = ((FIGURE, "us"), (FIGURE, "them"));
        assert_eq!(value(Measured::Ratio(us, them)), Some(Summary { least: 1.0, median: 2.0, most: 3.0 }));
        assert_eq!(value(Measured::Difference(us, them)), Some(Summary { least: 0.0, median: 3.0, most: 6.0 }));
    }

    #[test]
    fn without_a_peer_there_is_no_value() {
        let (us, missing) = ((FIGURE, "us"), (FIGURE, "missing"));
        assert_eq!(value(Measured::Ratio(us, missing)), None);
        assert_eq!(value(Measured::Median(missing)), None);
    }

    #[test]
    fn a_limit_is_met_on_its_own_side() {
        let met = [Limit::AtMost(2.0), Limit::AtLeast(2.0), Limit::Below(2.0), Limit::Above(2.0), Limit::None]
            .map(|limit| [1.0, 2.0, 3.0].map(|value| limit.is_met(value)));
        let [yes, no] = [Some(true), Some(false)];
        assert_eq!(met, [[yes, yes, no], [no, yes, yes], [yes, no, no], [no, no, yes], [None; 3]]);
    }
}
