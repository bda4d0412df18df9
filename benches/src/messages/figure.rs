//! What there is to know of messages.

use std::fmt::{self, Display, Formatter};
use std::process::Command;

use crate::results::Quantity;

/// One kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Figure {
    /// Operations a second.
    Rate(Traffic),
    /// Of the whole process tree, for an operation.
    Cpu(Traffic),
    /// µs from a question to its answer.
    RoundTrip(Cores),
    RequestsPerSecond(Service),
    /// µs of the whole process tree for a request.
    RequestCpu(Service),
    /// ns that the addition to a counter takes, and how much of that in the kernel.
    Addition,
    AdditionInKernel,
    /// How often the thread slept during all additions.
    Slept,
    /// MiB of the primary, with its share of common pages, before a flood of messages of so many bytes; and what it grows by.
    Memory {
        size: usize,
    },
    Growth {
        size: usize,
    },
    ResidentGrowth {
        size: usize,
    },
    /// ms from the order to end until `shutdown()` completes.
    Told(Worker, Primary),
}

/// Who says what to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Traffic {
    Up,
    Down,
    Call(Cores),
    Pipelined,
    Echo(Payload, usize, Cores),
    Bulk,
}

/// Where the processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cores {
    /// Where the kernel puts them.
    Any,
    /// Together on one, where to wake each other is to change from one to the other.
    One,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Payload {
    String,
    Object,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Hello,
    /// A message for each request.
    Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worker {
    Idle,
    Flooding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Primary {
    Reads,
    NeverReads,
}

/// Bytes of the messages that flood the primary.
pub(super) const SIZES: [usize; 2] = [16, 1 << 20];
/// How many messages are echoed at once.
pub(super) const AT_ONCE: [usize; 3] = [1, 10, 100];

impl Traffic {
    /// In what the rate is shown, and how many operations a second that is.
    pub(super) fn rate_unit(self) -> (&'static str, f64) {
        match self {
            Self::Up | Self::Down => ("million messages a second", 1e6),
            Self::Call(_) | Self::Pipelined => ("thousand calls a second", 1e3),
            Self::Echo(..) => ("thousand a second", 1e3),
            Self::Bulk => ("MiB a second", 1.0),
        }
    }

    /// In what the CPU time is shown, and how many ns that is.
    pub(super) fn cpu_unit(self) -> (&'static str, f64) {
        match self {
            Self::Up | Self::Down => ("ns for a message", 1.0),
            Self::Call(_) | Self::Pipelined => ("µs for a call", 1e3),
            Self::Echo(..) => ("µs", 1e3),
            Self::Bulk => ("µs for a MiB", 1e3),
        }
    }
}

impl Quantity for Figure {
    fn is_count(self) -> bool {
        matches!(self, Self::Slept)
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(traffic) => write!(f, "{traffic}, {}", traffic.rate_unit().0),
            Self::Cpu(traffic) => write!(f, "{traffic}, CPU {}", traffic.cpu_unit().0),
            Self::RoundTrip(cores) => write!(f, "one call at a time{cores}, µs until the answer"),
            Self::RequestsPerSecond(service) => write!(f, "{service}, requests per second"),
            Self::RequestCpu(service) => write!(f, "{service}, CPU µs per request"),
            Self::Addition => write!(f, "an addition (ns)"),
            Self::AdditionInKernel => write!(f, "of it in the kernel (ns)"),
            Self::Slept => write!(f, "times that the thread slept"),
            Self::Memory { size } => write!(f, "before messages of {size} bytes (MiB)"),
            Self::Growth { size } => write!(f, "growth by messages of {size} bytes (MiB)"),
            Self::ResidentGrowth { size } => write!(f, "the same, RSS, {size} bytes (MiB)"),
            Self::Told(worker, primary) => write!(f, "{worker}, {primary} (ms)"),
        }
    }
}

impl Display for Traffic {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("worker to primary"),
            Self::Down => f.write_str("primary to worker"),
            Self::Call(cores) => write!(f, "one call at a time{cores}"),
            Self::Pipelined => f.write_str("64 calls at once"),
            Self::Echo(payload, at_once, cores) => write!(f, "{payload} × {at_once}{cores}"),
            Self::Bulk => f.write_str("1 MiB each"),
        }
    }
}

impl Cores {
    pub(super) const ALL: [Self; 2] = [Self::Any, Self::One];

    /// Has the command run there, and what it starts.
    pub(super) fn place(self, command: Command) -> Command {
        match self {
            Self::Any => command,
            Self::One => {
                let mut placed = Command::new("taskset");
                placed.args(["--cpu-list", "0"]).arg(command.get_program()).args(command.get_args());
                placed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                placed
            }
        }
    }
}

impl Display for Cores {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "",
            Self::One => ", on one core",
        })
    }
}

impl Payload {
    pub(super) const ALL: [Self; 2] = [Self::String, Self::Object];
}

impl Display for Payload {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::String => "string",
            Self::Object => "object",
        })
    }
}

impl Service {
    pub(super) const ALL: [Self; 2] = [Self::Hello, Self::Counter];
}

impl Display for Service {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::Counter => "counter",
        })
    }
}

impl Display for Worker {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle worker",
            Self::Flooding => "flooding worker",
        })
    }
}

impl Primary {
    pub(super) const ALL: [Self; 2] = [Self::Reads, Self::NeverReads];
}

impl Display for Primary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reads => "primary reads",
            Self::NeverReads => "primary never reads",
        })
    }
}
