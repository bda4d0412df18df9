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

/// One of this package.
pub(crate) fn path(name: &str) -> PathBuf {
    env::current_exe().expect("this program has a path").with_file_name(name)
}
