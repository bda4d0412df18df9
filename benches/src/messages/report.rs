//! The figures as Markdown.

use std::fmt::Write as _;

use super::bars;
use super::figure::{Cores, Figure, Payload, Primary, SIZES, Service, Traffic, Worker};
use super::options::Options;
use super::peer::Peer;
use crate::peer::node_version;
use crate::results::{Samples, Section, bar, machine};
use crate::wrk;

/// What a document has beside its bars, and of whom.
const PARTS: [(Section<Figure>, &[Peer]); 9] = [
    (
        Section {
            title: "One-way",
            note: "One worker sends small messages, two numbers of 64 bits each, to the primary as fast as they are taken, and the other \
                   way round. CPU time, user and system, is that of the whole process tree, here and below.",
            figures: &[
                Figure::Rate(Traffic::Up),
                Figure::Cpu(Traffic::Up),
                Figure::Rate(Traffic::Down),
                Figure::Cpu(Traffic::Down),
            ],
            chart: None,
        },
        &[Peer::Cluster, Peer::NodeJson, Peer::NodeAdvanced, Peer::IpcChannel],
    ),
    (
        Section {
            title: "A message for each request",
            note: "Two workers under wrk with one thread and 64 kept connections. In `counter` each request is told to the primary; else \
                   it is the same service.",
            figures: &[
                Figure::RequestsPerSecond(Service::Hello),
                Figure::RequestCpu(Service::Hello),
                Figure::RequestsPerSecond(Service::Counter),
                Figure::RequestCpu(Service::Counter),
            ],
            chart: None,
        },
        &[Peer::Cluster, Peer::NodeJson],
    ),
    (
        Section {
            title: "Calls",
            note: "A worker asks the primary function for the double of a number: one question after the other, and by 64 tasks at \
                   once. The bare socket is one between the same two processes and their runtimes, with 16 bytes each way. On one core \
                   nobody waits for another core to wake up.",
            figures: &[
                Figure::RoundTrip(Cores::Any),
                Figure::RoundTrip(Cores::One),
                Figure::Cpu(Traffic::Call(Cores::Any)),
                Figure::Cpu(Traffic::Call(Cores::One)),
                Figure::Rate(Traffic::Pipelined),
                Figure::Cpu(Traffic::Pipelined),
            ],
            chart: None,
        },
        &[Peer::Cluster, Peer::Bare, Peer::Tarpc],
    ),
    (
        Section {
            title: "Echo",
            note: "What Node's own benchmark of its cluster does: the primary sends a number of messages to its worker, which sends each \
                   back; once all are back, it begins anew. The string has twelve characters, the object a word and a number. Thousands \
                   of echoes a second, and CPU time for each. The bare socket carries the characters of all that are sent at once in one \
                   write, and knows no messages: it shows what a round takes by the kernel and the runtime alone.",
            figures: &[
                Figure::Rate(Traffic::Echo(Payload::String, 1, Cores::Any)),
                Figure::Rate(Traffic::Echo(Payload::String, 10, Cores::Any)),
                Figure::Rate(Traffic::Echo(Payload::String, 100, Cores::Any)),
                Figure::Rate(Traffic::Echo(Payload::Object, 1, Cores::Any)),
                Figure::Rate(Traffic::Echo(Payload::Object, 10, Cores::Any)),
                Figure::Rate(Traffic::Echo(Payload::Object, 100, Cores::Any)),
                Figure::Cpu(Traffic::Echo(Payload::String, 1, Cores::Any)),
                Figure::Cpu(Traffic::Echo(Payload::String, 10, Cores::Any)),
                Figure::Cpu(Traffic::Echo(Payload::String, 100, Cores::Any)),
                Figure::Cpu(Traffic::Echo(Payload::Object, 1, Cores::Any)),
                Figure::Cpu(Traffic::Echo(Payload::Object, 10, Cores::Any)),
                Figure::Cpu(Traffic::Echo(Payload::Object, 100, Cores::Any)),
            ],
            chart: None,
        },
        &[Peer::Cluster, Peer::Bare, Peer::NodeJson, Peer::NodeAdvanced],
    ),
    (
        Section {
            title: "Echo, on one core",
            note: "The same with all processes on one core. On two, a round takes two wake-ups of a core that sleeps, which on a virtual \
                   machine take longer than all the rest; on one it takes two changes from one process to the other.",
            figures: &[
                Figure::Rate(Traffic::Echo(Payload::String, 1, Cores::One)),
                Figure::Rate(Traffic::Echo(Payload::String, 10, Cores::One)),
                Figure::Rate(Traffic::Echo(Payload::String, 100, Cores::One)),
                Figure::Rate(Traffic::Echo(Payload::Object, 1, Cores::One)),
                Figure::Rate(Traffic::Echo(Payload::Object, 10, Cores::One)),
                Figure::Rate(Traffic::Echo(Payload::Object, 100, Cores::One)),
                Figure::Cpu(Traffic::Echo(Payload::String, 1, Cores::One)),
                Figure::Cpu(Traffic::Echo(Payload::String, 10, Cores::One)),
                Figure::Cpu(Traffic::Echo(Payload::String, 100, Cores::One)),
                Figure::Cpu(Traffic::Echo(Payload::Object, 1, Cores::One)),
                Figure::Cpu(Traffic::Echo(Payload::Object, 10, Cores::One)),
                Figure::Cpu(Traffic::Echo(Payload::Object, 100, Cores::One)),
            ],
            chart: None,
        },
        &[Peer::Cluster, Peer::Bare, Peer::NodeJson, Peer::NodeAdvanced],
    ),
    (
        Section {
            title: "Large messages",
            note: "A `Vec<u8>` of 1 MiB, cloned for each message. The bare socket carries as much by blocking writes and reads, out of \
                   one buffer and into another.",
            figures: &[Figure::Rate(Traffic::Bulk), Figure::Cpu(Traffic::Bulk)],
            chart: None,
        },
        &[Peer::Cluster, Peer::Bare],
    ),
    (
        Section {
            title: "Without a message",
            note: "A hundred million additions to a `Counter` in a worker; nobody else adds.",
            figures: &[Figure::Addition, Figure::AdditionInKernel, Figure::Slept],
            chart: None,
        },
        &[Peer::Cluster],
    ),
    (
        Section {
            title: "The primary's memory when it does not read",
            note: "Eight workers send all that they may to a primary function that takes nothing, until each waits for room. \
                   Proportional memory (PSS), and its growth.",
            figures: &[
                Figure::Memory { size: SIZES[0] },
                Figure::Growth { size: SIZES[0] },
                Figure::ResidentGrowth { size: SIZES[0] },
                Figure::Memory { size: SIZES[1] },
                Figure::Growth { size: SIZES[1] },
                Figure::ResidentGrowth { size: SIZES[1] },
            ],
            chart: None,
        },
        &[Peer::Cluster],
    ),
    (
        Section {
            title: "The order to end",
            note: "From TERM to a worker until its `shutdown()` completes, for one that floods the primary and for one beside it that \
                   idles: medians of several in each round.",
            figures: &[
                Figure::Told(Worker::Idle, Primary::Reads),
                Figure::Told(Worker::Flooding, Primary::Reads),
                Figure::Told(Worker::Idle, Primary::NeverReads),
                Figure::Told(Worker::Flooding, Primary::NeverReads),
            ],
            chart: None,
        },
        &[Peer::Cluster],
    ),
];

pub(super) fn document(options: &Options, samples: &Samples<Figure>, failures: &[String]) -> String {
    let mut text = String::from("# Messages\n\n");
    _ = writeln!(
        text,
        "`cargo run --release -p benches -- messages`, after `benches/install-peers`: medians of {} interleaved rounds (least–most) \
         of {:?} for each conversation.\n",
        options.rounds,
        options.span()
    );
    if options.is_trial() {
        text.push_str("**Less than what is to be judged: a trial of the bench, and no measurement.**\n\n");
    }
    _ = writeln!(text, "Machine: {}.\nVersions: {}.\n", machine::describe(), versions().join(", "));
    for failure in failures {
        _ = writeln!(text, "**Could not be measured: {failure}.**\n");
    }
    text.push_str(&bar::table(&bars::all(), samples));
    for (section, peers) in &PARTS {
        let (installed, missing): (Vec<Peer>, Vec<Peer>) = peers.iter().partition(|peer| peer.is_installed());
        let names = |peers: Vec<Peer>| peers.into_iter().map(Peer::name).collect::<Vec<_>>();
        section.write(&mut text, &names(installed), &names(missing), samples);
    }
    text
}

fn versions() -> Vec<String> {
    let mut all = machine::locked("../Cargo.lock", &["bincode", "serde", "tokio"]);
    all.extend(machine::locked("rivals/Cargo.lock", &["ipc-channel", "tarpc"]));
    all.extend(node_version().map(|version| format!("node {version}")));
    all.extend(wrk::version().map(|version| format!("wrk {version}")));
    all
}
