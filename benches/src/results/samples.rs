//! Every number, and what many of a kind amount to.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

/// One kind of number; shown, it is a table's heading.
pub(crate) trait Quantity: Copy + Ord + Display {
    /// Whole by nature.
    fn is_count(self) -> bool;
}

/// All figures of all peers, in the order of the rounds.
pub(crate) struct Samples<F> {
    values: BTreeMap<(F, &'static str), Vec<f64>>,
}

/// What several values of one kind amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl<F: Quantity> Samples<F> {
    pub(crate) fn add(&mut self, figure: F, peer: &'static str, value: f64) {
        self.values.entry((figure, peer)).or_default().push(value);
    }

    pub(crate) fn of(&self, figure: F, peer: &'static str) -> &[f64] {
        self.values.get(&(figure, peer)).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn summary(&self, figure: F, peer: &'static str) -> Option<Summary> {
        Summary::of(self.of(figure, peer).iter().copied())
    }

    pub(crate) fn to_csv(&self) -> String {
        let mut text = String::from("figure,peer,sample,value\n");
        for ((figure, peer), values) in &self.values {
            for (number, value) in (1..).zip(values) {
                _ = writeln!(text, "\"{figure}\",{peer},{number},{value:.4}");
            }
        }
        text
    }
}

impl<F> Default for Samples<F> {
    fn default() -> Self {
        Self { values: BTreeMap::new() }
    }
}

impl Summary {
    /// None, if there are no values.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        Some(Self { least, median, most })
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn a_median_of_an_even_number_lies_between_the_middle_two() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0].into_iter());
        assert_eq!(summary, Some(Summary { least: 1.0, median: 2.5, most: 4.0 }));
        assert_eq!(Summary::of(std::iter::empty()), None);
    }
}
