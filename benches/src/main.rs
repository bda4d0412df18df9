//! Side-by-side figures: `cargo run --release -p benches -- compare`.
//!
//! Peers run in turn, round after round, on the same machine in one run; what is reported is the median of the rounds, and CPU
//! time of the peer's whole process tree rather than throughput, because the machine is shared with the client.

mod load;
mod peer;
mod process;
mod table;

use std::path::Path;
use std::process::{Command, ExitCode, exit};
use std::time::Duration;
use std::{env, fs};

use load::Load;
use peer::Peer;
use table::{Figure, Table};

/// Rounds; every peer takes part in each.
const ROUNDS: usize = 7;
/// How long one peer is under load in one round.
const SPAN: Duration = Duration::from_secs(3);
/// Workers, or threads, of every peer.
const CORES: usize = 2;

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("compare") => compare(),
        _ => {
            eprintln!("usage: cargo run --release -p benches -- compare");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Serving, starting, recovering and memory: this library beside tokio's threads.
fn compare() {
    if Command::new("wrk").arg("-v").output().is_err() {
        eprintln!("wrk makes the load and is missing; install it (Debian: apt-get install wrk)");
        exit(2);
    }
    build_peers();
    let peers = [Peer::new("cluster", "peer-cluster"), Peer::new("tokio threads", "peer-threads")];
    let mut table = Table::new(peers.iter().map(|peer| peer.name));
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        for peer in &peers {
            measure(peer, &mut table);
        }
    }
    let text = table.to_markdown(ROUNDS);
    print!("{text}");
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/compare.md");
    fs::write(&results, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", results.display()));
}

fn measure(peer: &Peer, table: &mut Table) {
    let running = peer.start(CORES);
    table.add(peer.name, Figure::StartToServing, running.started_in.as_secs_f64() * 1000.0);
    for (load, figure) in [(Load::KeepAlive, Figure::CpuKeepAlive), (Load::Connections, Figure::CpuConnection)] {
        let before = running.cpu_time();
        let requests = load.run(running.address, SPAN);
        let spent = running.cpu_time() - before;
        table.add(peer.name, figure, spent.as_secs_f64() * 1e6 / requests);
    }
    if let Some(memory) = running.memory_per_worker() {
        table.add(peer.name, Figure::WorkerPrivate, memory.private_kib / 1024.0);
        table.add(peer.name, Figure::WorkerShare, memory.proportional_kib / 1024.0);
        table.add(peer.name, Figure::CrashToServing, running.crash_all().as_secs_f64() * 1000.0);
    }
}

/// `cargo run` builds this program only.
fn build_peers() {
    let built = Command::new(env!("CARGO")).args(["build", "--release", "--package", "benches", "--bins"]).status();
    assert!(built.is_ok_and(|status| status.success()), "the peers do not build");
}
