//! What there is to know of a peer.

use std::fmt::{self, Display, Formatter};

use super::Quantity;
use crate::wrk::Load;

/// One kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    PerSecond(Load),
    /// µs of the whole process tree for a request.
    Cpu(Load),
    /// Most by mean of the connections of a worker, if they are kept.
    Kept {
        workers: usize,
    },
    /// The same, if each follows the last.
    Sequential,
    /// ms that a light request takes.
    Light(Beside, Rank),
    /// ms from the spawn of the program to its first answer.
    StartToServing,
    /// ms from the kill of all workers to the next answer.
    CrashToServing,
    /// MiB of a worker.
    IdlePrivate,
    IdleProportional,
    LoadedPrivate,
    LoadedProportional,
    /// Clients without an answer, because one of the workers was killed.
    Lost,
    /// Those of them who fared so.
    LostTo(Fate),
}

/// The worker counts over which kept connections are spread, ascending.
pub(crate) const KEPT_OVER: [usize; 3] = [2, 4, 8];

/// What goes on beside the light requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Beside {
    Nobody,
    /// One worker is kept busy.
    Report,
    /// An unrelated process burns a core.
    Spinner,
}

/// How a client fares who gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Refused,
    /// Or closed before the answer was complete.
    Reset,
    /// The client gave up.
    Unanswered,
}

/// Which of many latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Half,
    NinetyNine,
    Last,
}

impl Quantity for Figure {
    fn is_count(self) -> bool {
        matches!(self, Self::Lost | Self::LostTo(_))
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(load) => write!(f, "requests per second, {load}"),
            Self::Cpu(load) => write!(f, "CPU µs per request, {load}"),
            Self::Kept { workers } => write!(f, "64 kept connections over {workers}"),
            Self::Sequential => write!(f, "800 sequential connections over 8"),
            Self::Light(beside, rank) => write!(f, "{rank}, {beside}"),
            Self::StartToServing => write!(f, "start to first answer (ms)"),
            Self::CrashToServing => write!(f, "all workers killed to next answer (ms)"),
            Self::IdlePrivate => write!(f, "idle worker, private (MiB)"),
            Self::IdleProportional => write!(f, "idle worker, proportional (MiB)"),
            Self::LoadedPrivate => write!(f, "after load, private (MiB)"),
            Self::LoadedProportional => write!(f, "after load, proportional (MiB)"),
            Self::Lost => write!(f, "clients lost"),
            Self::LostTo(fate) => write!(f, "{fate}"),
        }
    }
}

impl Display for Load {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "keep-alive",
            Self::Each => "a connection each",
        })
    }
}

impl Beside {
    pub(crate) const ALL: [Self; 3] = [Self::Nobody, Self::Report, Self::Spinner];
}

impl Display for Beside {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody busy",
            Self::Report => "one worker busy",
            Self::Spinner => "unrelated process busy",
        })
    }
}

impl Fate {
    pub(crate) const ALL: [Self; 3] = [Self::Refused, Self::Reset, Self::Unanswered];
}

impl Display for Fate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unanswered => "unanswered",
        })
    }
}

impl Rank {
    pub(crate) const ALL: [Self; 3] = [Self::Half, Self::NinetyNine, Self::Last];

    /// Of ascending values, of which there must be some.
    pub(crate) fn of<T: Copy>(self, values: &[T]) -> T {
        let percent = match self {
            Self::Half => 50,
            Self::NinetyNine => 99,
            Self::Last => 100,
        };
        values[(values.len() * percent).div_ceil(100) - 1]
    }
}

impl Display for Rank {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Half => "p50",
            Self::NinetyNine => "p99",
            Self::Last => "most",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Rank;

    #[test]
    fn one_of_a_hundred_is_slower_than_the_99th_percentile() {
        let values: Vec<usize> = (1..=800).collect();
        assert_eq!(Rank::ALL.map(|rank| rank.of(&values)), [400, 792, 800]);
        assert_eq!(Rank::ALL.map(|rank| rank.of(&[7])), [7, 7, 7]);
    }
}
