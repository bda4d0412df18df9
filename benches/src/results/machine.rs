//! What the figures were measured on, and what of.

use std::path::Path;
use std::{env, fs, thread};

use crate::peer::Peer;
use crate::wrk;

/// One line for the machine, and one for the versions.
pub(crate) fn note(installed: &[&Peer]) -> String {
    format!("Machine: {}.\nVersions: {}.\n", describe(), versions(installed).join(", "))
}

/// What the machine is.
pub(crate) fn describe() -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(env::consts::ARCH, |(_, name)| name.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What follows the number is the builder's.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    format!("{cores} cores ({model}), shared with the client; Linux {kernel}")
}

fn versions(installed: &[&Peer]) -> Vec<String> {
    let mut all = locked("../Cargo.lock", &["axum", "hyper", "tokio"]);
    for peer in installed {
        let family = peer.name.split('-').next().unwrap_or(peer.name);
        all.extend(peer.version().map(|version| format!("{family} {version}")));
    }
    all.dedup();
    all.extend(wrk::version().map(|version| format!("wrk {version}")));
    all
}

/// The versions of crates that a lock file has, which is found from this package.
pub(crate) fn locked(lock: &str, names: &[&str]) -> Vec<String> {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(lock)).unwrap_or_default();
    let version = |name: &str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", rest.split_once('"')?.0))
    };
    names.iter().filter_map(|name| version(name)).collect()
}
