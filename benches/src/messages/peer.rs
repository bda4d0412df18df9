//! Who talks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::peer::find_node;
use crate::programs;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Peer {
    /// This library.
    Cluster,
    /// A socket between the processes of a cluster, with nothing on top.
    Bare,
    NodeJson,
    NodeAdvanced,
    IpcChannel,
    Tarpc,
}

impl Peer {
    pub(super) const ALL: [Self; 6] =
        [Self::Cluster, Self::Bare, Self::NodeJson, Self::NodeAdvanced, Self::IpcChannel, Self::Tarpc];

    /// Node, by its two ways to write a message down.
    pub(super) const NODE: [Self; 2] = [Self::NodeJson, Self::NodeAdvanced];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Bare => "bare socket",
            Self::NodeJson => "node-json",
            Self::NodeAdvanced => "node-advanced",
            Self::IpcChannel => "ipc-channel",
            Self::Tarpc => "tarpc",
        }
    }

    pub(super) fn is_installed(self) -> bool {
        match self {
            Self::Cluster | Self::Bare => programs::path(TALKING).exists(),
            Self::NodeJson | Self::NodeAdvanced => find_node().is_some(),
            Self::IpcChannel | Self::Tarpc => rivals().exists(),
        }
    }

    /// How to run one of its programs.
    pub(super) fn command(self, arguments: &[&str]) -> Command {
        let mut command = match self {
            Self::Cluster | Self::Bare => programs::cluster(TALKING),
            Self::NodeJson => node_talking("json"),
            Self::NodeAdvanced => node_talking("advanced"),
            Self::IpcChannel | Self::Tarpc => Command::new(rivals()),
        };
        command.args(arguments);
        command
    }
}

/// The program of this library's side.
const TALKING: &str = "talking";

fn node_talking(serialization: &str) -> Command {
    let mut node = node();
    node.env("SERIALIZATION", serialization).arg(script("node-talking.js"));
    node
}

pub(super) fn node() -> Command {
    Command::new(find_node().expect("only installed peers are run"))
}

/// A program for Node that stands beside this package's own.
pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("apps").join(name)
}

/// Builds the programs of other crates, which are no part of the workspace; without the network it may be that they cannot be had.
pub(super) fn build_rivals() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("rivals/Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "--manifest-path"]).arg(manifest);
    let built = cargo.arg("--target-dir").arg(rivals_target()).status();
    if !built.is_ok_and(|status| status.success()) {
        // One of another day would be measured in its place.
        _ = fs::remove_file(rivals());
    }
}

fn rivals() -> PathBuf {
    rivals_target().join("release/rivals")
}

/// Beside the directory of this program.
fn rivals_target() -> PathBuf {
    let program = env::current_exe().expect("this program has a path");
    program.parent().expect("and stands in a directory").with_file_name("rivals")
}
