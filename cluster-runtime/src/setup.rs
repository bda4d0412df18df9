//! What workers run in, as a user says it: [`Setup`]. `primary::workplace` checks it and makes it so.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::WorkerId;
use crate::boot::Identity;

/// What worker processes run in: environment, directory, output, user, limits, cores.
///
/// ```no_run
/// use cluster::{Affinity, Output, Resource, Setup};
///
/// fn setup() -> Setup {
///     Setup::new()
///         .user("www-data")                                   // the primary binds port 80
///         .ports(["0.0.0.0:443"])                             // and this one, should workers ask for it late
///         .output(Output::File("/var/log/app/{slot}.log".into()))
///         .rlimit(Resource::CoreFile, 0, 0)
///         .affinity(Affinity::Auto)
///         .each(|spawn| {
///             let shard = format!("shard-{}", spawn.slot());
///             spawn.env("SHARD", shard);
///         })
/// }
///
/// #[cluster::main(workers = "auto", setup = setup())]
/// async fn main() -> cluster::Result {
///     cluster::serve("0.0.0.0:80", axum::Router::new()).await
/// }
/// ```
///
/// It is for the workers alone: the primary stays as it was started, and what is not set here workers inherit from it. Their stdin is
/// always empty.
///
/// Workers evaluate the expression that makes it, too, as they do all settings, and make no use of it.
///
/// Setters only record; the primary checks everything before it spawns anything, and what cannot be ends the program with exit code 2
/// and a message that names the remedy. What the kernel refuses later, at a spawn, is a failed spawn that names the step.
///
/// With or without any of it, workers have a session of their own, so no controlling terminal, and no open file of the primary but
/// stdin, stdout and stderr: what the primary was started with is closed in them.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a Setup does nothing until it is given to a Config or to the attribute"]
pub struct Setup {
    pub(crate) surroundings: Surroundings,
    /// Name or number.
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
    /// As with a user, without: no.
    pub(crate) no_new_privs: Option<bool>,
    /// What `listen` takes.
    pub(crate) ports: Vec<String>,
    pub(crate) each: Option<Each>,
}

/// One worker that is about to be spawned, given to the closure of [`Setup::each`].
///
/// It starts from the [`Setup`]; what is set here is for this one worker.
#[derive(Debug)]
pub struct Spawn {
    pub(crate) identity: Identity,
    pub(crate) surroundings: Surroundings,
}

/// Where a worker's stdout and stderr go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// To where the primary's go.
    #[default]
    Inherit,
    /// To where the primary's go, too, but through the primary, which puts `slot=2 generation=1 worker=7 pid=812: ` before each line.
    ///
    /// Lines of different workers never mingle. One of more than 16 KiB is cut into pieces that have the prefix each; one without an end
    /// is written when the worker has ended. While nobody reads the primary's output, workers that go on writing are made to wait, as
    /// they would be without it in between; the primary itself is not.
    Prefixed,
    /// To the end of this file, which the primary opens (and makes, if it is not there), thus as the primary's user. `{slot}` and
    /// `{worker}` in the path are replaced by the worker's. A relative path starts in the primary's directory.
    ///
    /// USR1 to the primary has it opened anew for all workers, so that the file can be renamed before. The directory must not belong to
    /// the workers' user: whoever can put a link there chooses what the primary opens.
    File(PathBuf),
}

/// On which cores workers run. A core is what the kernel counts as one: a hardware thread.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Affinity {
    /// Each worker on one core, the slots in turn over those that the primary may use. With more than one
    /// [thread](crate::Config::threads) for each worker these share that core.
    Auto,
    /// On any of these, which must be among those that the primary may use.
    Cores(Vec<usize>),
}

/// Something of which a process may have only so much: what `setrlimit` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// Virtual memory, in bytes (`RLIMIT_AS`).
    AddressSpace,
    /// The size of a core dump, in bytes (`RLIMIT_CORE`).
    CoreFile,
    /// CPU time, in seconds (`RLIMIT_CPU`).
    CpuTime,
    /// Heap and data, in bytes (`RLIMIT_DATA`).
    Data,
    /// The size of a file that it writes, in bytes (`RLIMIT_FSIZE`).
    FileSize,
    /// Open descriptors, and with them connections (`RLIMIT_NOFILE`). Without a limit here, workers may have as many as the hard limit
    /// allows.
    Files,
    /// Memory that cannot be swapped out, in bytes (`RLIMIT_MEMLOCK`).
    LockedMemory,
    /// Processes and threads of its user (`RLIMIT_NPROC`).
    Processes,
    /// The stack of its main thread, in bytes (`RLIMIT_STACK`).
    Stack,
}

impl Setup {
    /// Everything as the primary has it.
    pub const fn new() -> Self {
        Self {
            surroundings: Surroundings::NONE,
            user: None,
            group: None,
            no_new_privs: None,
            ports: Vec::new(),
            each: None,
        }
    }

    /// Sets an environment variable; a later one of the same name wins.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.surroundings.env.push((key.into(), value.into()));
        self
    }

    /// The working directory. A relative path starts in the primary's. With a [`user`](Self::user), that one must be allowed to enter it.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.surroundings.cwd = Some(directory.into());
        self
    }

    /// Where stdout and stderr go.
    pub fn output(mut self, output: Output) -> Self {
        self.surroundings.output = output;
        self
    }

    /// The user that workers run as, by name or number, with its own group and its supplementary groups unless a
    /// [`group`](Self::group) is given.
    ///
    /// The primary must be root. It stays so, and binds the ports, so that workers without any privilege serve port 80. The user must
    /// be allowed to execute the program's file; the directories that lead there do not matter.
    ///
    /// What is given up does not come back:
    /// - no capability is left, neither held nor to be had, and [`no_new_privs`](Self::no_new_privs) is on;
    /// - `HOME`, `USER`, `LOGNAME` and `SHELL` are that user's (for a number without a name they are not set), unless
    ///   [`env`](Self::env) sets them;
    /// - once the first worker is ready, no port below 1024 (`net.ipv4.ip_unprivileged_port_start`) and no Unix socket with a path is
    ///   bound for workers any more, but for those that are bound already, and those of [`ports`](Self::ports).
    ///
    /// For root, by name or 0, nothing of this holds.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The one group that workers run as, by name or number; all others are given up. The primary must be root.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The ports and paths that workers with a [`user`](Self::user) may have bound at any time, in the forms that
    /// [`listen`](crate::listen()) takes; called again, these too. Without a user all can be had, and this changes nothing.
    ///
    /// ```
    /// let setup = cluster::Setup::new().user("www-data").ports(["0.0.0.0:443", "unix:/run/app.sock"]);
    /// ```
    ///
    /// It takes a privilege to bind a port below 1024, or a path in a directory of root's. Workers have given it up, so the primary binds
    /// for them, as root; and who has taken over a worker must not have it bind just anything. So it takes what they ask for before the first
    /// of them is ready, which is when its first `listen` has succeeded, and later only what is named here. A program that listens in
    /// one place needs none of this; one that listens in several, one after the other, names those behind the first. For other requests
    /// `listen` fails with `PermissionDenied`. The primary reads it when it starts and when it is upgraded, and not at a reload.
    pub fn ports(mut self, ports: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.ports.extend(ports.into_iter().map(Into::into));
        self
    }

    /// Whether neither workers nor what they start may gain privileges by executing a file (set-user-ID and the like). Default: with a
    /// [`user`](Self::user) they may not, without they may.
    ///
    /// A worker that has to run such a program, `sendmail` say, needs `false`. That program gets its user and group then, but no
    /// capabilities.
    pub fn no_new_privs(mut self, no_new_privs: bool) -> Self {
        self.no_new_privs = Some(no_new_privs);
        self
    }

    /// Limits a resource: `soft` is what holds, and a worker itself may raise it up to `hard`. `u64::MAX` is no limit.
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.surroundings.limit(resource, soft, hard);
        self
    }

    /// How far workers stand back where cores are scarce: 19 most, 0 not at all; below it, to −20, they push forward, which takes root.
    pub fn nice(mut self, nice: i32) -> Self {
        self.surroundings.nice = Some(nice);
        self
    }

    /// The cores that workers run on.
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.surroundings.affinity = Some(affinity);
        self
    }

    /// How willingly the kernel kills workers when memory runs out: 1000 first, 0 as their size suggests, −1000 never. A positive one
    /// makes it spare the primary. To go below the primary's own takes root.
    pub fn oom_score(mut self, oom_score: i32) -> Self {
        self.surroundings.oom_score = Some(oom_score);
        self
    }

    /// Calls `each` before every spawn, to change what is set for that one worker. The last closure given is the one that is called.
    ///
    /// It runs in the primary on the thread that supervises, so it must be quick and must not block. If it panics, that spawn fails, and
    /// is tried again as after any failed start. (In a program built with `panic = "abort"` the primary ends, and the workers drain.)
    pub fn each(mut self, each: impl Fn(&mut Spawn) + Send + Sync + 'static) -> Self {
        self.each = Some(Each(Arc::new(each)));
        self
    }
}

impl Spawn {
    /// The id of the worker.
    #[must_use]
    pub const fn worker(&self) -> WorkerId {
        self.identity.worker
    }

    /// The slot that it will fill, from 0.
    #[must_use]
    pub const fn slot(&self) -> usize {
        self.identity.slot
    }

    /// The generation that it belongs to, from 1.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.identity.generation
    }

    /// As [`Setup::env`].
    pub fn env(&mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.surroundings.env.push((key.into(), value.into()));
        self
    }

    /// As [`Setup::cwd`].
    pub fn cwd(&mut self, directory: impl Into<PathBuf>) -> &mut Self {
        self.surroundings.cwd = Some(directory.into());
        self
    }

    /// As [`Setup::output`].
    pub fn output(&mut self, output: Output) -> &mut Self {
        self.surroundings.output = output;
        self
    }

    /// As [`Setup::rlimit`].
    pub fn rlimit(&mut self, resource: Resource, soft: u64, hard: u64) -> &mut Self {
        self.surroundings.limit(resource, soft, hard);
        self
    }

    /// As [`Setup::nice`].
    pub fn nice(&mut self, nice: i32) -> &mut Self {
        self.surroundings.nice = Some(nice);
        self
    }

    /// As [`Setup::affinity`].
    pub fn affinity(&mut self, affinity: Affinity) -> &mut Self {
        self.surroundings.affinity = Some(affinity);
        self
    }

    /// As [`Setup::oom_score`].
    pub fn oom_score(&mut self, oom_score: i32) -> &mut Self {
        self.surroundings.oom_score = Some(oom_score);
        self
    }
}

/// What may differ from worker to worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Surroundings {
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) output: Output,
    /// Soft and hard, each resource once.
    pub(crate) limits: Vec<(Resource, u64, u64)>,
    pub(crate) nice: Option<i32>,
    pub(crate) affinity: Option<Affinity>,
    pub(crate) oom_score: Option<i32>,
}

impl Surroundings {
    const NONE: Self = Self {
        env: Vec::new(),
        cwd: None,
        output: Output::Inherit,
        limits: Vec::new(),
        nice: None,
        affinity: None,
        oom_score: None,
    };

    fn limit(&mut self, resource: Resource, soft: u64, hard: u64) {
        self.limits.retain(|(earlier, ..)| *earlier != resource);
        self.limits.push((resource, soft, hard));
    }
}

/// The user's closure; equal to its own clones only.
#[derive(Clone)]
pub(crate) struct Each(Arc<dyn Fn(&mut Spawn) + Send + Sync>);

impl Each {
    pub(crate) fn call(&self, spawn: &mut Spawn) {
        (self.0)(spawn);
    }
}

impl PartialEq for Each {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }
}

impl fmt::Debug for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fn(&mut Spawn)")
    }
}
