//! What the primary's memory grows by while its workers send what nobody takes.

use super::figure::{Figure, SIZES};
use super::options::Options;
use super::peer::Peer;
use super::talk::{PATIENCE, Talk};
use crate::process;
use crate::results::Samples;
use crate::running::{rests, within};

const WORKERS: usize = 8;

pub(super) fn measure(options: &Options, samples: &mut Samples<Figure>) -> Result<(), String> {
    for size in SIZES {
        let mut talk = Talk::start(Peer::Cluster.command(&["flood", &size.to_string()]), options)?;
        hear(&talk, "waiting")?;
        let before = process::memory(talk.pid());
        talk.say_go()?;
        (0..WORKERS).try_for_each(|_| hear(&talk, "begins"))?;
        // Whoever waits for room rests. If it never came to that, nothing would bound the memory.
        if !within(PATIENCE, || rests(talk.pid())) {
            return Err(format!("workers go on to send messages of {size} bytes that nobody takes"));
        }
        let after = process::memory(talk.pid());
        let mut add = |figure, value| samples.add(figure, Peer::Cluster.name(), value);
        add(Figure::Memory { size }, before.proportional_mib);
        add(Figure::Growth { size }, after.proportional_mib - before.proportional_mib);
        add(Figure::ResidentGrowth { size }, after.resident_mib - before.resident_mib);
    }
    Ok(())
}

fn hear(talk: &Talk, word: &str) -> Result<(), String> {
    talk.lines.find(word, PATIENCE, |line| (line == word).then_some(Ok(())))
}
