//! A program that measures itself.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::figure::{Figure, Traffic};
use super::options::Options;
use super::peer::Peer;
use crate::lines::Lines;
use crate::process;
use crate::results::Samples;
use crate::running::end;

/// One that runs; ended by being dropped.
pub(super) struct Talk {
    child: Child,
    pub(super) lines: Lines,
    /// Taken by `drop`, and else by nobody.
    stdin: Option<ChildStdin>,
}

/// What a program has done while it counted.
pub(super) struct Done {
    operations: f64,
    took: Duration,
    /// CPU time of the whole process tree.
    spent: Duration,
}

/// The longest that a program is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

impl Talk {
    pub(super) fn start(mut command: Command, options: &Options) -> Result<Self, String> {
        command.env("SPAN", options.span().as_millis().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{command:?} does not start: {error}"))?;
        let lines = Lines::of(child.stdout.take().expect("it was asked for"));
        let stdin = child.stdin.take();
        Ok(Self { child, lines, stdin })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on.
    pub(super) fn say_go(&mut self) -> Result<(), String> {
        let stdin = self.stdin.as_mut().expect("it is taken by drop only");
        stdin.write_all(b"go\n").map_err(|error| format!("the program does not listen: {error}"))
    }

    /// Waits until it has done its next part, which has this name.
    pub(super) fn done(&self, name: &str) -> Result<Done, String> {
        self.lines.find(&format!("begin {name}"), PATIENCE, |line| match line.strip_prefix("begin ")? {
            begun if begun == name => Some(Ok(())),
            other => Some(Err(format!("{other} begins instead of {name}"))),
        })?;
        let before = process::tree_cpu_time(self.pid());
        let (operations, nanoseconds) = self.lines.find(&format!("end {name}"), PATIENCE, |line| {
            let (operations, nanoseconds) = line.strip_prefix(&format!("end {name} "))?.split_once(' ')?;
            Some(Ok((operations.parse().ok()?, nanoseconds.parse().ok()?)))
        })?;
        let spent = process::tree_cpu_time(self.pid()).saturating_sub(before);
        Ok(Done { operations, took: Duration::from_nanos(nanoseconds), spent })
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stdin = None;
        end(&mut self.child);
    }
}

impl Done {
    /// Adds the rate and the CPU time.
    pub(super) fn add_to(&self, samples: &mut Samples<Figure>, traffic: Traffic, peer: Peer) {
        let rate = self.operations / self.took.as_secs_f64();
        samples.add(Figure::Rate(traffic), peer.name(), rate / traffic.rate_unit().1);
        let cpu = self.spent.as_secs_f64() * 1e9 / self.operations;
        samples.add(Figure::Cpu(traffic), peer.name(), cpu / traffic.cpu_unit().1);
    }

    /// What each operation took, in µs, if one followed the other.
    pub(super) fn each(&self) -> f64 {
        self.took.as_secs_f64() * 1e6 / self.operations
    }
}
