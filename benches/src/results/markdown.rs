//! The figures as Markdown.

use std::fmt::Write as _;

use super::{Beside, Fate, Figure, Rank, Samples, Section, bar, bars, machine};
use crate::options::Options;
use crate::peer::Peer;
use crate::wrk::Load;

const SECTIONS: [Section<Figure>; 5] = [
    Section {
        title: "Serving",
        note: "Two workers or threads under wrk with one thread and 64 connections; CPU time, user and system, is that of the \
               peer's whole process tree. All clients have one address, so under `sticky` one worker serves them all, here and below.",
        figures: &[
            Figure::PerSecond(Load::Kept),
            Figure::Cpu(Load::Kept),
            Figure::PerSecond(Load::Each),
            Figure::Cpu(Load::Each),
        ],
        chart: Some("cpu.svg"),
    },
    Section {
        title: "Balance",
        note: "Connections of the worker that has most, by the mean of all workers; 1 is even. Kept connections are all opened \
               before the first request is made. tokio's threads share their connections, and nginx does not say who answers.",
        figures: &[
            Figure::Kept { workers: 2 },
            Figure::Kept { workers: 4 },
            Figure::Kept { workers: 8 },
            Figure::Sequential,
        ],
        chart: Some("balance.svg"),
    },
    Section {
        title: "The light route beside a busy worker",
        note: "Milliseconds from the instant at which a client meant to come: 400 a second, with a connection and a request each, to \
               two workers or threads, while somebody asks for reports, of 200 ms CPU each, one after the other on one connection. \
               Beside it, what the scheduler alone costs: the same while an unrelated process burns one of the cores.",
        figures: &[
            Figure::Light(Beside::Nobody, Rank::Half),
            Figure::Light(Beside::Nobody, Rank::NinetyNine),
            Figure::Light(Beside::Nobody, Rank::Last),
            Figure::Light(Beside::Report, Rank::Half),
            Figure::Light(Beside::Report, Rank::NinetyNine),
            Figure::Light(Beside::Report, Rank::Last),
            Figure::Light(Beside::Spinner, Rank::Half),
            Figure::Light(Beside::Spinner, Rank::NinetyNine),
            Figure::Light(Beside::Spinner, Rank::Last),
        ],
        chart: Some("tail.svg"),
    },
    Section {
        title: "Processes",
        note: "Two workers. Private memory is what nobody else has; proportional is that with a share of what is common. The load \
               is that of \"Serving\". A client that gets no answer gives up after two seconds and tries again.",
        figures: &[
            Figure::StartToServing,
            Figure::CrashToServing,
            Figure::IdlePrivate,
            Figure::IdleProportional,
            Figure::LoadedPrivate,
            Figure::LoadedProportional,
        ],
        chart: None,
    },
    Section {
        title: "One worker of four is killed",
        note: "Clients lost, of 200 that waited for four stopped workers with a request sent each; then one worker was killed and the \
               others went on. Unanswered is who had no answer after two seconds. At least twenty runs.",
        figures: &[
            Figure::Lost,
            Figure::LostTo(Fate::Refused),
            Figure::LostTo(Fate::Reset),
            Figure::LostTo(Fate::Unanswered),
        ],
        chart: None,
    },
];

pub(crate) fn document(options: &Options, installed: &[&Peer], missing: &[&Peer], samples: &Samples<Figure>) -> String {
    let mut text = String::from("# This library beside others\n\n");
    _ = writeln!(
        text,
        "`cargo run --release -p benches -- compare`, after `benches/install-peers`: medians of {} interleaved rounds \
         (least–most) of {} s.\n",
        options.rounds,
        options.span.as_secs()
    );
    if options.is_trial() {
        _ = writeln!(text, "**Too few rounds, or peers: a trial of the bench, and no measurement.**\n");
    }
    _ = writeln!(text, "{}", machine::note(installed));
    text.push_str(&bar::table(&bars::ALL, samples));
    for section in &SECTIONS {
        section.write(&mut text, &names(installed), &names(missing), samples);
    }
    text
}

fn names(peers: &[&Peer]) -> Vec<&'static str> {
    peers.iter().map(|peer| peer.name).collect()
}

/// Three digits that count; none behind the point that say nothing.
pub(crate) fn brief(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
