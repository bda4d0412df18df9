//! What a user can set, where it comes from, and what is refused.
//!
//! Order of precedence: environment, then attribute or [`Config`], then default. Everything is checked once, in the
//! primary, before anything is spawned.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;

use crate::ipc::{Expansion, Limits};
use crate::listen::{Dispatch, Sticky};
use crate::setup::Setup;
use crate::supervisor::{self, Restart};

/// The settings of a cluster: what `#[cluster::main(…)]` says, as plain code.
///
/// ```no_run
/// use std::time::Duration;
/// use cluster::{Config, Restart, Workers};
///
/// async fn app() -> cluster::Result {
///     cluster::listen("127.0.0.1:3000").await?;
///     cluster::worker().shutdown().await;
///     Ok(())
/// }
///
/// fn main() -> cluster::Result {
///     let config = Config::new().workers(Workers::Auto).restart(Restart::Always).grace(Duration::from_secs(30));
///     cluster::run(config, app)
/// }
/// ```
///
/// Setters only record; values are checked when [`run`](crate::run) starts the primary, and a wrong one ends the program
/// with exit code 2 and a message that names the remedy. Each setting has an environment variable that wins over it.
#[derive(Clone, Debug)]
#[must_use = "a Config does nothing until it is given to cluster::run"]
pub struct Config<P = NoPrimary> {
    workers: Workers,
    /// All the others; the number of workers in it is not used.
    settings: Settings,
    primary: P,
}

/// Stands in a [`Config`] for "no primary function was given".
#[derive(Clone, Copy, Debug)]
pub struct NoPrimary;

/// How many workers a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// One for each core that this process may use: the affinity mask and the cgroup's CPU quota are respected, the quota
    /// rounded down, never less than one.
    #[default]
    Auto,
    /// Exactly this many, from 1 to 1024.
    Count(usize),
}

impl From<usize> for Workers {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// The defaults: a worker per core, one thread each, connections balanced, restarted always and never recycled, 30 s to become
    /// ready, 30 s to drain, 60 s until the watchdog bites.
    pub const fn new() -> Self {
        Self { workers: Workers::Auto, settings: Settings::DEFAULT, primary: NoPrimary }
    }
}

impl<P> Config<P> {
    /// How many workers: a number or [`Workers::Auto`]. Environment: `CLUSTER_WORKERS` (a number or `auto`), and where that
    /// is not set, `WEB_CONCURRENCY`.
    pub fn workers(mut self, workers: impl Into<Workers>) -> Self {
        self.workers = workers.into();
        self
    }

    /// Threads of each worker's runtime, 1 to 1024; with 1 it is tokio's current-thread runtime. Environment:
    /// `CLUSTER_THREADS`.
    pub fn threads(mut self, threads: usize) -> Self {
        self.settings.threads = threads;
        self
    }

    /// How new connections are spread over the workers: a [`Dispatch`], a [`Sticky`], or a [`Placement`](crate::Placement) of
    /// your own. Environment: `CLUSTER_DISPATCH` (`balanced`, `kernel`, `round-robin`, `sticky`).
    pub fn dispatch(mut self, dispatch: impl Into<Dispatch>) -> Self {
        self.settings.dispatch = dispatch.into();
        self
    }

    /// Which ends of a worker are followed by a replacement. Environment: `CLUSTER_RESTART` (`always`, `on-failure`,
    /// `never`).
    pub fn restart(mut self, restart: Restart) -> Self {
        self.settings.restart = restart;
        self
    }

    /// How long a worker may take from spawn to ready; then it is killed and counts as failed. More than zero, at most a
    /// day. Environment: `CLUSTER_START_TIMEOUT` (such as `30s`).
    pub fn start_timeout(mut self, start_timeout: Duration) -> Self {
        self.settings.start_timeout = start_timeout;
        self
    }

    /// The longest that a stop takes: what a worker has not finished by then is cut and the worker killed. Zero kills at
    /// once; at most a day. Environment: `CLUSTER_GRACE` (such as `30s`).
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How long the workers go on serving, [no longer healthy](crate::CurrentWorker::is_healthy), after TERM and before they drain: time
    /// for a load balancer to stop sending. It comes on top of the grace period; Ctrl-C and
    /// [`shutdown`](crate::PrimaryHandle::shutdown) do not wait for it. By default zero; at most a day. Environment:
    /// `CLUSTER_DRAIN_DELAY` (such as `5s`).
    pub fn drain_delay(mut self, drain_delay: Duration) -> Self {
        self.settings.drain_delay = drain_delay;
        self
    }

    /// Over how much of the grace period a worker that drains spreads the end of connections that idle or last, so that their clients do
    /// not all come back at one moment. By default zero, and never more than half of the grace period. Environment:
    /// `CLUSTER_DRAIN_SPREAD` (such as `10s`).
    pub fn drain_spread(mut self, drain_spread: Duration) -> Self {
        self.settings.drain_spread = drain_spread;
        self
    }

    /// How many successors may start at a time in a reload, 1 to 1024: so many processes there are at most in addition to those that
    /// serve and those that drain. Environment: `CLUSTER_SURGE`.
    pub fn surge(mut self, surge: usize) -> Self {
        self.settings.surge = surge;
        self
    }

    /// How long a worker's runtime may be stuck, all its threads at one thing each, before the worker is aborted and replaced; by default
    /// 60 s. `None` is off; else a second at least and a day at most. Environment: `CLUSTER_WATCHDOG` (such as `60s`, or `off`).
    pub fn watchdog(mut self, watchdog: Option<Duration>) -> Self {
        self.settings.watchdog = watchdog;
        self
    }

    /// After how many HTTP requests (of a worker that only uses [`listen`](crate::listen()): connections) a worker is replaced, up to a tenth
    /// earlier so that not all are at the same time; by default never. It is replaced soon after, and its successor is ready before it
    /// leaves. Environment: `CLUSTER_MAX_REQUESTS` (a number, or `off`).
    pub fn max_requests(mut self, max_requests: Option<u64>) -> Self {
        self.settings.max_requests = max_requests;
        self
    }

    /// How long after it was ready a worker is replaced, up to a tenth earlier so that not all are at the same time; by default never. Its
    /// successor is ready before it leaves. A second at least, a year at most. Environment: `CLUSTER_MAX_AGE` (such as `12h`, or `off`).
    pub fn max_age(mut self, max_age: Option<Duration>) -> Self {
        self.settings.max_age = max_age;
        self
    }

    /// From how many bytes of resident memory (RSS, pages shared with other workers included) on a worker is replaced; by default never.
    /// Looked at once a second while the worker has something to do. Its successor is ready before it leaves. Environment:
    /// `CLUSTER_MAX_MEMORY` (such as `512MiB`, or `off`).
    pub fn max_memory(mut self, max_memory: Option<u64>) -> Self {
        self.settings.max_memory = max_memory;
        self
    }

    /// How many bytes a message, or an answer, may take when encoded; by default 64 MiB, 128 KiB at least and 1 GiB at most. What is larger
    /// is refused where it is sent. What the primary is set to holds for its workers. Environment: `CLUSTER_MAX_MESSAGE` (such as `64MiB`).
    ///
    /// A worker keeps what held when it was started: an upgrade that changes it does so for the workers that come. Between two workers of
    /// whom one is of before, the smaller limit holds.
    ///
    /// It bounds what another process can make this one hold: each connection for messages has up to two of this size each way, sent
    /// and not taken.
    pub fn max_message(mut self, max_message: u64) -> Self {
        self.settings.max_message = max_message;
        self
    }

    /// How many times as much memory as its encoded bytes a message, or an answer, may take when decoded; by default 16, at least 1 and at most
    /// 1024. Below 1 MiB of memory it may take any. What takes more is refused where it is received: a worker that sends it to the primary is
    /// killed and replaced, and so the primary's memory is bounded by what it is sent and not by what that claims to be. Environment:
    /// `CLUSTER_MAX_EXPANSION` (such as `16`).
    ///
    /// The size of each element of a collection counts, and of what is in a box. An enum is as large as its largest variant: a
    /// `Vec` of an enum with a large variant and small values is what may need more. Box the large variant, or raise this.
    pub fn max_expansion(mut self, max_expansion: u32) -> Self {
        self.settings.max_expansion = max_expansion;
        self
    }

    /// What the worker processes run in: environment, directory, output, user, limits, cores. By default, all of it is the primary's.
    pub fn setup(mut self, setup: Setup) -> Self {
        self.settings.setup = setup;
        self
    }

    /// Whether the primary keeps quiet on stderr while no `tracing` subscriber is installed. Environment: `CLUSTER_QUIET`
    /// (`true`, `false`).
    pub fn quiet(mut self, quiet: bool) -> Self {
        self.settings.quiet = quiet;
        self
    }

    /// The function that runs in the primary, on a thread and a runtime of its own, and gets the cluster's
    /// [events](crate::Event).
    ///
    /// When it returns an error or panics, the cluster stops gracefully with exit code 1 (a program built with `panic = "abort"`
    /// ends at once, and the workers drain without it). When it returns `Ok` early, the cluster goes on, and what workers send is
    /// dropped from then on. It is also the place to install a `tracing` subscriber for the primary, as `main` runs in the workers
    /// only. Programs that it starts begin with TTIN and TTOU blocked, which are orders to the primary.
    pub fn primary<F>(self, primary: F) -> Config<F> {
        let Self { workers, settings, primary: _ } = self;
        Config { workers, settings, primary }
    }

    /// The settings that hold, and the primary function.
    pub(crate) fn resolve(self) -> Result<(Settings, P), ConfigError> {
        let settings = self.settings(|name| std::env::var_os(name))?;
        Ok((settings, self.primary))
    }

    fn settings(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, ConfigError> {
        let read = |key| Variable::read(key, &variable);
        let workers = match read("CLUSTER_WORKERS")?.or(read("WEB_CONCURRENCY")?) {
            Some(workers) => workers.workers()?,
            None => self.workers,
        };
        let code = self.settings.clone();
        let settings = Settings {
            workers: match workers {
                Workers::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
                Workers::Count(count) => count,
            },
            threads: read("CLUSTER_THREADS")?.map_or(Ok(code.threads), |v| v.number())?,
            dispatch: read("CLUSTER_DISPATCH")?.map_or(Ok(code.dispatch), |v| v.dispatch())?,
            restart: read("CLUSTER_RESTART")?.map_or(Ok(code.restart), |v| v.restart())?,
            start_timeout: read("CLUSTER_START_TIMEOUT")?.map_or(Ok(code.start_timeout), |v| v.duration())?,
            grace: read("CLUSTER_GRACE")?.map_or(Ok(code.grace), |v| v.duration())?,
            drain_delay: read("CLUSTER_DRAIN_DELAY")?.map_or(Ok(code.drain_delay), |v| v.duration())?,
            drain_spread: read("CLUSTER_DRAIN_SPREAD")?.map_or(Ok(code.drain_spread), |v| v.duration())?,
            surge: read("CLUSTER_SURGE")?.map_or(Ok(code.surge), |v| v.number())?,
            watchdog: read("CLUSTER_WATCHDOG")?.map_or(Ok(code.watchdog), |v| v.unless_off(Variable::duration))?,
            max_requests: read("CLUSTER_MAX_REQUESTS")?
                .map_or(Ok(code.max_requests), |v| v.unless_off(Variable::requests))?,
            max_age: read("CLUSTER_MAX_AGE")?.map_or(Ok(code.max_age), |v| v.unless_off(Variable::duration))?,
            max_memory: read("CLUSTER_MAX_MEMORY")?.map_or(Ok(code.max_memory), |v| v.unless_off(Variable::memory))?,
            max_message: read("CLUSTER_MAX_MESSAGE")?.map_or(Ok(code.max_message), |v| v.message())?,
            max_expansion: read("CLUSTER_MAX_EXPANSION")?
                .map_or(Ok(code.max_expansion), |v| v.number().map(|times| times as u32))?,
            setup: code.setup,
            quiet: read("CLUSTER_QUIET")?.map_or(Ok(code.quiet), |v| v.switch())?,
        };
        settings.check()
    }
}

/// What holds for this cluster, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) threads: usize,
    pub(crate) dispatch: Dispatch,
    pub(crate) restart: Restart,
    pub(crate) start_timeout: Duration,
    pub(crate) grace: Duration,
    pub(crate) drain_delay: Duration,
    pub(crate) drain_spread: Duration,
    pub(crate) surge: usize,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) max_requests: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    /// In bytes.
    pub(crate) max_memory: Option<u64>,
    /// In bytes.
    pub(crate) max_message: u64,
    /// How many times its bytes.
    pub(crate) max_expansion: u32,
    /// Checked by the primary alone, as what is right for it need not be right for a worker that has given up its privileges.
    pub(crate) setup: Setup,
    pub(crate) quiet: bool,
}

/// More workers or threads than anyone means; a typing error is more likely.
pub(crate) const MOST: usize = 1024;
/// The longest time that most settings may name.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How large the largest message may be: so that it is ever in pieces, and so that two of them fit into an address space and into
/// the state that an upgrade carries over.
pub(crate) const MESSAGES: RangeInclusive<u64> = 128 << 10..=1 << 30;
/// The longest that a worker may be told to live.
const LONGEST_AGE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl Settings {
    const DEFAULT: Self = Self {
        workers: 0,
        threads: 1,
        dispatch: Dispatch::Balanced,
        restart: Restart::Always,
        start_timeout: Duration::from_secs(30),
        grace: Duration::from_secs(30),
        drain_delay: Duration::ZERO,
        drain_spread: Duration::ZERO,
        surge: 1,
        watchdog: Some(Duration::from_secs(60)),
        max_requests: None,
        max_age: None,
        max_memory: None,
        max_message: 64 << 20,
        max_expansion: 16,
        setup: Setup::new(),
        quiet: false,
    };

    /// What holds for the messages that this process receives.
    pub(crate) const fn limits(&self) -> Limits {
        Limits { message: self.max_message as usize, expansion: Expansion::new(self.max_expansion) }
    }

    /// What the supervisor has to know of them.
    pub(crate) const fn supervision(&self) -> supervisor::Settings {
        let Self { workers, restart, start_timeout, grace, drain_delay, surge, max_age, .. } = *self;
        supervisor::Settings { slots: workers, restart, start_timeout, grace, drain_delay, surge, max_age }
    }

    fn check(self) -> Result<Self, ConfigError> {
        let second_to_day = Duration::from_secs(1)..=LONGEST;
        let counts = [("workers", self.workers, ", or \"auto\" for one per core"), ("threads", self.threads, "")];
        for (name, count, or_else) in counts.into_iter().chain([("surge", self.surge, "")]) {
            if !(1..=MOST).contains(&count) {
                return Err(ConfigError(format!("{name} is {count}; set 1 to {MOST}{or_else}")));
            }
        }
        if self.start_timeout.is_zero() || self.start_timeout > LONGEST {
            let time = self.start_timeout;
            return Err(ConfigError(format!("start_timeout is {time:?}; set more than 0s and at most 24h")));
        }
        let times = [("grace", self.grace), ("drain_delay", self.drain_delay), ("drain_spread", self.drain_spread)];
        if let Some((name, time)) = times.into_iter().find(|(_, time)| *time > LONGEST) {
            return Err(ConfigError(format!("{name} is {time:?}; set at most 24h")));
        }
        if let Some(time) = self.watchdog.filter(|time| !second_to_day.contains(time)) {
            return Err(ConfigError(format!("watchdog is {time:?}; set 1s to 24h, or turn it off")));
        }
        if let Some(age) = self.max_age.filter(|age| *age < Duration::from_secs(1) || *age > LONGEST_AGE) {
            return Err(ConfigError(format!("max_age is {age:?}; set 1s to 366 days, or turn it off")));
        }
        if self.max_requests == Some(0) || self.max_memory == Some(0) {
            return Err(ConfigError("max_requests and max_memory cannot be 0; set more, or turn them off".into()));
        }
        if !MESSAGES.contains(&self.max_message) {
            return Err(ConfigError(format!("max_message is {} bytes; set 128KiB to 1GiB", self.max_message)));
        }
        if !(1..=MOST).contains(&(self.max_expansion as usize)) {
            return Err(ConfigError(format!("max_expansion is {}; set 1 to {MOST}", self.max_expansion)));
        }
        Ok(self)
    }
}

/// A setting that cannot be; the text names the remedy.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// An environment variable and its text, to be read as what the setting needs.
struct Variable {
    name: &'static str,
    text: String,
}

impl Variable {
    /// A variable that is set to nothing counts as not set, as shells and container files make it easy to do.
    fn read(name: &'static str, variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, ConfigError> {
        match variable(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) if text.trim().is_empty() => Ok(None),
            Some(Ok(text)) => Ok(Some(Self { name, text: text.trim().to_owned() })),
            Some(Err(raw)) => Err(ConfigError(format!("{name} is not text: {raw:?}; set it anew or unset it"))),
        }
    }

    fn workers(&self) -> Result<Workers, ConfigError> {
        match self.text.as_str() {
            "auto" => Ok(Workers::Auto),
            _ => self.count("a number from 1 to 1024, or auto").map(Workers::Count),
        }
    }

    fn number(&self) -> Result<usize, ConfigError> {
        self.count("a number from 1 to 1024")
    }

    fn count(&self, wanted: &str) -> Result<usize, ConfigError> {
        let count = self.text.parse().ok().filter(|count| (1..=MOST).contains(count));
        count.ok_or_else(|| self.refuse(wanted))
    }

    fn dispatch(&self) -> Result<Dispatch, ConfigError> {
        match self.text.as_str() {
            "balanced" => Ok(Dispatch::Balanced),
            "kernel" => Ok(Dispatch::Kernel),
            "round-robin" => Ok(Dispatch::RoundRobin),
            "sticky" => Ok(Dispatch::Sticky(Sticky::address())),
            _ => Err(self.refuse("balanced, kernel, round-robin or sticky")),
        }
    }

    fn restart(&self) -> Result<Restart, ConfigError> {
        match self.text.as_str() {
            "always" => Ok(Restart::Always),
            "on-failure" => Ok(Restart::OnFailure),
            "never" => Ok(Restart::Never),
            _ => Err(self.refuse("always, on-failure or never")),
        }
    }

    fn duration(&self) -> Result<Duration, ConfigError> {
        let refuse = |_| self.refuse("a time with its unit, such as 30s or 500ms");
        let time = humantime::parse_duration(&self.text).map_err(refuse)?;
        let (range, wanted) = match self.name {
            "CLUSTER_START_TIMEOUT" => (Duration::from_nanos(1)..=LONGEST, "more than 0s and at most 24h"),
            "CLUSTER_WATCHDOG" => (Duration::from_secs(1)..=LONGEST, "1s to 24h, or off"),
            "CLUSTER_MAX_AGE" => (Duration::from_secs(1)..=LONGEST_AGE, "1s to 366days, or off"),
            _ => (Duration::ZERO..=LONGEST, "at most 24h"),
        };
        if range.contains(&time) { Ok(time) } else { Err(self.refuse(wanted)) }
    }

    fn requests(&self) -> Result<u64, ConfigError> {
        let number = self.text.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| self.refuse("a number of requests, or off"))
    }

    fn memory(&self) -> Result<u64, ConfigError> {
        self.size().filter(|bytes| *bytes > 0).ok_or_else(|| self.refuse("a size such as 512MiB, or off"))
    }

    fn message(&self) -> Result<u64, ConfigError> {
        self.size().filter(|bytes| MESSAGES.contains(bytes)).ok_or_else(|| self.refuse("a size of 128KiB to 1GiB"))
    }

    fn size(&self) -> Option<u64> {
        self.text.parse::<ByteSize>().map(|size| size.as_u64()).ok()
    }

    fn unless_off<T>(&self, read: impl Fn(&Self) -> Result<T, ConfigError>) -> Result<Option<T>, ConfigError> {
        if self.text == "off" { Ok(None) } else { read(self).map(Some) }
    }

    fn switch(&self) -> Result<bool, ConfigError> {
        match self.text.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.refuse("true or false")),
        }
    }

    fn refuse(&self, wanted: &str) -> ConfigError {
        ConfigError(format!("{}={:?} cannot be used; set it to {wanted}, or unset it", self.name, self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(config: &Config, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        config.settings(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_environment_wins_over_the_code() {
        let config = Config::new().workers(3).threads(2).restart(Restart::Never);
        let plain = with(&config, &[]).unwrap();
        assert_eq!((plain.workers, plain.threads, plain.restart), (3, 2, Restart::Never));
        let set = [
            ("CLUSTER_WORKERS", "5"),
            ("CLUSTER_THREADS", "7"),
            ("CLUSTER_DISPATCH", "round-robin"),
            ("CLUSTER_RESTART", "on-failure"),
            ("CLUSTER_START_TIMEOUT", "500ms"),
            ("CLUSTER_GRACE", "1m 30s"),
            ("CLUSTER_DRAIN_DELAY", "5s"),
            ("CLUSTER_DRAIN_SPREAD", "10s"),
            ("CLUSTER_SURGE", "2"),
            ("CLUSTER_WATCHDOG", "off"),
            ("CLUSTER_MAX_REQUESTS", "100000"),
            ("CLUSTER_MAX_AGE", "12h"),
            ("CLUSTER_MAX_MEMORY", "512MiB"),
            ("CLUSTER_MAX_MESSAGE", "1MiB"),
            ("CLUSTER_MAX_EXPANSION", "40"),
            ("CLUSTER_QUIET", "true"),
        ];
        let expected = Settings {
            workers: 5,
            threads: 7,
            dispatch: Dispatch::RoundRobin,
            restart: Restart::OnFailure,
            start_timeout: Duration::from_millis(500),
            grace: Duration::from_secs(90),
            drain_delay: Duration::from_secs(5),
            drain_spread: Duration::from_secs(10),
            surge: 2,
            watchdog: None,
            max_requests: Some(100_000),
            max_age: Some(Duration::from_secs(12 * 60 * 60)),
            max_memory: Some(512 << 20),
            max_message: 1 << 20,
            max_expansion: 40,
            setup: Setup::new(),
            quiet: true,
        };
        assert_eq!(with(&config, &set), Ok(expected));
    }

    #[test]
    fn web_concurrency_counts_only_where_cluster_workers_is_not_set() {
        let config = Config::new();
        assert_eq!(with(&config, &[("WEB_CONCURRENCY", "6")]).unwrap().workers, 6);
        assert_eq!(with(&config, &[("WEB_CONCURRENCY", "6"), ("CLUSTER_WORKERS", "2")]).unwrap().workers, 2);
        assert_eq!(with(&config, &[("WEB_CONCURRENCY", "6"), ("CLUSTER_WORKERS", "")]).unwrap().workers, 6);
    }

    #[test]
    fn auto_is_at_least_one_worker() {
        assert!(with(&Config::new(), &[("CLUSTER_WORKERS", "auto")]).unwrap().workers >= 1);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name_and_with_a_remedy() {
        let config = Config::new();
        for (name, value) in [
            ("CLUSTER_WORKERS", "0"),
            ("CLUSTER_WORKERS", "-1"),
            ("CLUSTER_WORKERS", "many"),
            ("CLUSTER_WORKERS", "1025"),
            ("WEB_CONCURRENCY", "two"),
            ("CLUSTER_THREADS", "0"),
            ("CLUSTER_DISPATCH", "fair"),
            ("CLUSTER_RESTART", "sometimes"),
            ("CLUSTER_START_TIMEOUT", "0s"),
            ("CLUSTER_START_TIMEOUT", "5"),
            ("CLUSTER_GRACE", "2days"),
            ("CLUSTER_GRACE", "soon"),
            ("CLUSTER_DRAIN_DELAY", "25h"),
            ("CLUSTER_SURGE", "0"),
            ("CLUSTER_WATCHDOG", "10ms"),
            ("CLUSTER_WATCHDOG", "never"),
            ("CLUSTER_MAX_MESSAGE", "100KiB"),
            ("CLUSTER_MAX_MESSAGE", "2GiB"),
            ("CLUSTER_MAX_MESSAGE", "off"),
            ("CLUSTER_MAX_EXPANSION", "0"),
            ("CLUSTER_MAX_EXPANSION", "1025"),
            ("CLUSTER_MAX_REQUESTS", "0"),
            ("CLUSTER_MAX_AGE", "0s"),
            ("CLUSTER_MAX_MEMORY", "much"),
            ("CLUSTER_QUIET", "maybe"),
        ] {
            let error = with(&config, &[(name, value)]).expect_err(name).to_string();
            assert!(error.contains("set "), "{name}={value}: {error}");
        }
        assert!(with(&config.workers(0), &[]).is_err());
    }

    #[test]
    fn a_value_that_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let error = Config::new().settings(|name| (name == "CLUSTER_GRACE").then(|| OsString::from_vec(vec![0xff])));
        assert!(error.unwrap_err().to_string().contains("CLUSTER_GRACE"));
    }
}
