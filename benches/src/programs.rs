//! The programs that are measured and have to be built first.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Builds programs of this package, in the profile of this one: `cargo run` builds this program only, and those of another
/// profile would be found in another directory.
pub(crate) fn build(which: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--package", "benches"]).args(which);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().is_ok_and(|status| status.success()), "the programs to measure do not build");
}

/// One of this package that is a cluster. What a developer's shell may have set for clusters would change what is measured.
pub(crate) fn cluster(name: &str) -> Command {
    let mut command = Command::new(path(name));
    let settings = env::vars_os().map(|(name, _)| name);
    let settings = settings.filter(|name| name == "WEB_CONCURRENCY" || name.to_string_lossy().starts_with("CLUSTER_"));
    settings.for_each(|name| _ = command.env_remove(name));
    command
}

/// One of this package.
pub(crate) fn path(name: &str) -> PathBuf {
    env::current_exe().expect("this program has a path").with_file_name(name)
}
