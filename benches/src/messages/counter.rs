//! What it costs to count without a message.

use super::figure::Figure;
use super::options::Options;
use super::peer::Peer;
use super::talk::{PATIENCE, Talk};
use crate::results::Samples;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    let talk = Talk::start(Peer::Cluster.command(&["counter"]), options)?;
    let numbers = talk.lines.find("added", PATIENCE, |line| {
        let numbers = line.strip_prefix("added ")?.split(' ').map(|number| number.parse::<f64>().ok());
        Some(Ok(numbers.collect::<Option<Vec<_>>>()?))
    })?;
    for (figure, number) in [Figure::Addition, Figure::AdditionInKernel, Figure::Slept].into_iter().zip(numbers) {
        samples.add(figure, Peer::Cluster.name(), number);
    }
    Ok(())
}
